"""`tidemark replay status`: how far back each task could be put."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict

import click
from rich import box
from rich.console import Console
from rich.table import Table

from flows.open_log import log_exists, open_log
from flows.run.display import moment
from flows.settings import Settings
from replay import tasks as task_names
from replay.commands.options import JSON, TASK, chosen
from replay.place import Place
from replay.status import standings


@click.command(epilog="Example: tidemark replay status --json")
@TASK
@JSON
@click.pass_obj
def status(settings: Settings, names: tuple[str, ...], as_json: bool) -> None:
    """Each task's position, its checkpoints, and how much of the log a restore would go through again."""
    place = Place(settings.checkpoint_place)
    with ExitStack() as stack:
        logs = {
            name: stack.enter_context(open_log(settings, name, read_only=True)) for name in task_names.FLOWS if log_exists(settings, name)
        }
        rows = standings(settings, place, chosen(settings, names), logs)
    if as_json:
        tasks = [asdict(row) | {"to_replay": row.to_replay} for row in rows]
        click.echo(json.dumps({"place": place.url, "tasks": tasks}))
        return
    table = Table(title=f"Checkpoints in {place.url}", title_justify="left", box=box.SIMPLE)
    for name in ("task", "position", "kept", "newest", "made", "to replay"):
        table.add_column(name, justify="left" if name in ("task", "made") else "right", no_wrap=True)
    for row in rows:
        position, newest = (f"{number:,}" if number is not None else "-" for number in (row.position, row.newest))
        table.add_row(row.task, position, str(row.checkpoints), newest, moment(row.made_at), f"{row.to_replay:,}")
    Console().print(table)
    for row in rows:
        if row.problem is not None:
            click.echo(f"{row.task}: {row.problem}")
