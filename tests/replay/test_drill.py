"""The drill: every class of damage is found and put right with equal digests; and a drill that should fail does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import pytest

from flows.open_log import open_log
from flows.outputs import ACTIONS
from replay.drill import poison, runner
from replay.drill.classes import CLASSES, Corruption
from replay.drill.operator import Answer, DrillError, Type
from replay.drill.runner import Row, Runner
from replay.drill.site import Site, prepare
from tests.processes import Simulated, front_door, settings_of, tidemark

FEATURES = [name for name, one in CLASSES.items() if not one.models]
SMALL: dict[str, Any] = {"partitions": 2, "batch_records": 200, "anchor_records": 300}


def typing(monkeypatch: pytest.MonkeyPatch) -> Type:
    """The same commands without the second that each process takes to start."""

    def type_it(settings: Any, *words: object) -> Answer:
        environment = {name.removeprefix("TIDEMARK_").lower(): value for name, value in settings.environment().items()}
        done = front_door(*words, monkeypatch=monkeypatch, code=None, **environment)
        return Answer(done.code, done.out, done.err)

    return type_it


@pytest.fixture(scope="module")
def drilled(simulated: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    directory = tmp_path_factory.mktemp("drill")
    files = simulated.files
    settings = settings_of(directory / "source", **SMALL)
    with pytest.MonkeyPatch.context() as monkeypatch:
        type_it = typing(monkeypatch)
        assert type_it(settings, "ingest", *files[:3], files[-1]).code == 0
        with open_log(settings, ACTIONS, read_only=True) as log:
            yield Runner(prepare(log, settings, directory / "sound", type_it), type_it, directory)


def check(drilled: Runner, name: str, seed: int, tmp_path: Path) -> Row:
    row = drilled.drill(CLASSES[name], seed, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy")
    assert row.detected_by, row
    assert row.equal, row
    return row


@pytest.mark.parametrize("seed", range(1))
@pytest.mark.parametrize("name", FEATURES)
def test_every_class_is_found_and_put_right(drilled: Runner, name: str, seed: int, tmp_path: Path) -> None:
    check(drilled, name, seed, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 50))
@pytest.mark.parametrize("name", FEATURES)
def test_every_class_is_found_and_put_right_by_many_seeds(drilled: Runner, name: str, seed: int, tmp_path: Path) -> None:
    check(drilled, name, seed, tmp_path)


def test_what_is_not_looked_for_is_not_found(drilled: Runner, tmp_path: Path) -> None:
    with mock.patch("replay.commands.verify.verify_state", return_value=[]):
        row = drilled.drill(CLASSES["sst-bit"], 0, tmp_path / "copy")
    assert not row.detected_by
    assert not row.equal


def test_what_is_not_put_right_is_not_equal(drilled: Runner, tmp_path: Path) -> None:
    with mock.patch.object(runner, "follow", return_value=0):
        row = drilled.drill(CLASSES["state-ahead"], 0, tmp_path / "copy")
    assert row.detected_by == "replay verify: log"
    assert not row.equal
    assert "log actions" in row.differs[0]


def silently(site: Site, rng: Random) -> str:
    """Everything is consistent, and one batch of events is missing: nothing that is stored could tell."""
    with open_log(site.settings, ACTIONS, read_only=True) as log:
        rest = [(p, batch.records) for p in range(log.partitions) for batch in log.read(p, 0, 1 << 30)]
    settings = site.settings
    shutil.rmtree(site.data)
    with open_log(settings, ACTIONS, create=True) as log:
        log.append(rest[:-1])
    return "a batch left out"


def test_what_is_sound_and_another_is_not_equal(drilled: Runner, tmp_path: Path) -> None:
    row = drilled.drill(Corruption("another", silently), 0, tmp_path / "copy")
    assert not row.equal
    assert any(name.startswith("log actions") for name in row.differs)
    assert any(name.startswith("state actions") for name in row.differs)


def test_wrong_events_that_stay_are_not_equal(drilled: Runner, tmp_path: Path) -> None:
    with mock.patch.object(poison, "FILTER", "producer == 'v12'"):
        row = drilled.drill(CLASSES["poison"], 0, tmp_path / "copy")
    assert not row.detected_by
    assert not row.equal
    with (
        mock.patch("replay.drill.runner.Runner._look", return_value={"problems": []}),
        mock.patch.object(poison, "FILTER", "action == 'hide'"),
    ):
        row = drilled.drill(CLASSES["poison"], 0, tmp_path / "another")
    assert {"features of user", "features of pin", "features of labels"} <= set(row.differs)


def test_a_site_that_is_damaged_is_not_drilled(drilled: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = drilled._site.copied(tmp_path / "site")
    CLASSES["sst-bit"].damage(site, Random(0))
    with pytest.raises(DrillError, match="before anything was damaged"):
        Runner(site, typing(monkeypatch), tmp_path)


@pytest.mark.parametrize("name", [name for name in FEATURES if not CLASSES[name].sent])
def test_damage_follows_from_the_seed(drilled: Runner, name: str, tmp_path: Path) -> None:
    said = []
    for i in range(2):
        said.append(CLASSES[name].damage(drilled._site.copied(tmp_path / f"copy-{i}"), Random(7)))
    assert said[0] == said[1]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own processes, over a data directory that is only read."""
    data = tmp_path / "data"
    tidemark("simulate", "--out", tmp_path / "made", "--users", 50, "--pins", 80, "--events", 2_000, "--days", 12, data=data, partitions=2)
    tidemark("ingest", *(tmp_path / "made").glob("events-*.parquet"), data=data, partitions=2)
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal"))}
    done = tidemark(
        "replay", "drill", "--class", "log-bit", "--class", "file-gone", "--keep", tmp_path / "kept", "--json", data=data, partitions=2
    )
    told = done.json()
    assert told["results"] == {"classes": 2, "undetected": 0, "unequal": 0}
    assert [row["class"] for row in told["rows"]] == ["log-bit", "file-gone"]
    assert (tmp_path / "kept/log-bit/state/actions/0000/CURRENT").exists()
    assert {path: path.read_bytes() for path in before} == before
    assert not (data / "state").exists()
    plan = front_door("replay", "drill", "--dry-run", "--json", monkeypatch=monkeypatch, data=data, partitions=2)
    assert list(json.loads(plan.out)["classes"]) == FEATURES
    shown = front_door("replay", "drill", "--models", "--dry-run", monkeypatch=monkeypatch, data=data, partitions=2).out
    assert all(one.what in shown for one in CLASSES.values())


def test_the_command_fails_where_the_drill_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unequal = Row("sst-bit", "a bit", "", 1.0, 0, 1.0, [], False, ["state actions/0"])
    with (
        mock.patch("replay.commands.drill.simulated"),
        mock.patch("replay.commands.drill.open_log"),
        mock.patch("replay.commands.drill.prepare"),
        mock.patch("replay.commands.drill.Runner") as made,
        mock.patch("replay.commands.drill.shutil.rmtree"),
    ):
        made.return_value.drill.return_value = unequal
        done = front_door("replay", "drill", "--class", "sst-bit", monkeypatch=monkeypatch, code=1, data=tmp_path / "none")
    assert "1 classes; 1 not found, 1 not equal" in done.out
    assert "differs: state actions/0" in done.out
