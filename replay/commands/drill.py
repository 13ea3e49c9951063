"""`tidemark replay drill`: damage of every kind, found and put right, on a copy."""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from flows.directories import translated
from flows.open_log import log_exists, open_log
from flows.outputs import ACTIONS
from flows.run.display import console_for_tables
from flows.settings import Settings
from replay.commands.options import DRY, JSON
from replay.drill.classes import CLASSES
from replay.drill.operator import type_it
from replay.drill.row import Row
from replay.drill.runner import Runner
from replay.drill.site import Site, prepare, simulated

_EVENTS = 100_000


@click.command(epilog="Example: tidemark replay drill --events 200000 --class log-bit --class sst-bit --seed 3")
@click.option("--class", "names", type=click.Choice(sorted(CLASSES)), multiple=True, help="Only this class (may be given several times).")
@click.option("--models", is_flag=True, help="The model side too: bases, deltas, snapshots and examples.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Decides what is damaged, and how.")
@click.option("--events", type=click.IntRange(1_000), help="Of a simulated population, rather than a copy of the data directory.")
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Make the copies there, and leave them.")
@DRY
@JSON
@click.pass_context
def drill(
    ctx: click.Context, names: tuple[str, ...], models: bool, seed: int, events: int | None, keep: Path | None, dry_run: bool, as_json: bool
) -> None:
    """Damage a copy in every way there is, find it, put it right with the ordinary commands, and compare.

    The copy is made anew from the ACTIONS log, so whoever runs here is not disturbed; without a log, or with --events, a population is
    simulated. What a learner rests on takes a site of its own, with small models: --models, or a class of it.

    Exits with 1 if anything was not found, or is not the same to the byte afterwards. Needs a few times the space of the data directory in the
    temporary directory (TMPDIR), or in --keep's.
    """
    settings: Settings = ctx.obj
    if keep is not None and _holds_something(keep):
        raise click.UsageError(f"--keep: {keep} holds something already; give a directory that is empty or not there yet")
    chosen = [one for name, one in CLASSES.items() if (name in names if names else models or not one.models)]
    if events is None and not log_exists(settings, ACTIONS):
        events = _EVENTS
    source = f"a simulated population with {events:,} events" if events else f"a copy of {settings.data}"
    if dry_run:
        _print_plan(source, seed, [(one.name, one.what) for one in chosen], as_json)
        return
    console = Console(stderr=True)
    rows: list[Row] = []
    columns = (TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with ExitStack() as stack:
        bars = stack.enter_context(Progress(*columns, console=console, disable=as_json or not console.is_terminal))
        scratch = keep.absolute() if keep else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidemark-drill-")))
        with translated(f"can't make {scratch}"):
            scratch.mkdir(parents=True, exist_ok=True)
        bar = bars.add_task(f"make {source}", total=len(chosen) + 1)
        of = simulated(settings, events, seed, scratch, type_it) if events else settings
        with open_log(of, ACTIONS, read_only=True) as log:
            site = prepare(log, settings, scratch / "sound", type_it)
        runners: dict[bool, Runner] = {}
        for one in chosen:
            bars.update(bar, advance=1, description=one.name)
            if one.models not in runners:
                runners[one.models] = _runner(site, one.models, scratch)
            rows.append(runners[one.models].drill(one, seed, scratch / one.name))
            if not keep:
                shutil.rmtree(scratch / one.name)
        bars.update(bar, advance=1, description="done")
    undetected, unequal = sum(not row.detected_by for row in rows), sum(not row.equal for row in rows)
    if as_json:
        results = {"classes": len(rows), "undetected": undetected, "unequal": unequal}
        told = [{"class": row.name, **{name: value for name, value in asdict(row).items() if name != "name"}} for row in rows]
        click.echo(json.dumps({"source": source, "seed": seed, "results": results, "rows": told}))
    else:
        _print_rows(rows, undetected, unequal)
    if undetected or unequal:
        ctx.exit(1)


def _runner(site: Site, models: bool, scratch: Path) -> Runner:
    if not models:
        return Runner(site, type_it, scratch)
    # Not before it is needed: torch takes a second to load.
    from replay.drill.model_site import with_models

    return Runner(with_models(site, scratch / "sound-models", type_it), type_it, scratch / "models")


def _holds_something(directory: Path) -> bool:
    with translated(f"can't read {directory}"):
        return directory.exists() and any(directory.iterdir())


def _print_plan(source: str, seed: int, classes: list[tuple[str, str]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"dry_run": True, "source": source, "seed": seed, "classes": dict(classes)}))
        return
    click.echo(f"would damage {source}, seed {seed}:")
    for name, what in classes:
        click.echo(f"  {name:<18}{what}")


def _print_rows(rows: list[Row], undetected: int, unequal: int) -> None:
    table = Table("class", "damage", "found by", "in s", "replayed", "put right in s", "equal", title="Drill", title_justify="left")
    for row in rows:
        numbers = (f"{row.detect_s:.1f}", f"{row.replayed:,}", f"{row.recover_s:.1f}")
        table.add_row(row.name, row.damage, row.detected_by or "nobody", *numbers, "yes" if row.equal else "NO")
    console_for_tables().print(table)
    for row in rows:
        for line in row.differs:
            click.echo(f"{row.name}: differs: {line}")
    click.echo(f"{len(rows)} classes; {undetected} not found, {unequal} not equal")
