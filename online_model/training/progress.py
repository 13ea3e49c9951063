"""The progress of a training on a terminal: examples, how many in a second, and the time to go. Nowhere else is anything shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flows.run.display import RateColumn


@contextmanager
def bar(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """What `train` tells of its progress, shown while the context lasts.

    Parameters
    ----------
    quiet : bool
        Show nothing.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as shown:
        task = shown.add_task("examples", total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
