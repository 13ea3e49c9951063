"""What a command refuses, or gives up, with a word: another at the same task, a directory that is not empty, a run that stands still."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.errors import DataDirectoryError
from flows.outputs import ACTIONS, OUTPUTS
from flows.run.display import LiveDisplay
from flows.settings import Settings
from flows.state.lock import run_lock
from flows.state.task import task_path
from flows.state.task_lock import TaskLock
from replay import catching_up
from replay.catching_up import await_run
from replay.checkpoints.at_work import at_work
from replay.checkpoints.choose import Choice
from replay.checkpoints.manifest import listed
from replay.place import Place
from replay.tasks import TaskName
from tests.processes import Ended, front_door
from tests.state.house import House
from tests.strategies import adversarial

TASKS = [TaskName(ACTIONS, partition) for partition in range(2)]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    one = House(tmp_path / "data", adversarial(3, 100, partitions=2), partitions=2)
    yield one
    one.close()


def replay(settings: Settings, monkeypatch: pytest.MonkeyPatch, *arguments: object, code: int = 0) -> Ended:
    return front_door("replay", *arguments, monkeypatch=monkeypatch, code=code, data=settings.data, partitions=settings.partitions)


def checkpoints(settings: Settings) -> list[int]:
    return [len(listed(Place(settings.checkpoint_place), task.flow, task.partition)) for task in TASKS]


def test_one_command_is_at_a_tasks_checkpoints(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep would delete what the other has written and not named yet."""
    house.finish()
    pieces = house.settings.data / "checkpoints/actions/0001/pieces"
    with at_work(house.settings, TASKS[1]):
        pieces.mkdir(parents=True)
        (pieces / "of-the-other.arrow").touch()
        (pieces / ".draft-of-the-other").touch()
        for more in ((), ("--mend",)):
            done = replay(house.settings, monkeypatch, "checkpoint", "--json", *more, code=1)
            [failed] = json.loads(done.out)["failed"]
            assert "checkpoints of actions/1 are being made by another command (process" in failed
        replay(house.settings, monkeypatch, "checkpoint", "--dry-run")
        assert checkpoints(house.settings) == [1, 0]
        assert len(list(pieces.iterdir())) == 2
    assert json.loads(replay(house.settings, monkeypatch, "checkpoint", "--json").out)["failed"] == []
    assert checkpoints(house.settings) == [1, 1]
    assert not list(house.settings.state.rglob("*.checkpoint"))


def test_a_drill_keeps_nothing_where_something_lies(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "kept"
    (kept / "sound").mkdir(parents=True)
    assert "holds something already" in replay(house.settings, monkeypatch, "drill", "--keep", kept, code=2).err
    assert [path.name for path in kept.rglob("*")] == ["sound"]


@pytest.mark.parametrize("named", [(), ("--all",)])
def test_where_nothing_has_run_a_dry_run_says_what_a_restore_does(
    house: House, named: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    house.close()
    for name in OUTPUTS:
        (house.settings.logs / f"{name}.db").unlink()
    before = sorted(house.settings.data.glob("*/*.db"))

    def rows(*more: str) -> Any:
        return json.loads(replay(house.settings, monkeypatch, "restore", *named, "--json", *more).out)["restored"]

    plan = rows("--dry-run")
    assert sorted(house.settings.data.glob("*/*.db")) == before
    assert plan == rows("--no-run")
    assert len(plan) == (4 if named else 0)


def test_a_log_that_is_gone_and_archived_is_not_begun_anew(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.close()
    (house.settings.logs / "revisits.db").unlink()
    (house.settings.archives / "revisits").mkdir(parents=True)
    for more in ((), ("--dry-run",)):
        assert "tidemark replay restore --log revisits" in replay(house.settings, monkeypatch, "restore", *more, code=1).err
    assert not (house.settings.logs / "revisits.db").exists()


def test_a_run_that_has_a_task_and_stands_still_is_given_up(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catching_up, "PATIENCE_S", 0.3)
    held = TaskLock(task_path(house.settings, ACTIONS, 0))
    try:
        with (
            run_lock(house.settings.state),
            LiveDisplay(quiet=True) as display,
            pytest.raises(DataDirectoryError, match=r"has not taken actions/0 again, or stands still there"),
        ):
            await_run(house.settings, [Choice(TASKS[0], None, 10, [])], display)
    finally:
        held.release()
