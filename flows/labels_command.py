"""`tidemark labels export`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from flows.events import MAX_EVENT_TIME
from flows.export import export_labels
from flows.reading import FeatureReader
from flows.run.display import nothing_accepted
from flows.settings import Settings


@click.group(epilog="Example: tidemark labels export --out labels.parquet")
def labels() -> None:
    """Labels of saves: what came of each within a day and a week."""


@labels.command(epilog="Example: tidemark labels export --out labels.parquet")
@click.option(
    "--as-of",
    type=click.IntRange(0, MAX_EVENT_TIME),
    metavar="MS",
    help="Saves and revisits up to this time, ms UTC; by default the greatest event time.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Parquet file to write.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def export(settings: Settings, as_of: int | None, out: Path, as_json: bool) -> None:
    """Write a row for every save, with its labels, to a Parquet file."""
    with FeatureReader(settings) as reader:
        time = as_of if as_of is not None else reader.default_as_of() or 0
        rows = export_labels(reader, time, out)
        missing = nothing_accepted(reader.counts()) if reader.default_as_of() is None else None
    if as_json:
        click.echo(json.dumps({"rows": rows, "as_of": time, "out": str(out)}))
    else:
        click.echo(f"{out}: {rows:,} saves" + (f" as of {time}" if missing is None else f"; {missing}"))
