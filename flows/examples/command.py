"""`tidemark examples`: what was served and seen, and what came of it. Each command lies in a module of its own."""

from __future__ import annotations

import click

from flows.lazy_group import LazyGroup

COMMANDS = {
    "run": ("flows.examples.run_command:run", "Join the logs of what was served and of actions into examples."),
    "status": ("flows.examples.run_command:status", "Where the join stands in both logs, and what became of the records."),
    "restore": ("flows.examples.run_command:restore", "Have tasks made anew from the logs whose state is damaged."),
    "export": ("flows.examples.export_command:export", "Final examples as one Parquet file that anything reads."),
}


@click.group(cls=LazyGroup, table=COMMANDS, epilog="Example: tidemark examples run --follow")
def examples() -> None:
    """Examples to learn from: what was served and seen, and what came of it.

    An example is a pin that was served and then seen. The log 'examples' gets a negative when it is seen, a positive for each outcome, and final
    labels once nothing can change them.
    """
