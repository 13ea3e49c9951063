"""`tidemark replay status`: how far back each task could be put."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict

import click
from rich import box
from rich.table import Table

from flows.archive.checking import coverage
from flows.open_log import log_exists, open_log
from flows.run.display import console_for_tables, moment
from flows.settings import Settings
from replay import tasks as task_names
from replay.commands.options import JSON, TASK, chosen
from replay.corrections import Listed, listed
from replay.place import Place
from replay.status import standings


@click.command(epilog="Example: tidemark replay status --json")
@TASK
@JSON
@click.pass_obj
def status(settings: Settings, names: tuple[str, ...], as_json: bool) -> None:
    """Each task's position, its checkpoints, how much of the log a restore would go through again, what of that is archived; and the corrections."""
    place = Place(settings.checkpoint_place)
    with ExitStack() as stack:
        logs = {
            name: stack.enter_context(open_log(settings, name, read_only=True)) for name in task_names.FLOWS if log_exists(settings, name)
        }
        tasks = chosen(settings, names, task_names.KEPT)
        rows = standings(settings, place, tasks, logs)
        archived = {str(task): coverage(settings, logs[task.source], task.partition) for task in tasks if task.source in logs}
    corrections = listed(settings)
    if as_json:
        told = [asdict(row) | {"to_replay": row.to_replay, "archive": asdict(archived[row.task])} for row in rows]
        click.echo(json.dumps({"place": place.url, "tasks": told, "corrections": [asdict(one) for one in corrections]}))
        return
    columns = ["task", "position", "kept", "newest", "made", "to replay", "log end"]
    # A terminal of 80 columns has no room for what says nothing.
    with_archive = any(one.segments for one in archived.values())
    table = Table(title=f"Checkpoints in {place.url}", title_justify="left", box=box.SIMPLE, pad_edge=False)
    for name in [*columns, "archived to", "gaps"] if with_archive else columns:
        table.add_column(name, justify="left" if name in ("task", "made") else "right", no_wrap=name == "task", overflow="fold")
    for row in rows:
        cells = [row.task, _number(row.position), str(row.checkpoints), _number(row.newest), moment(row.made_at)]
        cells += [_number(row.to_replay), _number(row.log_end)]
        in_archive = archived[row.task]
        table.add_row(*cells, *((_number(in_archive.end), str(len(in_archive.missing))) if with_archive else ()))
    console_for_tables().print(table)
    for row in rows:
        if row.problem is not None:
            click.echo(f"{row.task}: {row.problem}")
    if corrections:
        _print_corrections(corrections)


def _number(number: int | None) -> str:
    return f"{number:,}" if number is not None else "-"


def _print_corrections(corrections: list[Listed]) -> None:
    table = Table("number", "made", "by", "what", "tasks", "excluded", "patched", title="Corrections", title_justify="left", box=box.SIMPLE)
    for one in corrections:
        what = one.reason if one.in_force else f"{one.reason} (undone)"
        counts = (str(len(one.tasks)), f"{one.excluded:,}", f"{one.patched:,}")
        table.add_row(str(one.generation), moment(one.made_at), one.author, what, *counts)
    console_for_tables().print(table)
