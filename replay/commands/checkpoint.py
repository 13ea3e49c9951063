"""`tidemark replay checkpoint`: a checkpoint of every task, beside whoever runs it."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import click

from flows.errors import LockedError, TidemarkError
from flows.open_log import log_exists, open_log
from flows.settings import Settings
from replay.checkpoints import keep as keeping
from replay.checkpoints.at_work import at_work
from replay.checkpoints.make import Made, make
from replay.commands.options import DRY, JSON, TASK, bar, chosen, now
from replay.place import Place, PlaceError
from replay.tasks import KEPT, TaskName


@click.command(epilog="Example: tidemark replay checkpoint --keep 48 --keep-days 7")
@TASK
@click.option("--keep", type=click.IntRange(1), default=24, show_default=True, help="Keep so many of each task's newest.")
@click.option("--keep-days", type=click.FloatRange(0), default=None, metavar="DAYS", help="Keep younger ones too.")
@click.option("--mend", is_flag=True, help="First read all that is there, and delete what is damaged.")
@DRY
@JSON
@click.pass_obj
def checkpoint(
    settings: Settings, names: tuple[str, ...], keep: int, keep_days: float | None, mend: bool, dry_run: bool, as_json: bool
) -> None:
    """Make a checkpoint of every task, beside whoever runs it.

    Only what is new since the last one is written; all of that is read back and compared. Checkpoints that are older than what is kept go,
    with what only they needed.
    """
    place = Place(settings.checkpoint_place)
    rows: list[dict[str, Any]] = []
    mended: list[str] = []
    failed: list[str] = []
    tasks = chosen(settings, names, KEPT)
    if not as_json and not dry_run:
        age = "" if keep_days is None else f" and all of the last {keep_days:g} days"
        click.echo(f"a checkpoint of {len(tasks)} tasks in {place.url}; of each task the newest {keep}{age} are kept")
    with bar(as_json, "checkpoint") as advance:
        for task in tasks:
            row: dict[str, Any] = {"task": str(task)}
            try:
                # A dry run changes nothing, so it need not be alone.
                with nullcontext() if dry_run else at_work(settings, task):
                    if mend:
                        mended += keeping.mend(place, task.flow, task.partition, _end(settings, task), dry_run, advance)
                    if not dry_run:
                        made = make(settings, place, task.flow, task.partition, advance)
                        if made is None:
                            continue
                        row |= _as_row(made)
                    row["deleted"] = asdict(keeping.sweep(place, task.flow, task.partition, now(), keep, keep_days, dry_run))
                    rows.append(row)
            except TidemarkError as error:
                failed.append(f"{task}: {error}")
                # Another command goes through the tasks in the same order; and a place that is away would not take the others either.
                if isinstance(error, LockedError) or (isinstance(error, PlaceError) and place.slow):
                    break
    if as_json:
        click.echo(json.dumps({"place": place.url, "tasks": rows, "mended": mended, "failed": failed}))
    else:
        for line in mended:
            click.echo(f"{'would delete' if dry_run else 'deleted'}: {line}")
        _print_checkpoints(place, rows, dry_run)
        for line in failed:
            click.echo(line, err=True)
    if failed:
        click.get_current_context().exit(1)


def _as_row(made: Made) -> dict[str, Any]:
    return {
        "position": made.manifest.position,
        "new": made.new,
        "pieces": len(made.manifest.pieces),
        "bytes": made.manifest.bytes,
        "written_pieces": made.pieces,
        "written_bytes": made.bytes,
        "seconds": round(made.seconds, 3),
    }


def _end(settings: Settings, task: TaskName) -> int | None:
    """Where a task's input ends."""
    if not log_exists(settings, task.source):
        return None
    with open_log(settings, task.source, read_only=True) as log:
        return log.end_position(task.partition)


def _print_checkpoints(place: Place, rows: list[dict[str, Any]], dry_run: bool) -> None:
    deleted = sum(row["deleted"]["checkpoints"] for row in rows)
    freed = sum(row["deleted"]["bytes"] for row in rows) / 1e6
    if dry_run:
        click.echo(f"would make a checkpoint of {len(rows)} tasks in {place.url}, and delete {deleted} older ones ({freed:,.1f} MB)")
        return
    new = sum(row["new"] for row in rows)
    written = sum(row["written_bytes"] for row in rows) / 1e6
    whole = sum(row["bytes"] for row in rows) / 1e6
    click.echo(
        f"{new} of {len(rows)} tasks have moved; {written:,.1f} MB written to {place.url} of {whole:,.1f} MB of state, read back and the same; "
        f"{deleted} older checkpoints deleted ({freed:,.1f} MB)"
    )
