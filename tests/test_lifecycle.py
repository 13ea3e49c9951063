"""When the tasks of a flow open and close: where they are is told, and the end of REVISITS only when all have closed."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from flows.dataflow.draining import DRAINED, RevisitsEnd, clear_drained
from flows.dataflow.lifecycle import Lifecycle
from flows.errors import StateError, StorageFullError
from flows.log import LocalLog
from flows.outputs import ACTIONS, REVISITS
from tests.processes import await_true


def test_positions_of_an_earlier_run_are_not_taken_for_its_end(tmp_path: Path) -> None:
    with LocalLog.open(tmp_path, ACTIONS, 2, create=True) as actions, LocalLog.open(tmp_path, REVISITS, 2, create=True):
        actions.commit_group(ACTIONS, {0: 5, 1: 5})
        actions.commit_group(DRAINED, {0: 5, 1: 5})
        clear_drained(actions)

        def end() -> RevisitsEnd:
            return RevisitsEnd(lambda: LocalLog.open(tmp_path, ACTIONS), lambda: LocalLog.open(tmp_path, REVISITS), (5, 5))

        assert end()(0) is None
        actions.commit_group(DRAINED, {0: 5})
        assert end()(1) is None
        actions.commit_group(DRAINED, {1: 5})
        assert end()(1) == 0


class _Closing:
    """Stands for a task whose closing takes what it is told."""

    def __init__(self, partition: int, let: threading.Event | None = None, error: Exception | None = None) -> None:
        self.partition, self.position, self.reached = partition, 10 + partition, 20 + partition
        self._let, self._error = let, error

    def close(self) -> None:
        if self._let is not None:
            self._let.wait(10)
        if self._error is not None:
            raise self._error


def unexpected(damage: StateError) -> None:
    pytest.fail(f"no state is damaged: {damage}")


def test_where_a_task_is_is_told_though_nothing_comes_after_its_last_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.dataflow.lifecycle._TELL_SECONDS", 0.02)
    with LocalLog.open(tmp_path, ACTIONS, 2, create=True) as log:
        told = list[dict[int, int]]()
        commit = log.commit_group
        monkeypatch.setattr(log, "commit_group", lambda group, positions: (told.append(dict(positions)), commit(group, positions)))
        lifecycle = Lifecycle(lambda: log, ACTIONS, None)
        tasks: list[Any] = [lifecycle.open(lambda t=t: t).result() for t in (_Closing(0), _Closing(1))]  # type: ignore[misc]
        for task in tasks:
            lifecycle.reached(task)
        await_true(lambda: log.group_positions(ACTIONS) == {0: 10, 1: 11}, "what was committed is told")
        tasks[1].position = tasks[1].reached
        await_true(lambda: log.group_positions(ACTIONS) == {0: 10, 1: 21}, "what is committed later is told as well")
        tasks[0].position = tasks[0].reached
        await_true(lambda: log.group_positions(ACTIONS) == {0: 20, 1: 21}, "all is told")
        time.sleep(0.2)
        assert sorted(map(sorted, (positions.items() for positions in told))) == [[(0, 10), (1, 11)], [(0, 20)], [(1, 21)]], "and once"
        for task in tasks:
            lifecycle.close(task, unexpected)


def test_a_task_that_is_let_go_of_is_told_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has asked for it may tell where it begins anew."""
    monkeypatch.setattr("flows.dataflow.lifecycle._TELL_SECONDS", 0.02)
    with LocalLog.open(tmp_path, ACTIONS, 2, create=True) as log:
        lifecycle, let = Lifecycle(lambda: log, ACTIONS, None), threading.Event()
        tasks: list[Any] = [lifecycle.open(lambda t=t: t).result() for t in (_Closing(0), _Closing(1))]  # type: ignore[misc]
        reopened = lifecycle.reopen(lambda: let.wait(10))  # type: ignore[arg-type,return-value]
        for task in tasks:
            lifecycle.reached(task)
        await_true(lambda: lifecycle._telling is not None, "it is about to be told")
        lifecycle.let_go(1, lambda: None).result()
        log.commit_group(ACTIONS, {1: 0})
        let.set()
        reopened.result()
        await_true(lambda: log.group_positions(ACTIONS) == {0: 10, 1: 0}, "the other one is told")
        lifecycle.leave_out(1, 11)
        lifecycle.close(tasks[0], unexpected)


def test_a_position_that_cannot_be_told_ends_the_task_at_its_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.dataflow.lifecycle._TELL_SECONDS", 0.02)
    with LocalLog.open(tmp_path, ACTIONS, 1, create=True) as log:

        def full(group: str, positions: dict[int, int]) -> None:
            raise StorageFullError("full")

        monkeypatch.setattr(log, "commit_group", full)
        lifecycle = Lifecycle(lambda: log, ACTIONS, None)
        task: Any = lifecycle.open(lambda: _Closing(0)).result()  # type: ignore[arg-type,return-value]

        def refused() -> bool:
            try:
                lifecycle.reached(task)
            except StorageFullError:
                return True
            return False

        await_true(refused, "it is raised where the task works")
        with pytest.raises(StorageFullError):
            lifecycle.close(task, unexpected)


def test_drained_is_told_when_the_last_has_closed(tmp_path: Path) -> None:
    with LocalLog.open(tmp_path, ACTIONS, 2, create=True) as log:
        lifecycle, let = Lifecycle(lambda: log, ACTIONS, DRAINED), threading.Event()
        first, second = (lifecycle.open(lambda t=t: t).result() for t in (_Closing(0, let), _Closing(1)))  # type: ignore[misc]
        lifecycle.close(first, unexpected)
        threading.Timer(0.1, let.set).start()
        lifecycle.close(second, unexpected)
        assert log.group_positions(ACTIONS) == log.group_positions(DRAINED) == {0: 10, 1: 11}


def test_what_went_wrong_with_any_is_raised_and_drained_is_not_told(tmp_path: Path) -> None:
    with LocalLog.open(tmp_path, ACTIONS, 2, create=True) as log:
        lifecycle = Lifecycle(lambda: log, ACTIONS, DRAINED)
        tasks = [lifecycle.open(lambda t=t: t).result() for t in (_Closing(0, error=StorageFullError("full")), _Closing(1))]  # type: ignore[misc]
        lifecycle.close(tasks[0], unexpected)
        with pytest.raises(StorageFullError):
            lifecycle.close(tasks[1], unexpected)
        assert log.group_positions(DRAINED) == {}


def test_what_is_left_out_is_ended_for_who_waits_and_nothing_else(tmp_path: Path) -> None:
    """A task that is let go of, one whose damage is found when it closes, and one that is sound."""
    with LocalLog.open(tmp_path, ACTIONS, 3, create=True) as log:
        log.commit_group(ACTIONS, {0: 7})
        lifecycle = Lifecycle(lambda: log, ACTIONS, DRAINED)
        damage = StateError("damaged")
        _, closes_badly, sound = (
            lifecycle.open(lambda t=t: t).result()  # type: ignore[misc]
            for t in (_Closing(0), _Closing(1, error=damage), _Closing(2))
        )
        found: list[StateError] = []
        lifecycle.leave_out(0, 25)
        lifecycle.close(closes_badly, found.append)
        lifecycle.close(sound, unexpected)
        assert found == [damage]
        assert log.group_positions(ACTIONS) == {0: 7, 2: 12}
        assert log.group_positions(DRAINED) == {0: 25, 1: 21, 2: 12}
