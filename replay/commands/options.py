"""What the commands of `tidemark replay` share: options, the tasks that were named, the bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from flows.errors import DataDirectoryError
from flows.open_log import log_exists
from flows.outputs import ACTIONS
from flows.run.display import RateColumn
from flows.settings import Settings
from replay import tasks as task_names
from replay.tasks import TaskName

TASK = click.option(
    "--task",
    "names",
    multiple=True,
    metavar="FLOW/PARTITION",
    help="Only this task, e.g. actions/3, or a flow (may be given several times).",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
DRY = click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")


def chosen(settings: Settings, names: tuple[str, ...], flows: tuple[str, ...] = task_names.FLOWS) -> list[TaskName]:
    """The tasks that were named, or all, of a data directory that is one."""
    refuse_gone(settings, ACTIONS)
    if not log_exists(settings, ACTIONS):
        raise DataDirectoryError(f"there is no log in {settings.logs}; `tidemark ingest` makes one")
    return task_names.named(settings, names, flows) if names else task_names.every(settings, flows)


def refuse_gone(settings: Settings, name: str) -> None:
    """Refuse to go on where a log's file is gone and its archive is not: it must not be begun anew.

    Raises
    ------
    DataDirectoryError
    """
    if not log_exists(settings, name) and (settings.archives / name).is_dir():
        raise DataDirectoryError(
            f"log '{name}' is gone from {settings.logs}; from its archive in {settings.archives}: `tidemark replay restore --log {name}`"
        )


def now() -> int:
    """Wall clock, ms since 1970."""
    return time.time_ns() // 1_000_000


@contextmanager
def bar(quiet: bool, what: str, total: int | None = None) -> Iterator[Any]:
    """Shows bytes as they go by, with their rate, and the time to go where it is known how many they are; gives what to call with how many."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as progress:
        bar = progress.add_task(what, total=total)
        yield lambda size: progress.advance(bar, size)


@contextmanager
def records_bar(quiet: bool, what: str) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Shows records as they go by, with their rate and the time to go; gives what to call with how many, and with how many there are."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as progress:
        bar = progress.add_task(what, total=None)
        yield lambda n: progress.advance(bar, n), lambda n: progress.update(bar, total=n)
