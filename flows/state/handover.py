"""Taking a task out of a live run, to replace its state, while the run goes on with all others.

Whoever wants the task locks a file beside its directory, `<partition>.wanted`, and then waits for the task's own lock. The run looks for that file
about once a second; where it is locked, it commits and publishes all that it has judged, closes the task and lets go of its lock. It takes the task
again once nobody has the file locked, be it that its owner is done or that it was killed: the lock tells, not the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.errors import LockedError
from flows.settings import Settings
from flows.state import set_aside
from flows.state.task import task_path
from flows.state.task_lock import LOCK, WANTED, TaskLock, beside, holder, holding

PATIENCE_S = 60.0


@contextmanager
def task_taken(settings: Settings, flow: str, partition: int, patience_s: float = PATIENCE_S) -> Iterator[Path]:
    """Have a task's directory to oneself. A live run lets go of the task and takes it again afterwards; without one, nobody can open it meanwhile.

    Parameters
    ----------
    settings : Settings
    flow : str
    partition : int
    patience_s : float
        How long a run may take to commit and publish what it has judged.

    Yields
    ------
    Path
        The directory, which may be renamed, replaced or not be there.

    Raises
    ------
    LockedError
        Another command has the task, or a run doesn't let go of it in time.
    """
    path = task_path(settings, flow, partition)

    def refused(who: str) -> str:
        return f"task {flow}/{partition} is being replaced by another command ({who}); wait until it is done, and look at what it has made"

    with holding(beside(path, WANTED), refused):
        lock = _taken(path, f"{flow}/{partition}", patience_s)
        try:
            yield path
        finally:
            # Whoever runs it says anew whether it can be opened.
            set_aside.forget(path)
            lock.release()


def _taken(path: Path, name: str, patience_s: float) -> TaskLock:
    try:
        return TaskLock(path, patience_s)
    except LockedError:
        raise LockedError(
            f"task {name} was not let go of within {patience_s:.0f} s by {holder(beside(path, LOCK))}; if that is a run that is halted or waits for "
            "its brokers or its disk, try again when it goes on, or stop it first"
        ) from None
