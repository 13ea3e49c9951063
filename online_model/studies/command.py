"""`tidemark evaluate sync-interval` and the other studies: a command for each, all with the same options."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from flows.replaceable import refuse_unwritable
from flows.settings import Settings
from online_model.studies.giving import give
from online_model.studies.study import Progress

_FILE = click.Path(path_type=Path, dir_okay=False)
_MODULES = ("sync_interval", "retrain", "encoders", "revisit", "delayed_labels", "closed_loop", "user_embedding")


def _command(module: str) -> click.Command:
    name = module.replace("_", "-")

    @click.command(name, help=_HELP[module], epilog=f"Example: tidemark evaluate {name} --quick --html {name}.html")
    @click.option("--quick", is_flag=True, help="A small one, within minutes: shows that it runs, and is too small for claims.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
    @click.option("--html", type=_FILE, metavar="FILE", help="Write a page with plots, too.")
    @click.option(
        "--work",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Where all studies keep histories, bases and scores, and find what was made before. By default studies/ in the data directory.",
    )
    @click.pass_obj
    def study(settings: Settings, quick: bool, as_json: bool, html: Path | None, work: Path | None) -> None:
        refuse_unwritable(html)
        from online_model.studies.running import run

        one = import_module(f"online_model.studies.{module}").STUDY
        with _bar(as_json) as progress:
            found = run(one, one.quick if quick else one.full, work or settings.data / "studies", quick, progress)
        give(found, "online_model.studies", as_json, html)

    return study


@contextmanager
def _bar(quiet: bool) -> Iterator[Progress]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as shown:
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                for task in tasks.values():
                    shown.remove_task(task)
                tasks.clear()
                tasks[what] = shown.add_task(what, total=None)
            shown.update(tasks[what], completed=done, total=total or None)

        yield progress


_COMMON = """

    Simulates worlds that drift and one that doesn't, makes examples of them as `tidemark backfill` does, and trains, learns and scores for three
    seeds. All arms have the same log. Beside each difference stand its interval, from a bootstrap that draws users, and the least difference that
    could have been found. Worlds, days, seeds and settings lie in the repository. Stopped and run again, it goes on with what is missing.
    """
_HELP = {
    "sync_interval": "What it is worth to sync served ID rows each minute, hour, 5 hours, day, or never." + _COMMON,
    "retrain": "What it is worth to retrain twice a week, weekly or never, with realtime features and without." + _COMMON,
    "encoders": "Which encoder of the action sequence ranks best." + _COMMON,
    "revisit": "What the revisit head and the revisit features are worth." + _COMMON,
    "user_embedding": "What a daily embedding of the user is worth to the ranking model." + _COMMON,
    "delayed_labels": "How to learn online from labels that come late: fake negatives, waiting, or positives first." + _COMMON,
    "closed_loop": "What a learner does to saves and revisits per user-day, where users react to what is ranked."
    + _COMMON.replace("All arms have the same log", "All arms have the same requests, and the same pin in the same slot the same reaction"),
}

sync_interval, retrain, encoders, revisit, delayed_labels, closed_loop, user_embedding = map(_command, _MODULES)
