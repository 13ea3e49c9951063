"""Waiting until a run that is on has brought restored tasks up to where their logs ended."""

from __future__ import annotations

import time
from collections.abc import Sequence

from flows.errors import DataDirectoryError
from flows.run.main_job import Display
from flows.settings import Settings
from flows.state.lock import run_is_on
from flows.state.task import task_path
from flows.state.view import TaskView
from replay.checkpoints.choose import Choice
from replay.tasks import TaskName

# A run takes a task again within moments, and commits some times a second.
PATIENCE_S = 60.0
_LOOK_S = 0.2


def await_run(settings: Settings, restored: Sequence[Choice], display: Display) -> bool:
    """Wait until a run has brought tasks to where their logs ended when they were restored.

    Returns
    -------
    bool
        Whether it has; False if no run is on any more.

    Raises
    ------
    DataDirectoryError
        Nothing has moved for long: the run runs another flow, fails to open a task, or stands still.
    """
    at = {one.task: one.position for one in restored}
    ends = {one.task: one.log_end for one in restored}
    for flow in sorted({task.flow for task in ends}):
        display.begin(flow, _total(at, flow), _total(ends, flow))
    seen = time.monotonic()
    while behind := [task for task in ends if at[task] < ends[task]]:
        if not run_is_on(settings.state):
            return False
        for task in behind:
            # That a run has a task says nothing: it may stand still there.
            if (position := _position(settings, task)) > at[task]:
                display.advance(task.flow, position - at[task], None)
                at[task] = position
                seen = time.monotonic()
        if time.monotonic() - seen > PATIENCE_S:
            names = ", ".join(map(str, behind))
            raise DataDirectoryError(
                f"the run that is on has not taken {names} again, or stands still there; the state is there, and sound: see what the run says, or "
                "run `tidemark run` once it has ended"
            )
        time.sleep(_LOOK_S)
    return True


def _total(positions: dict[TaskName, int], flow: str) -> int:
    return sum(position for task, position in positions.items() if task.flow == flow)


def _position(settings: Settings, task: TaskName) -> int:
    """Where a task's state is; 0 as long as there is none, or whoever opens it takes files away under us."""
    path = task_path(settings, task.flow, task.partition)
    if not (path / "CURRENT").exists():
        return 0
    try:
        view = TaskView(path)
    except DataDirectoryError:
        return 0
    try:
        return view.meta.position if view.meta is not None else 0
    finally:
        view.close()
