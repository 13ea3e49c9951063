"""The stages of a retrain on a terminal's standard error: how much is done, how fast, and the time to go; and how long each took.

Nothing is shown where nobody looks.
"""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from flows.run.display import RateColumn


class StageBars:
    """A bar for each stage, in the order in which they come.

    Parameters
    ----------
    quiet : bool
        Show nothing.

    Attributes
    ----------
    seconds : dict of str to float
        That each stage has taken so far.
    """

    def __init__(self, quiet: bool) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description:<11}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
        self._shown = Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True)
        self._tasks: dict[str, TaskID] = {}
        self.seconds: dict[str, float] = {}
        self._at = time.monotonic()

    def __enter__(self) -> StageBars:
        self._shown.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """How much of a stage is done, and of how much."""
        if stage not in self._tasks:
            self._tasks[stage] = self._shown.add_task(stage, total=total)
        now = time.monotonic()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._at
        self._at = now
        self._shown.update(self._tasks[stage], completed=done, total=total)
