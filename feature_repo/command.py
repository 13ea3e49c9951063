"""`tidemark features user|pin|topic|export|served|history`: features through Feast; whole exports; what was served; and training sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from flows.errors import SettingsError
from flows.events import MAX_EVENT_TIME, id_of
from flows.export import ENTITIES, export_features
from flows.outputs import ACTIONS, REVISITS
from flows.partition import partition_of
from flows.reading import FeatureReader
from flows.run.display import console_for_tables, moment, nothing_accepted
from flows.run.standing import aside
from flows.settings import Settings
from flows.time_option import Time

as_of_option = click.option(
    "--as-of",
    type=click.IntRange(0, MAX_EVENT_TIME),
    metavar="MS",
    help="Features at this time, ms UTC; by default the greatest accepted event time.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group(epilog="Example: tidemark features user 42")
def features() -> None:
    """Features of a user, a pin or a topic as Feast serves them, or of all in a file."""


class _OfId(click.Command):
    """A command for an ID that may be negative, which is no option, with or without -- before it."""

    ignore_unknown_options = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [one for one in args if one != "--"])


@features.command(cls=_OfId, epilog="Example: tidemark features user 42 --json")
@click.argument("id")
@as_of_option
@json_option
@click.pass_obj
def user(settings: Settings, id: str, as_of: int | None, as_json: bool) -> None:
    """Action sequence and revisit counters of user ID (a number, or the text ID that was ingested)."""
    from feature_repo.reading import user_features

    row = _read(settings, user_features, _number(id), as_of)
    _say_if_aside(settings, ACTIONS, id)
    if as_json:
        click.echo(json.dumps(row))
        return
    console = console_for_tables()
    _headline(settings, console, "user", id, row, _task(settings, ACTIONS, id))
    actions = row["sequence"]
    table = Table(
        *("event time (UTC)", "action", "surface", Column("pin_id", no_wrap=True), "duration_ms"),
        title=f"The newest {len(actions)} actions",
        title_justify="left",
    )
    for action in actions[:20]:
        table.add_row(
            moment(action["event_time"]), action["action"], action["surface"], str(action["pin_id"]), f"{action['duration_ms']:,}"
        )
    console.print(table)
    if len(actions) > 20:
        console.print(f"… and {len(actions) - 20} more (--json gives all)")
    console.print(counter_table(row["counters"], "pins"))


@features.command(cls=_OfId, epilog="Example: tidemark features pin 1234 --as-of 1700000000000 --json")
@click.argument("id")
@as_of_option
@json_option
@click.pass_obj
def pin(settings: Settings, id: str, as_of: int | None, as_json: bool) -> None:
    """Revisit counters of pin ID."""
    from feature_repo.reading import pin_features

    row = _read(settings, pin_features, _number(id), as_of)
    _say_if_aside(settings, REVISITS, id)
    if as_json:
        click.echo(json.dumps(row))
        return
    console = console_for_tables()
    _headline(settings, console, "pin", id, row, _task(settings, REVISITS, id))
    console.print(counter_table(row["counters"], "users"))


@features.command(epilog='Example: tidemark features topic "Home Decor"')
@click.argument("name")
@as_of_option
@json_option
@click.pass_obj
def topic(settings: Settings, name: str, as_of: int | None, as_json: bool) -> None:
    """Revisit statistics of topic NAME."""
    from feature_repo.reading import topic_features

    row = _read(settings, topic_features, name, as_of)
    if as_json:
        click.echo(json.dumps(row))
        return
    console = console_for_tables()
    _headline(settings, console, "topic", name, row)
    table = Table("statistic", "value")
    for statistic, value in row["statistics"].items():
        table.add_row(statistic, f"{value:,}" if isinstance(value, int) else f"{value:.4f}")
    console.print(table)


@features.command(epilog="Example: tidemark features export --entity pin --out pins.parquet")
@click.option("--entity", required=True, type=click.Choice(ENTITIES), help="Which entities.")
@as_of_option
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Parquet file to write.")
@json_option
@click.pass_obj
def export(settings: Settings, entity: str, as_of: int | None, out: Path, as_json: bool) -> None:
    """Write every user, pin or topic with its features to a Parquet file, a row each.

    The same bytes whatever the number of workers, restarts or kills that led to the state.
    """
    console = Console(stderr=True)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("records"),
        TimeElapsedColumn(),
        console=console,
        disable=as_json or not console.is_terminal,
        transient=True,
    ) as bar:
        task = bar.add_task("exporting", total=None)

        def read(records: int) -> None:
            bar.update(task, description="running the kernels over the log", advance=records)

        with FeatureReader(settings, read) as reader:
            time = as_of if as_of is not None else reader.default_as_of() or 0
            rows = export_features(reader, entity, time, out)
            missing = nothing_accepted(reader.counts()) if reader.default_as_of() is None else None
    if as_json:
        click.echo(json.dumps({"entity": entity, "rows": rows, "as_of": time, "out": str(out)}))
    else:
        click.echo(f"{out}: {rows:,} {entity}s" + (f" as of {time}" if missing is None else f"; {missing}"))


@features.command(epilog="Example: tidemark features served --entity pin --from 2026-11-28 --out served.parquet")
@click.option("--entity", required=True, type=click.Choice(ENTITIES), help="Which entities.")
@click.option("--from", "first", type=Time(), help="First time of a request, ISO 8601 or ms.")
@click.option("--to", "until", type=Time(), help="Time of a request that is no longer wanted.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Parquet file to write.")
@json_option
@click.pass_obj
def served(settings: Settings, entity: str, first: int | None, until: int | None, out: Path, as_json: bool) -> None:
    """Write what was served as an entity frame: each entity of each request, with the prefix of the logs that it was served from.

    `tidemark features history --entities FILE` then gives the features of that prefix: those that were served. Requests for which nothing could
    be read are left out.
    """
    from feature_repo.served_frame import write_served_frame

    rows = write_served_frame(settings, entity, first, until, out)
    click.echo(json.dumps({"entity": entity, "rows": rows, "out": str(out)}) if as_json else f"{out}: {rows:,} rows")


@features.command(epilog="Example: tidemark features history --entities seen.parquet --service ranking_v1_user --out training.parquet")
@click.option(
    "--entities",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Parquet file with a row for each moment: entity IDs and event_timestamp.",
)
@click.option(
    "--feature", "references", multiple=True, metavar="VIEW[:FEATURE]", help="A feature, or all of a view (may be given several times)."
)
@click.option("--service", help="All features of a feature service, instead.")
@click.option("--full-names", is_flag=True, help="Name columns view__feature, as ranking_v1 needs it.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Parquet file to write.")
@json_option
@click.pass_obj
def history(
    settings: Settings, entities: Path, references: tuple[str, ...], service: str | None, full_names: bool, out: Path, as_json: bool
) -> None:
    """Write features as they were at the moment of each row of a file, from the log alone: a training set.

    Rows and their order stay, and so do other columns. A row takes events strictly before its event_timestamp that had arrived by then. With a column
    tidemark_positions (and tidemark_as_of), as the log 'served' has them, it takes what it was served from. See docs/offline.md.
    """
    if bool(references) == (service is not None):
        raise click.UsageError("give --feature or --service, and not both")
    if out.exists() and out.samefile(entities):
        raise click.UsageError(f"--out {out} is the file of --entities, and would take its place; name another")
    from feature_repo.training_set import write_training_set

    rows = write_training_set(settings, entities, references, service, full_names, out, progress=False if as_json else None)
    click.echo(json.dumps({"rows": rows, "out": str(out)}) if as_json else f"{out}: {rows:,} rows")


def counter_table(counters: dict[str, int], unique: str) -> Table:
    """The 24 counters, a row for each type and scope."""
    table = Table("revisits", title="Revisit counters", title_justify="left")
    for days in (7, 30, 90):
        table.add_column(f"{days} d", justify="right")
        table.add_column(unique, justify="right", style="dim")
    for kind in ("impression", "click"):
        for scope, words in (("all", "any save"), ("rp", "saves on related_pins")):
            cells = [f"{counters[f'revisits_{kind}_{scope}_{d}d_{m}']:,}" for d in (7, 30, 90) for m in ("count", unique)]
            table.add_row(f"{kind}, {words}", *cells)
    return table


def _read(settings: Settings, function: Callable[..., dict[str, Any]], key: int | str, as_of: int | None) -> dict[str, Any]:
    """One row through Feast, which takes over a second to import: only the commands that need it wait."""
    from feature_repo.readers import shared_reader
    from feature_repo.reading import open_store

    # Before Feast's registry is made: reading must not make a data directory where there is nothing to read.
    for why in shared_reader(settings).reader.unreadable.values():
        click.echo(f"tidemark: a task is left out of as_of and of positions: {why}", err=True)
    return function(open_store(settings), key, as_of)


def _task(settings: Settings, flow: str, id: str) -> str:
    """The task that has an ID: what an operator names to others."""
    return f"{flow}/{_partition(settings, id)}"


def _partition(settings: Settings, id: str) -> int:
    return int(partition_of(np.array([_number(id)], np.int64), settings.partitions)[0])


def _say_if_aside(settings: Settings, flow: str, id: str) -> None:
    """These features are whole, and get older."""
    if (why := aside(settings, flow, _partition(settings, id))) is not None:
        click.echo(f"tidemark: these features get no newer: {why}", err=True)


def _number(text: str) -> int:
    if text.startswith("--"):
        raise SettingsError(f"there is no option '{text}'; see --help")
    return id_of(text)


def _headline(settings: Settings, console: Console, kind: str, name: str, row: dict[str, Any], task: str = "") -> None:
    if row["as_of"] is None:
        from feature_repo.readers import shared_reader

        click.echo(nothing_accepted(shared_reader(settings).reader.counts()), err=True)
    state = "" if row["found"] else " (nothing is known of it)"
    console.print(f"[bold]{kind} {name}[/bold] as of {moment(row['as_of'])} UTC{f', of task {task}' if task else ''}{state}")
