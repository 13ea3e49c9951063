"""The live display of a run: records, rate, watermark, time to go."""

from __future__ import annotations

from datetime import UTC, datetime
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text


class Rate(ProgressColumn):
    """Records in a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:>9,.0f}/s" if speed else "")


class LiveDisplay:
    """Bars on a terminal's standard error; silent where that is none, or when told to be.

    Parameters
    ----------
    quiet : bool
    """

    def __init__(self, quiet: bool = False) -> None:
        console = Console(stderr=True)
        self._shown = not quiet and console.is_terminal
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[shown]:>24}"),
            Rate(),
            TextColumn("watermark {task.fields[watermark]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not self._shown,
        )
        self._tasks: dict[str, TaskID] = {}
        self._marks: dict[str, int] = {}

    def __enter__(self) -> LiveDisplay:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def note(self, line: str) -> None:
        """A line that stays above the bars."""
        if self._shown:
            self._progress.console.print(line)

    def begin(self, flow: str, done: int, total: int | None) -> None:
        """A flow begins, with `done` records behind it, of `total` if it has an end."""
        self._tasks[flow] = self._progress.add_task(flow, total=total, completed=done, shown="", watermark="-")

    def advance(self, flow: str, offsets: int, watermark: int | None) -> None:
        """A task has moved on."""
        if watermark is not None:
            self._marks[flow] = max(self._marks.get(flow, watermark), watermark)
        self._progress.advance(self._tasks[flow], offsets)
        task = self._progress.tasks[self._tasks[flow]]
        of = f" of {task.total:,.0f}" if task.total is not None else ""
        self._progress.update(self._tasks[flow], shown=f"{task.completed:,.0f}{of}", watermark=moment(self._marks.get(flow)))


def moment(milliseconds: int | None) -> str:
    """A time for people, in UTC; the number where a calendar has none."""
    if milliseconds is None:
        return "-"
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, OSError, ValueError):
        return str(milliseconds)
