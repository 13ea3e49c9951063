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
from flows.simulate.world import CANDIDATES, RANGES, World, load_world


def _whole(name: str) -> click.IntRange:
    return click.IntRange(*SIZES[name])


_RATE = click.FloatRange(0, GREATEST_RATE)

_WORLD_OPTIONS = {
    "interest_drift": "How many times users' interests change over the span.",
    "appeal_spread": "How much pins differ whatever their topic (standard deviation of logarithms, like those below).",
    "appeal_drift": "How much a pin's appeal wanders; 0: it stays.",
    "appeal_half_life": "Hours after which half of what wandering added is left.",
    "head_spread": "How much of a pin's appeal is for clicks, long clicks, saves or hides alone.",
    "user_spread": "How much users differ in what they are ready to do.",
    "revisit_spread": "How much saves differ in how likely they are come back to.",
    "fresh_pins": "Share of the pins that appear during the span.",
    "fresh_burst": "By how many times a pin is more popular when it has just appeared.",
    "new_users": "Share of the users who come during the span.",
}


def _world_defaults(context: click.Context, _: click.Parameter, name: str | None) -> None:
    """What a world says stands in for the defaults of the options, so that options say the last word."""
    if name is not None:
        sizes, world = load_world(name)
        context.default_map = {**(context.default_map or {}), **sizes, **world.as_dict()}


def _world_options(command: click.Command) -> click.Command:
    for name, text in _WORLD_OPTIONS.items():
        kind = click.FloatRange(*RANGES[name])
        option = click.Option([f"--{name.replace('_', '-')}"], type=kind, default=getattr(World, name), show_default=True, help=text)
        command.params.append(option)
    pins = click.IntRange(*CANDIDATES)
    command.params.append(click.Option(["--candidates"], type=pins, default=World.candidates, show_default=True, help="Pins of a request."))
    return command


@_world_options
@click.command(
    epilog="Example: tidemark simulate --users 5000 --events 200000 --out simulated; "
    "tidemark simulate --world drifting --chances --out drifting"
)
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
@click.option(
    "--world",
    is_eager=True,
    expose_value=False,
    callback=_world_defaults,
    metavar="NAME|FILE",
    help="Sizes and drift of a world: drifting, still, or a TOML file. Other options say the last word.",
)
@click.option("--chances", is_flag=True, help="Also write truth-chances.parquet: what could be known at best of each pin shown.")
@click.option("--json", "as_json", is_flag=True, help="Print the ground truth as JSON.")
@click.pass_obj
def simulate(settings: Settings, /, out: Path, as_json: bool, **options: Any) -> None:
    """Simulate a population: events with disorder, a served log, and the truth that the flows must recover.

    Users have drifting interests and come back to what they saved at published rates. Beside the events lie truth.json and
    truth-labels.parquet; ingest events-*.parquet and events-bad.jsonl.
    """
    world = World(**{name: options.pop(name) for name in (*_WORLD_OPTIONS, "candidates")})
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
            world=world,
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
