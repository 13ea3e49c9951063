"""`tidemark report`."""

from __future__ import annotations

from pathlib import Path

import click

from flows.reading import FeatureReader
from flows.report import gather, write_html
from flows.settings import Settings


@click.command(epilog="Example: tidemark report --out report.html")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), default=Path("report.html"), show_default=True, help="HTML file to write."
)
@click.option(
    "--as-of", type=int, metavar="MS", help="Labels and clicks at this time, ms UTC; by default the greatest accepted event time."
)
@click.option(
    "--compare/--no-compare", default=False, show_default=True, help="Set the figures beside the published ones of Pinterest's users."
)
@click.pass_obj
def report(settings: Settings, out: Path, as_of: int | None, compare: bool) -> None:
    """Write a self-contained page: label rates, revisit decay, events over time, late and dead letters."""
    with FeatureReader(settings) as reader:
        write_html(gather(reader, as_of), out, compare=compare)
    click.echo(f"{out}: open it in a browser")
