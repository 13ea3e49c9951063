"""Damage to state is found, and put right by one command: what a data directory says is then the same to the byte."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import pytest

from flows import directories
from flows.log import LocalLog
from flows.outputs import ACTIONS, REVISITS
from flows.state import copy
from flows.state.lock import run_lock
from flows.state.task import task_path
from replay import catching_up, in_place
from replay.checkpoints.manifest import listed, read
from replay.place import Place
from tests.processes import PARTITIONS, Simulated, front_door, outcome, settings_of, tidemark
from tests.replay.site import SMALL, Site, killing
from tests.sparing import first


@dataclass(frozen=True)
class Checkpointed(Site):
    """With two checkpoints of each task on the way."""

    positions: dict[str, list[int]]


@pytest.fixture(scope="module")
def site(simulated: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Checkpointed:
    directory = tmp_path_factory.mktemp("site")
    data = directory / "data"
    for files, kept in ((simulated.files[:2], True), (simulated.files[2:4], True), (simulated.files[4:], False)):
        tidemark("ingest", *files, data=data, **SMALL)
        tidemark("run", data=data, **SMALL)
        if kept:
            tidemark("replay", "checkpoint", data=data, **SMALL)
    place = Place(str(data / "checkpoints"))
    positions = {f"{flow}/{p}": [n.position for n in listed(place, flow, p)] for flow in (ACTIONS, REVISITS) for p in range(PARTITIONS)}
    assert all(len(set(positions[f"{ACTIONS}/{p}"])) == 2 for p in range(PARTITIONS))
    return Checkpointed(data, outcome(settings_of(data), directory / "exports"), positions)


def flip(path: Path, rng: Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def cut_off(path: Path, rng: Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def delete(path: Path, rng: Random) -> None:
    path.unlink()


def damage_state(data: Path, rng: Random) -> str:
    """Harm one file of one task's state that RocksDB needs; says what was done."""
    flow, partition = rng.choice((ACTIONS, REVISITS)), rng.randrange(PARTITIONS)
    path = task_path(settings_of(data), flow, partition)
    files = [
        file
        for file in path.iterdir()
        if file.stat().st_size and (file.suffix in (".sst", ".log") or file.name.startswith(("MANIFEST", "CURRENT")))
    ]
    file = rng.choice(sorted(files))
    how: Callable[[Path, Random], None] = rng.choice((flip, cut_off, delete))
    how(file, rng)
    return f"{how.__name__} {flow}/{partition} {file.name}"


