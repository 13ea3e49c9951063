"""`tidemark replay audit`: a sample of what state says, recomputed from the log."""

from __future__ import annotations

import itertools
import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from flows import last_told, stopping
from flows.errors import TidemarkError
from flows.freed_memory import return_freed_memory, return_now
from flows.metrics_option import metrics_options, serve_if_asked
from flows.open_log import log_exists, open_log
from flows.run.display import RateColumn
from flows.settings import Settings
from replay import tasks as task_names
from replay.audit.audit import Audited, Auditor
from replay.audit.metrics import Metrics
from replay.audit.pace import Pace, StopRequested
from replay.commands.options import JSON, TASK, chosen
from replay.tasks import TaskName

# Between two rounds of an audit that goes on and on: for where there is so little to read that it would never wait.
_PAUSE_S = 1.0
_BUDGET = 0.1
# Of what a page is told.
_SHOWN = 5


class _Size(click.ParamType):
    name = "N|all"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "all" or isinstance(value, int):
            return value
        if str(value).isdecimal() and int(str(value)) > 0:
            return int(str(value))
        self.fail(f"'{value}' is neither a number above 0 nor 'all'", param, ctx)


@click.command(
    epilog="Example: tidemark replay audit --sample all; for ever: tidemark replay audit --follow --cpu-budget 0.05 --metrics-port 9464"
)
@TASK
@click.option(
    "--sample", type=_Size(), metavar="N|all", default=1000, show_default=True, help="Entities of each kind and task: users, topics, pins."
)
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=None, help="Of the sample; the same seed gives the same one. Default: a new one."
)
@click.option(
    "--once/--follow", default=True, show_default=True, help="One round, or round after round, each with a fresh sample, until stopped."
)
@click.option(
    "--cpu-budget",
    type=click.FloatRange(0, 1, min_open=True),
    default=None,
    metavar="SHARE",
    help=f"Share of one core to use, measured and kept by waiting, e.g. 0.1. Default: {_BUDGET} with --follow, else as fast as it goes.",
)
@metrics_options("--follow")
@click.option("--dry-run", is_flag=True, help="Say what would be read, and read nothing.")
@JSON
@click.pass_context
def audit(
    ctx: click.Context,
    names: tuple[str, ...],
    sample: int | str,
    seed: int | None,
    once: bool,
    cpu_budget: float | None,
    metrics_port: int | None,
    metrics_address: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Recompute a random sample of live entities from the log, and compare it with state, bit by bit.

    `verify` finds bytes that changed after they were written; this finds what was written wrong. The same kernels run over the log and its archive up
    to the position that the task has committed; what comes out must be what state says: sequences, revisits and labels of users, topics,
    revisits of pins. Entities that state has lost, or has too many, are found too. Changes nothing, and nobody has to stop.

    Each round reads the log from its beginning, whatever the size of the sample, so a larger sample costs little more time.

    Exits with 1 if anything differs or can't be audited. With --follow, SIGTERM or Ctrl-C ends it; the exit code then is 0 if nothing was ever
    found, and every round could be done.
    """
    settings: Settings = ctx.obj
    tasks = chosen(settings, names)
    if metrics_port is not None and once:
        raise click.UsageError("--metrics-port is of use with --follow alone")
    first = seed if seed is not None else secrets.randbits(32)
    size = sample if isinstance(sample, int) else None
    if dry_run:
        _print_plan(settings, tasks, sample, first, as_json)
        return
    pace = Pace(cpu_budget if cpu_budget is not None or once else _BUDGET)
    found = False
    if once:
        found = _round(settings, tasks, first, size, pace, as_json, lambda done: None)
    else:
        stopping.listen()
        return_freed_memory()
        metrics = Metrics(pace)
        serve_if_asked(metrics.registry, metrics_address, metrics_port, lambda line: click.echo(line, err=True))
        try:
            for each in _for_ever(settings, tasks, first, size, pace, as_json, metrics.observe):
                found |= each
        except StopRequested:
            pass
    if found:
        ctx.exit(1)


def _for_ever(
    settings: Settings, tasks: list[TaskName], first: int, size: int | None, pace: Pace, as_json: bool, observe: Callable[[Audited], None]
) -> Iterator[bool]:
    """Round after round until a stop is asked for; of each, whether anything was found.

    A round that can't be done (a log that is being restored, an archive that is away) is counted as a failure of each task that it left out, and
    said the first time that it is for this reason: the next one may go well.
    """
    said: set[str] = set()
    for turn in itertools.count():
        left = set(tasks)

        def take_in(done: Audited, left: set[TaskName] = left) -> None:
            left.discard(done.task)
            observe(done)

        try:
            yield _round(settings, tasks, first + turn, size, pace, as_json, take_in)
        except TidemarkError as error:
            for task in sorted(left):
                observe(Audited(task, None, problem=str(error)))
            last_told.tell(settings, last_told.AUDIT, {"problem": str(error)})
            if str(error) not in said:
                said.add(str(error))
                click.echo(f"not audited: {error}", err=True)
            yield True
        return_now()
        if stopping.wait(_PAUSE_S):
            return


def _round(
    settings: Settings, tasks: list[TaskName], seed: int, size: int | None, pace: Pace, as_json: bool, observe: Callable[[Audited], None]
) -> bool:
    """Audit every task once, say what was found, and whether anything was."""
    began, read = time.monotonic(), 0
    done: list[Audited] = []
    with ExitStack() as stack:
        logs = {
            name: stack.enter_context(open_log(settings, name, read_only=True)) for name in task_names.FLOWS if log_exists(settings, name)
        }
        advance = stack.enter_context(_bar(as_json))

        def step(records: int) -> None:
            nonlocal read
            read += records
            advance(records)
            pace.step()

        auditor = Auditor(settings, settings.load_vocabulary(), logs, seed, size, step)
        advance(0, auditor.to_read(tasks))
        for one in auditor.audit(tasks):
            done.append(one)
            observe(one)
            pace.step()
    seconds = time.monotonic() - began
    last_told.tell(settings, last_told.AUDIT, _in_short(done, seed, size, seconds))
    if as_json:
        click.echo(json.dumps(_as_json(done, seed, size, read, seconds, pace)))
    else:
        _print(done, seed, read, seconds, pace)
    return any(one.mismatches or one.problem for one in done)


def _in_short(done: list[Audited], seed: int, size: int | None, seconds: float) -> dict[str, Any]:
    """What a page says of a round."""
    mismatches = [mismatch for one in done for mismatch in one.mismatches]
    return {
        "tasks": len(done),
        "complete": sum(one.complete for one in done),
        "entities": sum(one.entities for one in done if one.complete),
        "mismatches": len(mismatches),
        "examples": [f"{one.task}, {one.entity}, {one.table}: {one.what}" for one in mismatches[:_SHOWN]],
        "problems": [f"{one.task}: {one.problem}" for one in done if one.problem is not None][:_SHOWN],
        "sample": size,
        "seed": seed,
        "seconds": seconds,
    }


def _as_json(done: list[Audited], seed: int, size: int | None, read: int, seconds: float, pace: Pace) -> dict[str, Any]:
    return {
        "seed": seed,
        "sample": size if size is not None else "all",
        "tasks": [
            {
                "task": str(one.task),
                "position": one.position,
                "entities": one.entities,
                "mismatches": len(one.mismatches),
                "problem": one.problem,
            }
            for one in sorted(done, key=lambda one: one.task)
        ],
        "mismatches": [asdict(mismatch) | {"remedy": _remedy(one.task, seed)} for one in done for mismatch in one.mismatches],
        "records_read": read,
        "seconds": round(seconds, 3),
        "cpu_share": round(pace.share, 4),
    }


def _print(done: list[Audited], seed: int, read: int, seconds: float, pace: Pace) -> None:
    for one in sorted(done, key=lambda one: one.task):
        for mismatch in one.mismatches:
            click.echo(f"{mismatch.task}, {mismatch.entity}, {mismatch.table}, at position {mismatch.position}: {mismatch.what}")
            for side, rows in (("state", mismatch.state), ("log", mismatch.log)):
                for row in rows:
                    click.echo(f"  {side}: {json.dumps(row)}")
            if mismatch.more:
                click.echo(f"  and {mismatch.more:,} rows more")
        if one.mismatches:
            click.echo(f"  → {_remedy(one.task, seed)}")
        if one.problem is not None:
            click.echo(f"{one.task}: not audited: {one.problem}")
    wrong = sum(len(one.mismatches) for one in done)
    audited = [one for one in done if one.complete]
    click.echo(
        f"{sum(one.entities for one in audited):,} entities of {len(audited)} tasks recomputed from {read:,} log records in {seconds:.1f} s "
        f"({read / max(seconds, 1e-9):,.0f}/s, {pace.share:.2f} of a core), seed {seed}; {wrong:,} mismatch{'es' * (wrong != 1)}"
        + (f", {unaudited} tasks not audited" if (unaudited := sum(one.problem is not None for one in done)) else "")
    )


def _remedy(task: TaskName, seed: int) -> str:
    return (
        f"tidemark replay restore --task {task}, then tidemark replay verify and audit --task {task} --seed {seed}; "
        "a checkpoint that was made since has it too: if the audit still finds it, delete that checkpoint and restore again"
    )


def _print_plan(settings: Settings, tasks: list[TaskName], sample: int | str, seed: int, as_json: bool) -> None:
    with open_log(settings, task_names.FLOWS[0], read_only=True) as log:
        records = Auditor(settings, settings.load_vocabulary(), {log.name: log}, seed, None).to_read(tasks)
    if as_json:
        click.echo(
            json.dumps(
                {"dry_run": True, "tasks": [str(task) for task in tasks], "sample": sample, "seed": seed, "records_to_read": records}
            )
        )
        return
    click.echo(f"would audit {len(tasks)} tasks, {sample} entities of each kind, seed {seed}: about {records:,} log records to read")


@contextmanager
def _bar(quiet: bool) -> Iterator[Callable[..., None]]:
    """Shows log records as they go by, with their rate and the time to go."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
        RateColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as progress:
        bar = progress.add_task("audit", total=0)

        def advance(records: int, total: int | None = None) -> None:
            progress.update(bar, advance=records, total=total)

        yield advance
