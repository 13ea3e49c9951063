"""How far back each task could be put, and how much of the log it would then go through again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flows.errors import TidemarkError
from flows.log import Log
from flows.run.standing import aside
from flows.settings import Settings
from flows.state.task import task_path
from flows.state.view import TaskView
from replay.checkpoints.manifest import listed
from replay.place import Place
from replay.tasks import TaskName


@dataclass(frozen=True)
class Standing:
    """Where a task stands.

    Attributes
    ----------
    position, log_start, log_end : int
        Of its state, None without any; and of its input, with its archive.
    checkpoints : int
    newest : int or None
        Position of its newest checkpoint, by name.
    made_at : int or None
        When that was made, ms.
    problem : str or None
        Why its state can't be read, or why the run that is on does without it.
    to_replay : int
        Offsets from the newest checkpoint, or from the beginning, to the log's end.
    """

    task: str
    position: int | None
    log_start: int
    log_end: int
    checkpoints: int
    newest: int | None
    made_at: int | None
    problem: str | None = None

    @property
    def to_replay(self) -> int:
        """See the class."""
        return self.log_end - (self.newest if self.newest is not None else self.log_start)


def standing(settings: Settings, place: Place, task: TaskName, log: Log) -> Standing:
    """Where a task stands. Names of checkpoints are believed; `tidemark replay verify` reads them.

    Parameters
    ----------
    log : Log
        Its input.
    """
    found = listed(place, task.flow, task.partition)
    path = task_path(settings, task.flow, task.partition)
    position, problem = None, None
    if (path / "CURRENT").exists():
        # Of all commands this one must answer when something is broken.
        try:
            view = TaskView(path)
            position = view.meta.position if view.meta is not None else None
            view.close()
        except TidemarkError as error:
            problem = str(error)
    problem = problem or aside(settings, task.flow, task.partition)
    return Standing(
        str(task),
        position,
        log.start_positions()[task.partition],
        log.end_position(task.partition),
        len(found),
        found[0].position if found else None,
        found[0].made_at if found else None,
        problem,
    )


def standings(settings: Settings, place: Place, tasks: list[TaskName], logs: Mapping[str, Log]) -> list[Standing]:
    """Of tasks whose logs are there."""
    return [standing(settings, place, task, logs[task.source]) for task in tasks if task.source in logs]
