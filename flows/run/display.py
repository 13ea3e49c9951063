"""The live display of a run: records, rate, watermark, time to go."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

NOTHING_APPLIED = "nothing has been applied yet: `tidemark run` applies what is in the log"

# What all but the bar needs, so that none of it is cut on a terminal of 80 columns; the bar has what is left.
_TEXT_COLUMNS = 79
_BAR = range(6, 25)
# Of tables in a file or a pipe: what any of them needs.
_WIDTH = 180


def refusals(refused: int, records: int) -> str:
    """What to say where records became dead letters, so that a log that is refused doesn't look like one that is applied."""
    of = f"{refused:,} of {records:,} record{'s' * (records != 1)} {'was' if refused == 1 else 'were'} refused"
    return f"{of}: `tidemark deadletters list` says why"


def nothing_accepted(counts: Mapping[str, int]) -> str:
    """Why nothing is known of anything, out of what became of the records that were applied, and the way on."""
    records, dead = counts.get("records", 0), sum(n for name, n in counts.items() if name.startswith("deadletter."))
    if not records:
        return NOTHING_APPLIED
    if dead < records:
        return f"of {records:,} records that were applied none was accepted: `tidemark status` says what became of them"
    return f"nothing is known of anything yet: {refusals(dead, records)}"


def console_for_tables() -> Console:
    """Where tables are printed: as wide as the terminal, and wide enough where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


class RateColumn(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:>7,.0f}/s" if speed else "")


class LiveDisplay:
    """Bars on a terminal's standard error; silent where that is none, or when told to be, but for warnings.

    Parameters
    ----------
    quiet : bool
    console : Console, optional
        Instead of standard error.
    """

    def __init__(self, quiet: bool = False, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        bar = min(console.width - _TEXT_COLUMNS, _BAR[-1])
        self._shown = not quiet and console.is_terminal
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<8}"),
            *([BarColumn(bar_width=bar)] if bar in _BAR else []),
            TextColumn("{task.fields[shown]:>22}"),
            RateColumn(),
            TextColumn("{task.fields[watermark]}"),
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
            self._progress.console.print(line, markup=False, highlight=False)

    def warn(self, line: str) -> None:
        """A line that is said in any case."""
        if self._shown:
            self._progress.console.print(line, markup=False, highlight=False)
        else:
            click.echo(f"tidemark: {line}", err=True)

    def begin(self, flow: str, done: int, total: int | None) -> None:
        """A flow begins, with `done` records behind it, of `total` if it has an end."""
        self._tasks[flow] = self._progress.add_task(flow, total=total, completed=done, shown=counted(done, total), watermark="")

    def advance(self, flow: str, offsets: int, watermark: int | None) -> None:
        """A task has moved on."""
        if watermark is not None:
            self._marks[flow] = max(self._marks.get(flow, watermark), watermark)
        task = self._progress.tasks[self._tasks[flow]]
        done = task.completed + offsets
        mark = f"watermark {moment(self._marks[flow])}" if flow in self._marks else ""
        self._progress.update(self._tasks[flow], completed=done, shown=counted(done, task.total), watermark=mark)


def counted(done: float, total: float | None) -> str:
    """How many, of how many; in millions where the numbers would be too long."""
    if max(done, total or 0) >= 10_000_000:
        return f"{done / 1e6:,.1f}{f' of {total / 1e6:,.1f}' if total is not None else ''} M"
    return f"{done:,.0f}{f' of {total:,.0f}' if total is not None else ''}"


def moment(milliseconds: int | None) -> str:
    """A time for people, in UTC; the number where a calendar has none."""
    if milliseconds is None:
        return "-"
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, OSError, ValueError):
        return str(milliseconds)
