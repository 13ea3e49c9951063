"""A history as examples: each pin that was shown once, with the labels and chances of its own, and no label before its time."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from flows.errors import CorruptionError
from flows.examples.record import HEADS, Kind
from flows.settings import DAY_MS
from online_model.studies.stream import Stream, open_stream
from tests.studies.conftest import TINY

FIRST, LAST = TINY.days.moment("train"), TINY.days.moment("evaluate")


def test_a_history_is_made_once(stream: Stream, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("online_model.studies.stream.simulate", None)
    again = open_stream(stream.plan, work / "histories")
    assert again.digest == stream.digest
    assert np.array_equal(again.rows.ready_time, stream.rows.ready_time)
    assert again.rows.users.sequence.tobytes() == stream.rows.users.sequence.tobytes()


def test_another_plan_is_another_history(stream: Stream, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Other tests of this process may have made others.
    name = f"{stream.plan.name}-{stream.plan.seed}-{stream.digest}"
    shutil.copytree(work / "histories" / name, tmp_path / name)

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("made anew")

    monkeypatch.setattr("online_model.studies.stream.simulate", refuse)
    for other in ({"seed": 2}, {"name": "still"}, {"feature_delay_ms": 0}, {"sizes": {**stream.plan.sizes, "users": 121}}):
        with pytest.raises(RuntimeError, match="made anew"):
            open_stream(replace(stream.plan, **other), tmp_path)  # type: ignore[arg-type]
    # A history that isn't whole leaves nothing behind.
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_examples_are_in_the_order_in_which_they_became_known(stream: Stream) -> None:
    assert (np.diff(stream.rows.ready_time) >= 0).all()
    assert {int(Kind.NEGATIVE), int(Kind.POSITIVE), int(Kind.FINAL)} <= set(np.unique(stream.rows.kind).tolist())


def test_each_pin_that_was_shown_is_evaluated_once_with_its_final_labels(stream: Stream) -> None:
    evaluated, rows = stream.evaluated(FIRST, LAST), stream.rows
    keys = list(zip(evaluated.rows.request_id.to_pylist(), evaluated.rows.pin_id.tolist(), strict=True))
    assert len(set(keys)) == len(keys) > 500
    final: dict[tuple[str, int], list[int]] = {}
    for request, pin, kind, labels in zip(
        rows.request_id.to_pylist(), rows.pin_id.tolist(), rows.kind.tolist(), rows.labels.tolist(), strict=True
    ):
        if kind == Kind.FINAL:
            known = final.setdefault((request, pin), [-1] * len(HEADS))
            final[request, pin] = [max(pair) for pair in zip(known, labels, strict=True)]
    assert evaluated.labels.tolist() == [final[key] for key in keys]
    assert (evaluated.labels == 1).any(0).all()


def test_revisits_of_young_pins_are_not_told(stream: Stream) -> None:
    end = int(stream.rows.ready_time[-1])
    evaluated = stream.evaluated(end - 4 * DAY_MS, end - 3 * DAY_MS)
    assert (evaluated.labels[:, HEADS.index("revisit")] == -1).all()
    assert (evaluated.labels[:, HEADS.index("click")] >= 0).all()


def test_chances_are_those_of_the_pin_and_its_request(stream: Stream, work: Path) -> None:
    evaluated = stream.evaluated(FIRST, LAST)
    table = pq.read_table(next((work / "histories").glob("drifting-1-*/truth-chances.parquet"))).to_pylist()
    truth = {(row["request_id"], row["pin_id"]): [row[head] for head in HEADS] for row in table}
    keys = zip(evaluated.rows.request_id.to_pylist(), evaluated.rows.pin_id.tolist(), strict=True)
    assert np.array_equal(evaluated.chances, np.array([truth[key] for key in keys]))


def test_a_training_gets_final_labels_that_had_matured(stream: Stream) -> None:
    rows = stream.final(FIRST, LAST)
    assert len(rows) > 500
    assert (rows.kind == Kind.FINAL).all()
    assert ((rows.ready_time >= FIRST) & (rows.ready_time < LAST)).all()


def test_chances_that_are_missing_are_named(stream: Stream, tmp_path: Path) -> None:
    path = tmp_path / "truth-chances.parquet"
    pq.write_table(pq.read_table(stream._chances).slice(0, 3), path)
    with pytest.raises(CorruptionError, match=r"lacks .* of the pins that were shown; delete"):
        replace(stream, _chances=path).evaluated(FIRST, LAST)
