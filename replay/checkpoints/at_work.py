"""One command at a time at a task's checkpoints: a sweep deletes pieces that no manifest names, as those of one that is being made are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flows.settings import Settings
from flows.state.task import task_path
from flows.state.task_lock import beside, holding
from replay.tasks import TaskName

CHECKPOINT = ".checkpoint"


@contextmanager
def at_work(settings: Settings, task: TaskName) -> Iterator[None]:
    """While a task's checkpoints are made, mended and swept. The lock lies beside its state, so it keeps off whoever shares the data directory.

    Raises
    ------
    LockedError
        Another command is at them.
    """

    def refused(who: str) -> str:
        return f"checkpoints of {task} are being made by another command ({who}); wait until it is done, or let it do the work"

    with holding(beside(task_path(settings, task.flow, task.partition), CHECKPOINT), refused):
        yield
