"""`tidemark replay checkpoint`: a checkpoint of every task, beside whoever runs it."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import click

from flows import stopping
from flows.errors import LockedError, TidemarkError
from flows.freed_memory import return_freed_memory
from flows.metrics_option import metrics_options, serve_if_asked
from flows.number_option import Number
from flows.open_log import log_exists, open_log
from flows.settings import Settings
from replay.checkpoints import keep as keeping
from replay.checkpoints.at_work import at_work
from replay.checkpoints.make import Made, make
from replay.checkpoints.metrics import Metrics
from replay.commands.options import DRY, JSON, TASK, bar, chosen, now
from replay.place import Place, PlaceError
from replay.tasks import KEPT, TaskName


@dataclass(frozen=True)
class _Asked:
    """What each round is to do."""

    keep: int
    keep_days: float | None
    mend: bool
    dry_run: bool
    as_json: bool


@dataclass
class _Round:
    """What came of one."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


# How long a first checkpoint waits for a first commit, seconds.
_LOOK_S = 60.0


@click.command(
    epilog="Example: tidemark replay checkpoint --keep 48 --keep-days 7; for ever: tidemark replay checkpoint --every 3600 --metrics-port 9463"
)
@TASK
@click.option("--keep", type=click.IntRange(1), default=24, show_default=True, help="Keep so many of each task's newest.")
@click.option("--keep-days", type=click.FloatRange(0), default=None, metavar="DAYS", help="Keep younger ones too.")
@click.option("--mend", is_flag=True, help="First read all that is there, and delete what is damaged.")
@click.option("--every", type=Number(1), metavar="SECONDS", help="Round after round, until stopped.")
@metrics_options("--every")
@DRY
@JSON
@click.pass_context
def checkpoint(
    ctx: click.Context,
    names: tuple[str, ...],
    keep: int,
    keep_days: float | None,
    mend: bool,
    every: float | None,
    metrics_port: int | None,
    metrics_address: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a checkpoint of every task, beside whoever runs it.

    Only what is new since the last one is written; all of that is read back and compared. Checkpoints that are older than what is kept go,
    with what only they needed. With --every a round that fails is said and tried again at the next, SIGTERM or Ctrl-C ends it, and the exit
    code is 0.
    """
    settings: Settings = ctx.obj
    if every is not None and dry_run:
        raise click.UsageError("--dry-run is of one round: leave out --every")
    if every is None and metrics_port is not None:
        raise click.UsageError("--metrics-port is of use with --every alone")
    asked, metrics = _Asked(keep, keep_days, mend, dry_run, as_json), Metrics()
    if every is None:
        if _round(settings, names, asked, metrics).failed:
            ctx.exit(1)
        return
    stopping.listen()
    return_freed_memory()
    serve_if_asked(metrics.registry, metrics_address, metrics_port, lambda line: click.echo(line, err=True))
    while True:
        pause = every
        try:
            if not _round(settings, names, asked, metrics).rows:
                # Nothing has come yet: the first one is not to wait for hours.
                pause = min(every, _LOOK_S)
        except TidemarkError as error:
            # Nothing may have come yet, or logs may be away.
            click.echo(f"tidemark: {error}; trying again in {every:g} s", err=True)
        if stopping.wait(pause):
            return


def _round(settings: Settings, names: tuple[str, ...], asked: _Asked, metrics: Metrics) -> _Round:
    """A checkpoint of each task, and what is said of it."""
    place = Place(settings.checkpoint_place)
    tasks = chosen(settings, names, KEPT)
    if not asked.as_json and not asked.dry_run:
        age = "" if asked.keep_days is None else f" and all of the last {asked.keep_days:g} days"
        click.echo(f"a checkpoint of {len(tasks)} tasks in {place.url}; of each task the newest {asked.keep}{age} are kept")
    done = _Round()
    with bar(asked.as_json, "checkpoint") as advance:
        for task in tasks:
            metrics.begin(task)
            row: dict[str, Any] = {"task": str(task)}
            try:
                # A dry run changes nothing, so it need not be alone.
                with nullcontext() if asked.dry_run else at_work(settings, task):
                    if asked.mend:
                        done.mended += keeping.mend(place, task.flow, task.partition, _end(settings, task), asked.dry_run, advance)
                    if not asked.dry_run:
                        made = make(settings, place, task.flow, task.partition, advance)
                        if made is None:
                            continue
                        metrics.made(task, made.manifest, made.bytes)
                        row |= _as_row(made)
                    swept = keeping.sweep(place, task.flow, task.partition, now(), asked.keep, asked.keep_days, asked.dry_run)
                    done.rows.append(row | {"deleted": asdict(swept)})
            except TidemarkError as error:
                metrics.failed(task)
                done.failed.append(f"{task}: {error}")
                # Another command goes through the tasks in the same order; and a place that is away would not take the others either.
                if isinstance(error, LockedError) or (isinstance(error, PlaceError) and place.slow):
                    break
    if asked.as_json:
        click.echo(json.dumps({"place": place.url, "tasks": done.rows, "mended": done.mended, "failed": done.failed}))
    else:
        for line in done.mended:
            click.echo(f"{'would delete' if asked.dry_run else 'deleted'}: {line}")
        _print_checkpoints(place, done.rows, asked.dry_run)
        for line in done.failed:
            click.echo(line, err=True)
    return done


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
