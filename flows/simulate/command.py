"""`tidemark simulate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from flows.settings import Settings
from flows.simulate import simulate as run_simulation
from flows.simulate.parameters import GREATEST_RATE, SIZES


def _whole(name: str) -> click.IntRange:
    return click.IntRange(*SIZES[name])


_RATE = click.FloatRange(0, GREATEST_RATE)


@click.command(epilog="Example: tidemark simulate --users 5000 --events 200000 --out simulated")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Directory for the files.")
@click.option("--users", type=_whole("users"), default=20_000, show_default=True, help="Users in the population.")
@click.option("--pins", type=_whole("pins"), default=50_000, show_default=True, help="Pins.")
@click.option("--days", type=_whole("days"), default=60, show_default=True, help="Days simulated.")
@click.option("--events", type=_whole("events"), default=1_000_000, show_default=True, help="Well-formed events, about.")
@click.option("--seed", type=_whole("seed"), default=7, show_default=True, help="Same seed, same bytes.")
@click.option("--late-rate", type=_RATE, default=0.002, show_default=True, help="Share of events past the allowed lateness.")
@click.option("--out-of-order-rate", type=_RATE, default=0.05, show_default=True, help="Share delayed within it.")
@click.option("--duplicate-rate", type=_RATE, default=0.002, show_default=True, help="Share sent twice.")
@click.option("--bad-rate", type=_RATE, default=0.001, show_default=True, help="Malformed records, as a share.")
@click.option("--json", "as_json", is_flag=True, help="Print the ground truth as JSON.")
@click.pass_obj
def simulate(settings: Settings, /, out: Path, as_json: bool, **options: Any) -> None:
    """Simulate a population: events with disorder, a served log, and the truth that the flows must recover.

    Users have drifting interests and come back to what they saved at published rates. Beside the events lie truth.json and
    truth-labels.parquet; ingest events-*.parquet and events-bad.jsonl.
    """
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=as_json or not console.is_terminal,
        transient=True,
    ) as bar:
        task = bar.add_task("simulating", total=None)
        truth = run_simulation(
            out,
            partitions=settings.partitions,
            allowed_lateness_ms=settings.allowed_lateness_ms,
            dedup_horizon_ms=settings.dedup_horizon_ms,
            clock_skew_ms=settings.clock_skew_ms,
            progress=lambda stage, done, total: bar.update(task, description=stage, completed=done, total=total),
            **options,
        )
    if as_json:
        click.echo(json.dumps(truth))
        return
    records = truth["records"]
    click.echo(
        f"{out}: {records['total']:,} records ({records['late']:,} late, {records['duplicates']:,} duplicates, {records['bad']:,} bad); "
        f"the truth is in {out / 'truth.json'}"
    )
    for warning in truth["warnings"]:
        click.echo(f"note: {warning}", err=True)
