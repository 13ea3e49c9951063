"""`tidemark replay diff`: what two states of a task say differently."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from flows.errors import DataDirectoryError, StateError
from flows.open_log import open_log
from flows.settings import Settings
from flows.state.task import task_path
from flows.state.view import TaskView
from replay import tasks as task_names
from replay.commands.options import JSON, TASK, chosen, records_bar
from replay.commands.showing import print_difference
from replay.in_place import REPLACED
from replay.rebuild.difference import Difference, difference, state_of


@click.command(epilog="Example: tidemark replay diff --task actions/3 --with-replaced")
@click.option("--with", "other", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Another data directory.")
@click.option("--with-replaced", is_flag=True, help="The states that a restore or a rebuild has replaced, and kept.")
@TASK
@click.option("--dry-run", is_flag=True, help="Say which states would be compared, and where they stand.")
@JSON
@click.pass_context
def diff(ctx: click.Context, other: Path | None, with_replaced: bool, names: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Which entities and features two states say differently, and the largest changes.

    Features are compared at the later of the two watermarks. States of different positions differ by what came in between. Exits with 1 if
    anything differs.
    """
    settings: Settings = ctx.obj
    if (other is None) == (not with_replaced):
        raise click.UsageError("say with what to compare: --with DIRECTORY or --with-replaced")
    theirs = replace(settings, data=other, archive=None) if other is not None else settings
    vocabulary = settings.load_vocabulary()
    total, rows, damaged = Difference(), list[dict[str, Any]](), list[str]()
    with ExitStack() as stack, records_bar(as_json, "compare") as (advance, of):
        wanted = chosen(settings, names)
        of(len(wanted))
        logs = [{name: stack.enter_context(open_log(s, name, read_only=True)) for name in task_names.FLOWS} for s in (settings, theirs)]
        for task in wanted:
            paths = [task_path(s, task.flow, task.partition) for s in (theirs, settings)]
            if with_replaced:
                paths[0] = paths[0].with_name(paths[0].name + REPLACED)
            if not all((path / "CURRENT").exists() for path in paths):
                if names:
                    raise DataDirectoryError(f"{task}: there is no state in {next(p for p in paths if not (p / 'CURRENT').exists())}")
                advance(1)
                continue
            try:
                with closing(TaskView(paths[0])) as their_view, closing(TaskView(paths[1])) as view:
                    if with_replaced and their_view.meta is None:
                        raise StateError(f"state {paths[0]}: there is no commit in it")
                    if dry_run:
                        rows.append(
                            {"task": str(task), "positions": [each.meta.position if each.meta else 0 for each in (their_view, view)]}
                        )
                    else:
                        a = state_of(theirs, vocabulary, their_view, logs[1][task.flow])
                        b = state_of(settings, vocabulary, view, logs[0][task.flow])
                        as_of = max(state.meta.watermark or 0 for state in (a, b))
                        found = difference(a, b, max(state.meta.expired_to for state in (a, b)), as_of)
                        positions = [a.meta.position, b.meta.position]
                        rows.append({"task": str(task), "positions": positions, "differs": bool(found), **asdict(found)})
                        total.add(found)
            except StateError as error:
                if not with_replaced or str(paths[0]) not in str(error):
                    raise
                # Most states are replaced for that, and there is nothing to put back.
                why = str(error).partition("; put the task back")[0]
                damaged.append(f"{task}: what was replaced is damaged, so there is nothing to compare with ({why})")
            advance(1)
    for line in damaged:
        click.echo(f"tidemark: {line}; `tidemark replay audit` compares what is there now with the log", err=True)
    if damaged and not rows:
        ctx.exit(1)
    if not rows:
        raise DataDirectoryError(
            "there is nothing to compare with: no state was replaced" if with_replaced else f"there is no state in {other}"
        )
    if dry_run:
        _print_plan(rows, as_json)
        return
    if as_json:
        click.echo(json.dumps({"tasks": rows, "difference": asdict(total)}))
    else:
        print_difference(total)
        moved = [row["task"] for row in rows if row["positions"][0] != row["positions"][1]]
        if moved:
            click.echo(f"at different positions: {', '.join(moved)}")
    if total:
        ctx.exit(1)


def _print_plan(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"dry_run": True, "tasks": rows}))
        return
    for row in rows:
        click.echo(f"{row['task']}: state at position {row['positions'][0]:,} with the one at {row['positions'][1]:,}")
    click.echo(f"would compare the states of {len(rows)} task{'s' * (len(rows) != 1)}; nothing was compared")
