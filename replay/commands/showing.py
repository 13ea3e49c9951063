"""How a difference is shown to people."""

from __future__ import annotations

import click
from rich import box
from rich.table import Table

from flows.run.display import console_for_tables
from replay.rebuild.difference import Difference


def print_difference(difference: Difference) -> None:
    """The feature diff report, for people."""
    counts = ", ".join(f"{n:,} {name}" for name, n in difference.entities.items())
    click.echo(f"what differs: {counts or 'nothing'}")
    if difference.features:
        table = Table("feature", "differs for", box=box.SIMPLE)
        for name, n in sorted(difference.features.items(), key=lambda item: -item[1])[:20]:
            table.add_row(name, f"{n:,}")
        console_for_tables().print(table)
    if difference.largest:
        table = Table("largest changes", "feature", "before", "after", box=box.SIMPLE)
        for change in difference.largest:
            table.add_row(change.entity, change.feature, f"{change.before:g}", f"{change.after:g}")
        console_for_tables().print(table)
