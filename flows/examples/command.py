"""`tidemark examples`: what was seen, and what came of it. Each command lies in a module of its own."""

from __future__ import annotations

import click

from flows.lazy_group import LazyGroup

COMMANDS = {
    "export": ("flows.examples.export_command:export", "Final examples as one Parquet file that anything reads."),
}


@click.group(cls=LazyGroup, table=COMMANDS, epilog="Example: tidemark examples export examples.parquet")
def examples() -> None:
    """Examples to learn from: what was seen, with the features that were used for it, and what came of it."""
