"""The state of examples, checked, kept in checkpoints and put back as other tasks' is: whatever was damaged, the same examples."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flows.examples.record import EXAMPLES
from flows.log import LocalLog
from flows.outputs import ACTIONS, SERVED
from flows.settings import Settings
from replay.drill.bytes import flip
from tests import driving
from tests.examples.playing import Driven, Play, play, write_served
from tests.processes import front_door, settings_of

PARTITIONS = 2
SMALL: dict[str, Any] = {"partitions": PARTITIONS, "batch_records": 40, "anchor_records": 60}
TASK = "examples/1"
STAGES = (0.5, 0.8, 1.0)


def written(settings: Settings, played: Play, share: float, before: float) -> None:
    """Append each partition's records of both logs between two shares of them."""
    rng = np.random.default_rng(1)
    for partition, events in played.events.groupby("partition"):
        rows = events.sort_values("offset").iloc[int(before * len(events)) : int(share * len(events))]
        driving.write(settings, rows, rng, raw_share=0.0)
        served = [one for one in played.served if one[0] == partition]
        write_served(settings, Play(rows, served[int(before * len(served)) : int(share * len(served))]))


def joined(settings: Settings) -> tuple[list[str], list[pa.Table]]:
    """All that can be joined, joined; digests of states, and EXAMPLES with each record once."""
    digests, tables = [], []
    for partition in range(PARTITIONS):
        driven = Driven(settings, partition)
        digest, _ = driven.run(np.random.default_rng(0))
        digests.append(digest)
        tables.append(driven.table())
        with LocalLog.open(settings.logs, ACTIONS) as log:
            # As a run does.
            log.commit_group(EXAMPLES, {partition: driven.ends()[0]})
        driven.close()
    return digests, tables


class House:
    """A data directory whose examples are made, with two checkpoints on the way."""

    def __init__(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.data, self.settings, self._monkeypatch = data, settings_of(data, **SMALL), monkeypatch

    def type(self, *words: object, code: int | None = 0) -> Any:
        done = front_door(*words, "--json", monkeypatch=self._monkeypatch, code=code, data=self.data, **SMALL)
        return done.json() if done.out else done.err

    def problems(self) -> list[tuple[str, str]]:
        found = self.type("replay", "verify", code=None)["problems"]
        return [(one["kind"], one["where"]) for one in found]

    def state(self) -> Path:
        return self.settings.state / EXAMPLES / "0001"

    def position(self) -> int:
        [row] = self.type("replay", "status", "--task", TASK)["tasks"]
        return int(row["position"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    data = tmp_path_factory.mktemp("made") / "data"
    played, before = play(10, requests=40, partitions=PARTITIONS), 0.0
    with pytest.MonkeyPatch.context() as monkeypatch:
        house = House(data, monkeypatch)
        for share in STAGES:
            written(house.settings, played, share, before)
            joined(house.settings)
            if share < 1:
                told = house.type("replay", "checkpoint")
                assert {"examples/0", TASK} <= {row["task"] for row in told["tasks"] if row["new"]}
            before = share
        yield data


@pytest.fixture
def house(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    shutil.copytree(made, tmp_path / "data")
    return House(tmp_path / "data", monkeypatch)


def test_what_is_sound_is_found_sound(house: House) -> None:
    """And said where it stands; commands about features have nothing to do with it."""
    assert [one for one in house.problems() if "examples" in one[1]] == []
    rows = {row["task"]: row for row in house.type("replay", "status")["tasks"]}
    assert rows[TASK]["checkpoints"] == 2
    assert 0 < rows[TASK]["newest"] < rows[TASK]["position"] <= rows[TASK]["log_end"]
    assert "this command is about features" in house.type("replay", "audit", "--once", "--task", TASK, code=2)


def gone(house: House, rng: Random) -> None:
    shutil.rmtree(house.state())


def a_bit(house: House, rng: Random) -> None:
    flip(rng.choice(sorted(path for path in house.state().glob("*.sst") if path.stat().st_size)), rng)


def no_current(house: House, rng: Random) -> None:
    (house.state() / "CURRENT").unlink()


@pytest.mark.parametrize(("damage", "of_no_use"), [(gone, 0), (a_bit, 1), (no_current, 2)])
def test_it_is_put_back_from_a_checkpoint(house: House, tmp_path: Path, damage: Callable[[House, Random], None], of_no_use: int) -> None:
    """The newest that is sound; without any, the logs have it all."""
    kept = house.settings.data / "checkpoints" / EXAMPLES / "0001"
    manifests = sorted(kept.glob("*.json"), reverse=True)
    positions = [int(path.name.partition("-")[0]) for path in manifests] + [0]
    digests, tables = joined(house.settings)
    rng = Random(3)
    damage(house, rng)
    assert ("state", f"state {TASK}") in house.problems()
    for manifest in manifests[:of_no_use]:
        flip(manifest, rng)
    [row] = house.type("replay", "restore")["restored"]
    assert (row["task"], row["position"], len(row["passed_over"])) == (TASK, positions[of_no_use], of_no_use)
    assert joined(house.settings) == (digests, tables)
    house.type("replay", "checkpoint", "--mend")
    assert [one for one in house.problems() if "examples" in one[1]] == []


def test_what_it_put_out_and_the_log_lacks_is_put_out_again(house: House) -> None:
    """A checkpoint that has put out what is lost is passed over."""
    digests, tables = joined(house.settings)
    path = house.settings.logs / f"{EXAMPLES}.db"
    for name in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        name.unlink(missing_ok=True)
    LocalLog.open(house.settings.logs, EXAMPLES, PARTITIONS, create=True).close()
    assert ("state", f"state {TASK}") in house.problems()
    restored = house.type("replay", "restore")["restored"]
    assert [(row["task"], row["position"], len(row["passed_over"])) for row in restored] == [("examples/0", 0, 2), (TASK, 0, 2)]
    assert joined(house.settings) == (digests, tables)


def test_a_log_of_what_was_served_that_has_lost_its_end(house: House) -> None:
    """A checkpoint that reflects more of it than there is is of no use, nor is the state."""
    with LocalLog.open(house.settings.logs, SERVED) as log:
        records = [(p, batch.records) for p in range(PARTITIONS) for batch in log.read(p, 0, 1 << 30)]
    path = house.settings.logs / f"{SERVED}.db"
    for name in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        name.unlink(missing_ok=True)
    with LocalLog.open(house.settings.logs, SERVED, PARTITIONS, create=True) as log:
        log.append([(p, batch.slice(0, batch.num_rows)) for p, batch in records[:1]])
    assert ("state", f"state {TASK}") in house.problems()
    [row] = house.type("replay", "restore", "--dry-run", "--task", TASK)["restored"]
    assert (row["position"], len(row["passed_over"])) == (0, 2)
    assert all("of log 'served', which ends at" in why for why in row["passed_over"])


def test_what_has_been_there_and_is_behind_is_said(house: House) -> None:
    """An old state in its place is right to run, and loses time alone."""
    was = house.position()
    digests, tables = joined(house.settings)
    house.type("replay", "restore", "--task", TASK, "--no-run")
    assert house.position() < was
    assert ("behind", f"state {TASK}") in house.problems()
    assert joined(house.settings) == (digests, tables)
    assert [one for one in house.problems() if "examples" in one[1]] == []