def heal(data: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    found = front_door("replay", "verify", "--json", monkeypatch=monkeypatch, code=None, data=data, **SMALL)
    problems = json.loads(found.out)["problems"]
    done = json.loads(front_door("replay", "restore", "--json", monkeypatch=monkeypatch, data=data, **SMALL).out)
    assert {row["task"] for row in done["restored"]} == {p["where"].removeprefix("state ") for p in problems if p["kind"] == "state"}, what
    if not done["restored"]:
        # What was lost of the end of a write-ahead log leaves an older commit, from which a run goes on.
        tidemark("run", data=data, **SMALL)
    after = front_door("replay", "verify", "--json", monkeypatch=monkeypatch, data=data, **SMALL)
    assert json.loads(after.out)["problems"] == [], what


def check_seed(site: Checkpointed, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = site.copy(tmp_path / "data")
    rng = Random(seed)
    what = f"seed {seed}: " + ", ".join(damage_state(data, rng) for _ in range(rng.randrange(1, 4)))
    heal(data, monkeypatch, what)
    site.check(data, tmp_path / "exports")


@pytest.mark.parametrize("seed", range(3))
def test_damage_to_state_is_put_right(site: Checkpointed, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_seed(site, seed, tmp_path, monkeypatch)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3, 50))
def test_damage_to_state_is_put_right_by_many_seeds(site: Checkpointed, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_seed(site, seed, tmp_path, monkeypatch)


def restored(data: Path, monkeypatch: pytest.MonkeyPatch, *arguments: object, code: int = 0, **settings: object) -> Any:
    done = front_door("replay", "restore", "--json", *arguments, monkeypatch=monkeypatch, code=code, data=data, **{**SMALL, **settings})
    return json.loads(done.out)["restored"] if code == 0 else done.err


def test_newer_checkpoints_that_are_damaged_are_passed_over(site: Checkpointed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest, then the older one, then the log from its beginning: each time the same in the end."""
    data = site.copy(tmp_path / "data")
    newest, older = site.positions["actions/1"]
    directory = data / "checkpoints/actions/0001"
    [row] = restored(data, monkeypatch, "--task", "actions/1")
    assert (row["position"], row["passed_over"]) == (newest, [])
    assert row["to_replay"] == row["log_end"] - newest > 0
    sole = needed_alone(data, newest, older)
    flip(directory / "pieces" / sole, Random(0))
    [row] = restored(data, monkeypatch, "--task", "actions/1")
    assert row["position"] == older
    assert len(row["passed_over"]) == 1
    assert sole in row["passed_over"][0]
    for manifest in directory.glob("*.json"):
        flip(manifest, Random(0))
    [row] = restored(data, monkeypatch, "--task", "actions/1")
    assert row["position"] == 0
    assert len(row["passed_over"]) == 2
    site.check(data, tmp_path / "exports")


def needed_alone(data: Path, newest: int, older: int) -> str:
    """A piece of actions/1 that its newest checkpoint needs, and the older one doesn't."""
    place = Place(str(data / "checkpoints"))
    new, old = (read(place, named) for named in listed(place, ACTIONS, 1))
    assert (new.position, old.position) == (newest, older)
    return next(piece.name for piece in new.pieces if piece not in old.pieces)


def test_a_checkpoint_that_lies_is_passed_over(site: Checkpointed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is whole, and whose name puts it at another task's place."""
    data = site.copy(tmp_path / "data")
    shutil.rmtree(data / "checkpoints/actions/0000")
    shutil.copytree(data / "checkpoints/actions/0001", data / "checkpoints/actions/0000")
    [row] = restored(data, monkeypatch, "--task", "actions/0")
    assert row["position"] == 0
    assert len(row["passed_over"]) == 2
    site.check(data, tmp_path / "exports")


def test_without_any_checkpoint_the_log_is_enough(site: Checkpointed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = site.copy(tmp_path / "data")
    shutil.rmtree(data / "checkpoints")
    assert {row["position"] for row in restored(data, monkeypatch, "--all")} == {0}
    site.check(data, tmp_path / "exports")


def test_other_tasks_are_not_touched(site: Checkpointed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = site.copy(tmp_path / "data")

    def files() -> dict[str, bytes]:
        return {str(f.relative_to(data)): f.read_bytes() for f in sorted((data / "state").glob("*/*/*")) if "actions/0002" not in str(f)}

    before = files()
    restored(data, monkeypatch, "--task", "actions/2", "--no-run")
    assert files() == before


def test_a_dry_run_changes_nothing(site: Checkpointed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = site.copy(tmp_path / "data")
    shutil.rmtree(data / "state/revisits/0003")

    def names() -> dict[str, bytes]:
        return {
            str(file): file.read_bytes() for file in sorted(data.rglob("*")) if file.is_file() and not file.name.endswith(("-wal", "-shm"))
        }

    before = names()
    plan = restored(data, monkeypatch, "--dry-run")
    assert [row["task"] for row in plan] == ["revisits/3"]
    front_door("replay", "checkpoint", "--dry-run", "--keep", 1, monkeypatch=monkeypatch, data=data, **SMALL)
    assert names() == before
    assert restored(data, monkeypatch, "--no-run") == plan


def test_what_is_intended_is_said_before_anything_is_changed(site: Checkpointed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By manifests alone; where a checkpoint then proves damaged, what was taken instead is said."""
    data = site.copy(tmp_path / "data")
    newest, older = site.positions["actions/1"]
    flip(data / "checkpoints/actions/0001/pieces" / needed_alone(data, newest, older), Random(1))
    stopped = Path(shutil.copytree(data, tmp_path / "stopped"))
    with mock.patch("replay.restore.task_taken", side_effect=KeyboardInterrupt):
        said = front_door("replay", "restore", "--task", "actions/1", monkeypatch=monkeypatch, code=130, data=stopped, **SMALL).out
    assert "To be restored" in said
    assert f"{newest:,}" in said
    said = front_door("replay", "restore", "--task", "actions/1", monkeypatch=monkeypatch, data=data, **SMALL).out
    planned, done = said.split("restored actions/1\n")
    assert re.search(r"then [\d,]+ events .* events/s, [1-9][\d,]* times as fast as they happened\n", done)
    assert f"{newest:,}" in planned
    assert "passed over: checkpoint" in done
    assert f"actions/1: from position {older:,} instead" in done


def test_where_all_is_well_nothing_is_restored(site: Checkpointed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = site.copy(tmp_path / "data")
    assert restored(data, monkeypatch) == []
    said = front_door("replay", "restore", monkeypatch=monkeypatch, data=data, **SMALL).out
    assert said == "every task's state is sound: nothing to restore\n"


@pytest.mark.parametrize("step", first(3, [0, 2, 5, 1, 3, 4]))
def test_killed_anywhere_it_can_be_done_again(site: Checkpointed, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it has come to, a run leads to the same; and so does the same command."""
    data = site.copy(tmp_path / "data")
    kills = partial(killing, iter(range(step)))
    with (
        mock.patch("replay.restore.write_state", kills(copy.write_state)),
        mock.patch("replay.restore.delete", kills(in_place.delete)),
        mock.patch("replay.in_place.delete", kills(in_place.delete)),
        mock.patch.object(Path, "rename", kills(Path.rename)),
        mock.patch("replay.in_place.sync", kills(directories.sync)),
    ):
        said = restored(data, monkeypatch, "--task", "actions/0", "--no-run", code=130)
    assert said.strip().startswith("interrupted")
    again = Path(shutil.copytree(data, tmp_path / "again"))
    tidemark("run", data=data, **SMALL)
    site.check(data, tmp_path / "exports")
    restored(again, monkeypatch, "--task", "actions/0")
    site.check(again, tmp_path / "exports-again")


def test_beside_a_run_that_does_not_take_the_task_again_it_is_said(
    site: Checkpointed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one of the other flow. What was restored is there, and the next run goes on from it."""
    data = site.copy(tmp_path / "data")
    monkeypatch.setattr(catching_up, "PATIENCE_S", 0.3)
    with run_lock(settings_of(data).state):
        said = restored(data, monkeypatch, "--task", "actions/1", code=1)
        assert "the run that is on has not taken actions/1 again" in said
        [row] = restored(data, monkeypatch, "--task", "actions/1", "--no-run")
        assert row["position"] == site.positions["actions/1"][0]
    tidemark("run", data=data, **SMALL)
    site.check(data, tmp_path / "exports")


def test_a_run_that_ends_meanwhile_leaves_the_rest_to_the_restore(
    site: Checkpointed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = site.copy(tmp_path / "data")
    with ExitStack() as stack:
        stack.enter_context(run_lock(settings_of(data).state))
        look = catching_up._position
        monkeypatch.setattr(catching_up, "_position", lambda *task: (stack.close(), look(*task))[1])
        done = json.loads(front_door("replay", "restore", "--all", "--json", monkeypatch=monkeypatch, data=data, **SMALL).out)
    assert (done["beside_run"], done["ran"]["stopped"], len(done["restored"])) == (True, False, 2 * PARTITIONS)
    site.check(data, tmp_path / "exports")


def test_other_settings_are_refused_before_anything_is_read(site: Checkpointed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = site.copy(tmp_path / "data")
    rows = restored(data, monkeypatch, "--task", "actions/0", "--dry-run", allowed_lateness_ms=1)
    assert rows[0]["position"] == 0
    assert all("other features or settings" in reason for reason in rows[0]["passed_over"])


@pytest.mark.parametrize("name", ["actions/4", "views", "actions/x", "../../etc"])
def test_a_task_that_is_none_is_said(site: Checkpointed, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"there is no task '{name}'" in restored(site.data, monkeypatch, "--task", name, "--dry-run", code=2)


def test_a_log_that_has_lost_its_beginning_needs_its_archive(site: Checkpointed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a checkpoint nor a log that goes back far enough: nothing is changed, and it is said."""
    data = site.copy(tmp_path / "data")
    shutil.rmtree(data / "checkpoints")
    before = sorted(data.glob("state/*/*"))
    with mock.patch.object(LocalLog, "start_positions", lambda self: [5] * self.partitions):
        said = restored(data, monkeypatch, "--task", "actions/0", "--no-run", code=1)
    assert "begins at 5" in said
    assert sorted(data.glob("state/*/*")) == before


@pytest.mark.parametrize("name", [ACTIONS, REVISITS])
def test_damage_to_a_log_is_found(site: Checkpointed, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = site.copy(tmp_path / "data")
    with sqlite3.connect(data / f"logs/{name}.db") as connection:
        rowid, blob = connection.execute("SELECT rowid, bytes FROM batches WHERE partition = 1 ORDER BY end_offset LIMIT 1").fetchone()
        connection.execute("UPDATE batches SET bytes = ? WHERE rowid = ?", (blob[:-1] + bytes([blob[-1] ^ 1]), rowid))
    connection.close()
    done = front_door("replay", "verify", "--json", monkeypatch=monkeypatch, code=1, data=data, **SMALL)
    problems = json.loads(done.out)["problems"]
    assert [problem["where"] for problem in problems if problem["kind"] == "log"] == [f"log {name}/1"]


def test_damage_to_checkpoints_is_found_and_said(site: Checkpointed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = site.copy(tmp_path / "data")
    piece = sorted((data / "checkpoints/revisits/0002/pieces").iterdir())[0]
    flip(piece, Random(1))
    done = front_door("replay", "verify", monkeypatch=monkeypatch, code=1, data=data, **SMALL)
    assert piece.name in done.out
    assert "problem" in done.out.splitlines()[-1]
    front_door("replay", "verify", "--task", "revisits/1", monkeypatch=monkeypatch, data=data, **SMALL)


@pytest.mark.parametrize("command", ["status", "verify", "restore", "checkpoint"])
def test_where_there_is_nothing_it_is_said_and_nothing_is_made(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = front_door("replay", command, monkeypatch=monkeypatch, code=1, data=tmp_path / "none")
    assert "there is no log in" in done.err
    assert not (tmp_path / "none").exists()


def test_status_says_how_much_a_restore_goes_through(site: Checkpointed, monkeypatch: pytest.MonkeyPatch) -> None:
    told = json.loads(front_door("replay", "status", "--json", monkeypatch=monkeypatch, data=site.data, **SMALL).out)
    plan = restored(site.data, monkeypatch, "--all", "--dry-run")
    assert {row["task"]: row["to_replay"] for row in told["tasks"]} == {row["task"]: row["to_replay"] for row in plan}
    assert {row["task"]: row["newest"] for row in told["tasks"]} == {task: positions[0] for task, positions in site.positions.items()}
    shown = front_door("replay", "status", monkeypatch=monkeypatch, data=site.data, **SMALL).out
    assert all(task in shown for task in site.positions)
