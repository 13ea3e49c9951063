"""`tidemark skew drill`."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from flows.errors import InputError
from flows.run.display import RateColumn, console_for_tables
from flows.settings import Settings
from flows.skew import told
from flows.skew.drill.runner import Drilled
from flows.skew.drill.runner import drill as run_drill
from flows.skew.options import JSON


@click.command(epilog="Example: tidemark skew drill --seed 3; a long clean run: tidemark skew drill --rows 1000000")
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=7, show_default=True, help="Of the stream, the requests, and what is lost."
)
@click.option(
    "--rows",
    type=click.IntRange(4_000, 100_000_000),
    default=6_000,
    show_default=True,
    help="Entity rows that the sound system serves, about.",
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Work in this empty directory, and leave all there to look at.",
)
@JSON
@click.pass_context
def drill(ctx: click.Context, seed: int, rows: int, keep: Path | None, as_json: bool) -> None:
    """Make ten mistakes on purpose, and see that the check finds every row and names what is wrong with it.

    A stream is simulated and run through the flows, a stretch at a time, in a scratch directory; in between a sound system serves requests,
    and so do ten that each make one mistake: a late event ignored, a window off by one, ties in the wrong order, a stale tile, another
    fingerprint, a lost event, a doubled one, 32-bit floats, a wrong time zone, defaults on timeout. The check then reads each one's SERVED
    log. The data directory is not touched.

    Exits with 1 if a row was missed or misnamed, or if anything at all was found in the sound system's log.
    """
    settings: Settings = ctx.obj
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
    with ExitStack() as stack:
        if keep is not None:
            _empty(keep)
        scratch = (
            keep.absolute() if keep is not None else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidemark-skew-drill-")))
        )
        bars = stack.enter_context(Progress(*columns, console=console, disable=as_json or not console.is_terminal, transient=True))
        tasks: dict[str, int] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)  # type: ignore[arg-type]

        done = run_drill(settings, rows, seed, scratch, show)
    if as_json:
        click.echo(json.dumps(_as_json(done, seed)))
    else:
        _print(done)
    if done.missed or done.false_alarms:
        ctx.exit(1)


def _empty(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise InputError(f"--keep {directory} holds something already; name a directory that is empty, or not there yet")
    except OSError as error:
        raise InputError(f"--keep {directory} can't be used: {error.strerror or error}; name another directory") from error


def _as_json(done: Drilled, seed: int) -> dict[str, object]:
    clean = told.as_json(done.clean)
    return {
        "seed": seed,
        "events": done.events,
        "requests": done.requests,
        "results": {"kinds": len(done.rows), "missed": len(done.missed), "false_alarms": done.false_alarms},
        "clean": {name: clean[name] for name in ("records", "rows", "compared", "differing", "apart", "seconds", "log_records_read")},
        "rows": [asdict(row) | {"missed": row.missed} for row in done.rows],
    }


def _print(done: Drilled) -> None:
    table = Table(title="Drill", title_justify="left", box=box.SIMPLE)
    table.add_column("kind", no_wrap=True)
    table.add_column("what the system did")
    for heading in ("rows seeded", "found"):
        table.add_column(heading, justify="right")
    table.add_column("named as")
    table.add_column("right")
    for row in done.rows:
        names = ", ".join(f"{name} ({n:,})" for name, n in sorted(row.named_as.items(), key=lambda item: -item[1]))
        table.add_row(row.kind, row.what, f"{row.seeded:,}", f"{row.found:,}", names or "–", "NO" if row.missed else "yes")
    console_for_tables().print(table)
    click.echo(f"sound system: {told.summary(done.clean)}")
    click.echo(f"{len(done.rows)} kinds; {len(done.missed)} missed, {done.false_alarms} false alarms")
