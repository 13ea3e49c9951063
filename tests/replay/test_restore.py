"""Damage to state is found, and put right by one command: what a data directory says is then the same to the byte."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from flows.outputs import ACTIONS, REVISITS
from flows.state.task import task_path
from replay.checkpoints.manifest import listed
from replay.place import Place
from tests.processes import PARTITIONS, Outcome, assert_same, front_door, outcome, settings_of, simulated_once, tidemark

SMALL = {"batch_records": 100, "anchor_records": 150}


@dataclass(frozen=True)
class Site:
    """A data directory that has come to its end, with two checkpoints of each task on the way, and what it says."""

    data: Path
    clean: Outcome
    positions: dict[str, list[int]]

    def copy(self, to: Path) -> Path:
        shutil.copytree(self.data, to)
        return to


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    simulated = simulated_once(tmp_path_factory)
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
    return Site(data, outcome(settings_of(data), directory / "exports"), positions)


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


def check_seed(site: Site, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = site.copy(tmp_path / "data")
    rng = Random(seed)
    what = f"seed {seed}: " + ", ".join(damage_state(data, rng) for _ in range(rng.randrange(1, 4)))
    heal(data, monkeypatch, what)
    assert_same(outcome(settings_of(data), tmp_path / "exports"), site.clean)


@pytest.mark.parametrize("seed", range(5))
def test_damage_to_state_is_put_right(site: Site, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_seed(site, seed, tmp_path, monkeypatch)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5, 50))
def test_damage_to_state_is_put_right_by_many_seeds(site: Site, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_seed(site, seed, tmp_path, monkeypatch)
