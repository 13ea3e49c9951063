"""What a learner and a retrain may be given that is wrong: one line that says what, where and what to do, and nothing is served that wasn't."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks._examples import START
from flows.examples.record import Kind
from flows.examples.rows import ExampleRows
from flows.settings import DAY_MS, Settings
from online_model.registry.registry import Registry
from online_model.registry.snapshots import numbers
from tests.processes import Ended, front_door
from tests.retrain.store import PARTITIONS, append, records

WithBase = Callable[..., Settings]
RETRAIN = ("retrain", "--once", "--as-of", START + 12 * DAY_MS, "--hold-back", "12h", "--calibrate", "12h", "--json")
LEARN = ("learn", "--once", "--ended", "--json")
LATE = START + 60 * DAY_MS
RETRAIN_ALL = ("retrain", "--once", "--as-of", LATE + 3 * DAY_MS, "--hold-back", "12h", "--calibrate", "12h", "--json")


class Typed:
    """The two commands, over a store with a base."""

    def __init__(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings, self._monkeypatch = settings, monkeypatch

    def __call__(self, *words: object, code: int | None = 0, **settings: Any) -> Ended:
        given = {"partitions": PARTITIONS, **settings}
        return front_door(*words, monkeypatch=self._monkeypatch, code=code, data=self.settings.data, **given)

    def refused(self, *words: object, code: int = 1, **settings: Any) -> str:
        """The one line that is said; and the base that was served is served still."""
        before = Registry.of(self.settings).current().base
        done = self(*words, code=code, **settings)
        assert done.err.startswith("tidemark: "), done.err
        assert done.err.count("\n") == 1, done.err
        assert "Traceback" not in done.err
        assert Registry.of(self.settings).current().base == before
        return done.err


@pytest.fixture
def typed(with_base: WithBase, monkeypatch: pytest.MonkeyPatch) -> Typed:
    return Typed(with_base(), monkeypatch)


def late(settings: Settings, kind: Kind = Kind.NEGATIVE, **changes: Any) -> ExampleRows:
    """A few records behind all others, with something changed: negatives, which a learner learns from, or final ones, as a retrain does."""
    rows = records(settings, 60)
    some = rows.take(np.flatnonzero(rows.kind == kind)[:8])
    return replace(some, **{"ready_time": np.full(len(some), LATE)} | {name: change(some) for name, change in changes.items()})


def in_window(settings: Settings, **changes: Any) -> None:
    """Final records that a retrain learns from, and sound ones behind them to judge by."""
    append(settings, late(settings, Kind.FINAL, **changes))
    append(settings, late(settings, Kind.FINAL, ready_time=lambda rows: np.full(len(rows), LATE + 3 * DAY_MS - 1)))


def with_counter(value: int) -> Callable[[ExampleRows], np.ndarray]:
    def changed(rows: ExampleRows) -> np.ndarray:
        counters = rows.pin_counters.copy()
        counters[0, 3] = value
        return counters

    return changed


def test_a_counter_that_can_not_be(typed: Typed) -> None:
    """The learner names the positions that it lies between."""
    append(typed.settings, late(typed.settings, pin_counters=with_counter(-1)))
    said = typed.refused(*LEARN)
    assert "log 'examples', positions " in said
    assert "counter" in said
    # Left out by these positions, it stops nobody.
    begin, end = said.split("positions ")[1].split(":")[0].split(" to ")
    assert typed("replay", "learner", "--skip", begin, end, "--json").json()["finished"]
    assert typed(*LEARN).json()["waiting"] == 0


def test_a_counter_that_can_not_be_in_a_window(typed: Typed) -> None:
    in_window(typed.settings, pin_counters=with_counter(-1))
    assert "counter" in typed.refused(*RETRAIN_ALL)


def test_a_huge_counter_is_learned_from(typed: Typed) -> None:
    """Nobody's rows become infinite by it."""
    append(typed.settings, late(typed.settings, pin_counters=with_counter(2**62)))
    assert typed(*LEARN).json()["records"] > 0
    registry = Registry.of(typed.settings)
    _, tables = registry.load(registry.start_for(registry.base(1), 1 << 40))
    assert all(np.isfinite(table["weights"]).all() for table in tables.values())


def test_numbers_that_nobody_knows_are_no_fault(typed: Typed) -> None:
    """A score or a propensity that is no number says that there is none."""
    unknown = {name: (lambda rows: np.full(len(rows), np.nan, np.float32)) for name in ("score", "propensity")}
    append(typed.settings, late(typed.settings, **unknown))
    assert typed(*LEARN).json()["records"] > 0


def test_a_label_that_is_none(typed: Typed) -> None:
    in_window(typed.settings, labels=lambda rows: np.full_like(rows.labels, 7))
    assert "a label is 7; labels are 0, 1 and -1" in typed.refused(*RETRAIN_ALL)


def test_an_empty_window(typed: Typed) -> None:
    said = typed.refused("retrain", "--once", "--as-of", START + 8 * DAY_MS, "--json", code=3)
    assert "there is nothing new" in said


def test_nothing_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = front_door(*LEARN, monkeypatch=monkeypatch, code=None, data=tmp_path / "none", partitions=PARTITIONS)
    assert (done.code > 0, done.err.count("\n")) == (True, 1)
    done = front_door("retrain", "--from-scratch", monkeypatch=monkeypatch, code=None, data=tmp_path / "none", partitions=PARTITIONS)
    assert (done.code > 0, done.err.count("\n")) == (True, 1)


def test_a_snapshot_that_is_damaged_is_passed_over(typed: Typed) -> None:
    """The learner goes on at an older one, or at the base, and ends where it would have."""
    typed(*LEARN)
    registry = Registry.of(typed.settings)
    base = registry.base(1)
    newest = base.path / "snapshots" / str(numbers(base)[0])
    whole = {path.name: path.read_bytes() for path in newest.iterdir()}
    path = newest / "user_table.safetensors"
    path.write_bytes(whole[path.name][:-9])
    typed(*LEARN)
    assert {path.name: path.read_bytes() for path in newest.iterdir()} == whole


def test_examples_of_another_fingerprint(typed: Typed) -> None:
    append(typed.settings, replace(late(typed.settings), fingerprints=("other",)))
    assert "fingerprint other" in typed.refused(*LEARN)


def test_a_base_of_other_settings(typed: Typed) -> None:
    """Whoever serves, learns or retrains says so, and what to do."""
    for words in (LEARN, RETRAIN):
        said = typed.refused(*words, allowed_lateness_ms=7)
        assert "was trained under other features or settings" in said
        assert "put the settings back, or train a new one" in said


def test_a_base_of_another_vocabulary(typed: Typed, tmp_path: Path) -> None:
    other = tmp_path / "vocabulary.toml"
    other.write_text("[actions]\nshare = 32\n")
    for words in (LEARN, RETRAIN, ("models", "publish", 1)):
        said = typed.refused(*words, vocabulary=other)
        assert "was trained with another vocabulary" in said
