"""Where tasks stand, as state and logs say it beside whoever runs them: so it is what a restart would find, and asking disturbs nobody.

What can't be read is told to whoever asks, and left out; it never raises, for metrics and pages must say the rest all the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from flows.errors import TidemarkError
from flows.examples.record import EXAMPLES
from flows.log import Log
from flows.metrics_http import scraped
from flows.open_log import log_exists, open_live_log
from flows.outputs import ACTIONS, SERVED
from flows.settings import Settings
from flows.state.database import check_current
from flows.state.lock import run_is_on
from flows.state.meta import Meta
from flows.state.set_aside import noted
from flows.state.task import putting_back, task_path
from flows.state.view import TaskView

Task = tuple[str, int]
"""A flow and a partition."""


class Standing:
    """Looks at tasks and at the ends of their logs. For one thread at a time.

    Parameters
    ----------
    settings : Settings
    flows : sequence of str
        Whose tasks.
    failed : callable
        Called with what could not be read, a task's state (``actions/3``) or a log by its name, and why.
    patient : bool
        Wait for brokers as long as `kafka_patience_ms` says, and no shorter, as whoever is scraped does.
    """

    def __init__(
        self, settings: Settings, flows: Sequence[str], failed: Callable[[str, TidemarkError], None], patient: bool = False
    ) -> None:
        self._settings, self._flows, self._failed = settings if patient else scraped(settings), flows, failed
        self._views: dict[Task, TaskView] = {}
        self._logs: dict[str, Log] = {}
        self.ends: dict[str, list[int]] = {}
        """Of each log that a flow reads, the next offset of every partition, as last known."""
        self.aside: dict[Task, str] = {}
        """Tasks that the run that is on does without, each with what to do and why."""

    def look(self) -> dict[Task, Meta]:
        """Look again: what each task's state says of itself, of those that have committed anything; and `ends` anew."""
        metas = {(flow, p): self._meta(flow, p) for flow in self._flows for p in range(self._settings.partitions)}
        for name in dict.fromkeys(name for flow in self._flows for name in inputs(flow)):
            self._look_at_end(name)
        tasks = [(flow, p) for flow in self._flows for p in range(self._settings.partitions)]
        self.aside = {task: why for task in tasks if (why := aside(self._settings, *task)) is not None}
        return {task: meta for task, meta in metas.items() if meta is not None}

    def lag(self, flow: str, partition: int, meta: Meta) -> int | None:
        """Offsets of a task's inputs that are not committed yet; None where an end is not known."""
        if any(name not in self.ends for name in inputs(flow)):
            return None
        positions = {inputs(flow)[0]: meta.position, **{name: place[0] for name, place in meta.inputs.items()}}
        return sum(max(0, self.ends[name][partition] - positions.get(name, 0)) for name in inputs(flow))

    def log(self, name: str) -> Log | None:
        """A log that is looked at, without its archive; None where there is none.

        Raises
        ------
        TidemarkError
            It can't be opened.
        """
        if name not in self._logs and log_exists(self._settings, name):
            self._logs[name] = open_live_log(self._settings, name, read_only=True)
        return self._logs.get(name)

    def let_go(self) -> None:
        """Close embedded logs until the next look: a log whose file somebody has open can't be restored."""
        if not self._settings.kafka:
            self._close_logs()

    def close(self) -> None:
        """Release everything."""
        self._close_logs()
        for view in self._views.values():
            view.close()
        self._views.clear()

    def _close_logs(self) -> None:
        while self._logs:
            self._logs.popitem()[1].close()

    def _meta(self, flow: str, partition: int) -> Meta | None:
        path, task = task_path(self._settings, flow, partition), (flow, partition)
        try:
            view = self._views.get(task)
            if view is not None:
                view.refresh()
            # Before that a database is only being made.
            elif (path / "CURRENT").exists():
                view = self._views[task] = TaskView(path)
            else:
                check_current(path)
            return view.meta if view is not None else None
        except TidemarkError as error:
            # Opened anew the next time: the state may have been put back.
            self._failed(f"{flow}/{partition}", error)
            if (view := self._views.pop(task, None)) is not None:
                view.close()
            return None

    def _look_at_end(self, name: str) -> None:
        try:
            if (log := self.log(name)) is not None:
                self.ends[name] = log.end_positions()
        except TidemarkError as error:
            self._failed(name, error)


def inputs(flow: str) -> tuple[str, ...]:
    """The logs that a flow reads; the first is the one that its position is of."""
    return (ACTIONS, SERVED) if flow == EXAMPLES else (flow,)


def aside(settings: Settings, flow: str, partition: int) -> str | None:
    """That whoever runs a flow now does without a task, with what to do and why; None where that isn't so, or nobody runs it."""
    why = noted(task_path(settings, flow, partition))
    # A run that was killed has left what it said.
    if why is None or not run_is_on(run_place(settings, flow)):
        return None
    name = f"{flow}/{partition}"
    return f"{name} is set aside by the run that is on, and goes no further; `{putting_back(name)}` puts it back ({why})"


def run_place(settings: Settings, flow: str) -> Path:
    """Where the lock lies of whoever runs a flow."""
    return settings.state / EXAMPLES if flow == EXAMPLES else settings.state


def bytes_in(path: Path) -> int:
    """What the files of a directory take; 0 where there is none."""
    total = 0
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                try:
                    total += entry.stat().st_size
                except FileNotFoundError:
                    # Compacted away this moment.
                    continue
    except OSError:
        return total
    return total
