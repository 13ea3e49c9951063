"""`tidemark replay restore --log`: a log's file, made anew."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict

import click

from flows.archive.archive import Range
from flows.errors import TidemarkError
from flows.outputs import ACTIONS, EMBEDDINGS, OUTPUTS, SERVED
from flows.settings import Settings
from flows.state.task import task_path
from flows.state.view import TaskView
from replay.commands.options import bar
from replay.in_place import REPLACED
from replay.restore_log import RestoredLog, restore_log

_TASKS_PUT_OUT = "`tidemark replay restore` puts the tasks back that put the rest out again"


def restore_logs(settings: Settings, names: Iterable[str], dry_run: bool, as_json: bool) -> None:
    """Restore logs, and say of what."""
    done: list[RestoredLog] = []
    with bar(as_json, "read logs" if dry_run else "restore logs") as advance:
        for name in names:
            done.append(restore_log(settings, name, _reached(settings) if name == ACTIONS else {}, dry_run, advance))
    if as_json:
        click.echo(json.dumps({"dry_run": dry_run, "logs": [asdict(one) for one in done]}))
        return
    for one in done:
        _print(settings, one, dry_run)


def _reached(settings: Settings) -> dict[int, int]:
    """How far into ACTIONS its tasks have been."""
    reached: dict[int, int] = {}
    for partition in range(settings.partitions):
        path = task_path(settings, ACTIONS, partition)
        # One that is damaged too says nothing.
        with suppress(TidemarkError):
            if (path / "CURRENT").exists():
                view = TaskView(path)
                reached[partition] = view.meta.position if view.meta is not None else 0
                view.close()
    return reached


def _print(settings: Settings, one: RestoredLog, dry_run: bool) -> None:
    if one.sound:
        click.echo(f"log {one.log} is sound: nothing to restore")
        return
    verb = "would be made anew" if dry_run else "made anew"
    click.echo(f"log {one.log}: {verb}, {sum(one.ends):,} records; {one.damaged:,} batches of the old file are not what was written")
    for partition, ranges in one.archived.items():
        click.echo(f"  partition {partition}: from the archive: offsets {_written(ranges)}")
    for partition, (end, ended) in one.cut.items():
        again = "the learner puts the rest out again" if one.log == EMBEDDINGS else _TASKS_PUT_OUT
        click.echo(f"  partition {partition}: ends at {end:,} now, not {ended:,}; {again}")
    if not one.readable and one.log == EMBEDDINGS:
        click.echo("  nothing of the old file could be read; the learner puts out again what the archive lacks")
    elif not one.readable and one.log in OUTPUTS:
        click.echo(
            "  nothing of the old file could be read; `tidemark replay restore` puts the tasks back that put out again what the archive lacks"
        )
    elif not one.readable:
        again = "" if one.log == SERVED else "; ingest it again"
        click.echo(f"  nothing of the old file could be read: what was appended behind the archive's end, if anything, is lost{again}")
    if not one.ledger_whole and one.log == ACTIONS:
        click.echo("  its ledger could not be read: don't ingest the same files again, they would be taken for new ones")
    old = settings.logs / f"{one.log}.db{REPLACED}"
    if not dry_run and old.exists():
        click.echo(f"  the old file is {old}; once `tidemark replay verify` is content, delete it")


def _written(ranges: Iterable[Range]) -> str:
    return ", ".join(f"{low:,} to {high - 1:,}" for low, high in ranges)
