"""`tidemark replay`: find what is damaged, put it back, and prove that it is."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from flows.errors import DataDirectoryError, TidemarkError
from flows.log import Log
from flows.open_log import log_exists, open_live_log, open_log
from flows.outputs import ACTIONS, LOGS
from flows.run.display import LiveDisplay, moment
from flows.run.main_job import run_flows
from flows.settings import Settings
from flows.state.actions_task import state_fingerprint
from flows.state.lock import run_lock
from replay import tasks as task_names
from replay.checkpoints import keep as keeping
from replay.checkpoints.make import make
from replay.place import Place
from replay.restore import Restored, Restorer
from replay.status import standings
from replay.tasks import TaskName
from replay.verify import Problem, verify_checkpoints, verify_log, verify_segments, verify_state

_TASK = click.option(
    "--task",
    "names",
    multiple=True,
    metavar="FLOW/PARTITION",
    help="Only this task, e.g. actions/3, or a flow (may be given several times).",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_DRY = click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")


@click.group()
def replay() -> None:
    """Checkpoints of state, and the way back after damage.

    State is a function of the log: a task is put back from its newest sound checkpoint and the log behind it, or from the log alone, and is
    then the same to the byte. Checkpoints lie in checkpoints/ of the data directory, or where the setting checkpoints says
    (TIDEMARK_CHECKPOINTS=s3://bucket/path, or any other URL of fsspec's).
    """


@replay.command(epilog="Example: tidemark replay status --json")
@_TASK
@_JSON
@click.pass_obj
def status(settings: Settings, names: tuple[str, ...], as_json: bool) -> None:
    """Each task's position, its checkpoints, and how much of the log a restore would go through again."""
    place = Place(settings.checkpoint_place)
    with ExitStack() as stack:
        logs = {
            name: stack.enter_context(open_log(settings, name, read_only=True)) for name in task_names.FLOWS if log_exists(settings, name)
        }
        rows = standings(settings, place, _chosen(settings, names), logs)
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


@replay.command(epilog="Example: tidemark replay checkpoint --keep 48 --keep-days 7")
@_TASK
@click.option("--keep", type=click.IntRange(1), default=24, show_default=True, help="Keep so many of each task's newest.")
@click.option("--keep-days", type=click.FloatRange(0), default=None, metavar="DAYS", help="Keep younger ones too.")
@_DRY
@_JSON
@click.pass_obj
def checkpoint(settings: Settings, names: tuple[str, ...], keep: int, keep_days: float | None, dry_run: bool, as_json: bool) -> None:
    """Make a checkpoint of every task, beside whoever runs it.

    Only what is new since the last one is written; all of that is read back and compared. Checkpoints that are older than what is kept go,
    with what only they needed.
    """
    place = Place(settings.checkpoint_place)
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    with _bar(as_json, "checkpoint") as advance:
        for task in _chosen(settings, names):
            row: dict[str, Any] = {"task": str(task)}
            try:
                if not dry_run:
                    made = make(settings, place, task.flow, task.partition, advance)
                    if made is None:
                        continue
                    row |= {
                        "position": made.manifest.position,
                        "new": made.new,
                        "pieces": len(made.manifest.pieces),
                        "bytes": made.manifest.bytes,
                        "written_pieces": made.pieces,
                        "written_bytes": made.bytes,
                        "seconds": round(made.seconds, 3),
                    }
                row["deleted"] = asdict(keeping.sweep(place, task.flow, task.partition, _now(), keep, keep_days, dry_run))
                rows.append(row)
            except TidemarkError as error:
                failed.append(f"{task}: {error}")
    if as_json:
        click.echo(json.dumps({"place": place.url, "tasks": rows, "failed": failed}))
    else:
        _print_checkpoints(place, rows, dry_run)
        for line in failed:
            click.echo(line, err=True)
    if failed:
        click.get_current_context().exit(1)


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


@replay.command(epilog="Example: tidemark replay restore --task actions/3 --dry-run")
@_TASK
@click.option("--all", "everything", is_flag=True, help="Every task.")
@click.option("--then-run/--no-run", default=True, show_default=True, help="Then run the flows up to where the log ends now.")
@_DRY
@_JSON
@click.pass_obj
def restore(settings: Settings, names: tuple[str, ...], everything: bool, then_run: bool, dry_run: bool, as_json: bool) -> None:
    """Put tasks back: the newest checkpoint that is sound, then the log from its position.

    Without --task or --all: those whose state `tidemark replay verify` finds damaged. The old state stays beside the new one
    (state/<flow>/<partition>.replaced) until the next time.
    """
    place, vocabulary = Place(settings.checkpoint_place), settings.load_vocabulary()
    asked = _chosen(settings, names)
    with ExitStack() as stack:
        if not dry_run:
            stack.enter_context(run_lock(settings.state))
        logs = {name: stack.enter_context(open_log(settings, name, create=not dry_run)) for name in task_names.FLOWS}
        if names or everything:
            chosen = task_names.every(settings) if everything else asked
        else:
            with _bar(as_json, "verify state") as advance:
                chosen = [task for task in asked if _damaged(verify_state(settings, vocabulary, task, logs, advance))]
        with _bar(as_json, "read checkpoints" if dry_run else "restore") as advance:
            restorer = Restorer(settings, place, state_fingerprint(settings, vocabulary), logs, advance)
            done = [restorer.plan(task) if dry_run else restorer.restore(task) for task in chosen]
    ran = None
    if done and then_run and not dry_run:
        with LiveDisplay(quiet=as_json) as display:
            ran = run_flows(settings, "all", follow=False, workers=1, display=display)
    if as_json:
        click.echo(
            json.dumps(
                {"place": place.url, "dry_run": dry_run, "restored": [_as_row(one) for one in done], "ran": asdict(ran) if ran else None}
            )
        )
        return
    if not done:
        click.echo("every task's state is sound: nothing to restore")
        return
    _print_restored(done, dry_run)
    if ran is not None:
        click.echo(f"then {ran.events:,} events and {ran.changes:,} revisit changes replayed in {ran.seconds:.1f} s")


def _damaged(problems: Iterable[Problem]) -> bool:
    """Whether more is wrong than that the log has to be applied again."""
    return any(problem.kind == "state" for problem in list(problems))


def _as_row(one: Restored) -> dict[str, Any]:
    return {
        "task": str(one.task),
        "position": one.position,
        "made_at": one.manifest.made_at if one.manifest else None,
        "log_end": one.log_end,
        "to_replay": one.to_replay,
        "passed_over": one.passed_over,
    }


def _print_restored(done: list[Restored], dry_run: bool) -> None:
    table = Table(
        "task", "from", "position", "log end", "to replay", title="Would be restored" if dry_run else "Restored", title_justify="left"
    )
    for one in done:
        made = f"checkpoint of {moment(one.manifest.made_at)}" if one.manifest else "nothing: the log from its beginning"
        table.add_row(str(one.task), made, f"{one.position:,}", f"{one.log_end:,}", f"{one.to_replay:,}")
    Console().print(table)
    for one in done:
        for reason in one.passed_over:
            click.echo(f"{one.task}: passed over: {reason}")


@replay.command(epilog="Example: tidemark replay verify --json")
@_TASK
@_JSON
@click.pass_context
def verify(ctx: click.Context, names: tuple[str, ...], as_json: bool) -> None:
    """Read everything that is stored, and check it: logs, archive, state, checkpoints, and how they fit each other.

    Changes nothing, and nobody has to stop. Exits with 1 if anything is wrong, and says what to do about it. With --task: the state and the
    checkpoints of that task alone.
    """
    settings: Settings = ctx.obj
    place, vocabulary = Place(settings.checkpoint_place), settings.load_vocabulary()
    chosen = _chosen(settings, names)
    problems: list[Problem] = []
    read = 0
    with ExitStack() as stack, _bar(as_json, "verify") as show:

        def advance(size: int) -> None:
            nonlocal read
            read += size
            show(size)

        logs: dict[str, Log] = {}
        for name in LOGS:
            if log_exists(settings, name):
                logs[name] = stack.enter_context(open_log(settings, name, read_only=True))
        if not names:
            for name, log in logs.items():
                live = stack.enter_context(open_live_log(settings, name, read_only=True))
                for partition in range(log.partitions):
                    problems += verify_log(live, partition, advance)
                    problems += verify_segments(settings, live, partition, advance)
        for task in chosen:
            if task.flow in logs:
                problems += verify_state(settings, vocabulary, task, logs, advance)
            problems += verify_checkpoints(place, task, advance)
    if as_json:
        click.echo(json.dumps({"bytes": read, "problems": [asdict(problem) for problem in problems]}))
    else:
        for problem in problems:
            click.echo(f"{problem.where}: {problem.what}\n  → {problem.remedy}")
        click.echo(f"{read / 1e6:,.1f} MB read; {len(problems)} problem{'s' * (len(problems) != 1)}")
    if problems:
        ctx.exit(1)


def _chosen(settings: Settings, names: tuple[str, ...]) -> list[TaskName]:
    """The tasks that were named, or all, of a data directory that is one."""
    if not log_exists(settings, ACTIONS):
        raise DataDirectoryError(f"there is no log in {settings.logs}; `tidemark ingest` makes one")
    return task_names.named(settings, names) if names else task_names.every(settings)


def _now() -> int:
    return time.time_ns() // 1_000_000


@contextmanager
def _bar(quiet: bool, what: str) -> Iterator[Any]:
    """Shows bytes as they go by, with their rate; gives what to call with how many there are."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as progress:
        bar = progress.add_task(what, total=None)
        yield lambda size: progress.advance(bar, size)
