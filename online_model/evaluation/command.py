"""`tidemark evaluate`: how good are scores, and which are better? Each command lies in a module of its own."""

from __future__ import annotations

import click

from flows.lazy_group import LazyGroup

COMMANDS = {
    "scores": ("online_model.evaluation.scores_command:scores", "Metrics of scored rows, and whether another scoring is better."),
}


@click.group(cls=LazyGroup, table=COMMANDS, epilog="Example: tidemark evaluate scores scored.parquet --against before.parquet")
def evaluate() -> None:
    """How good scores are: ranking, classification and calibration by head, by time, by topic and by age of users.

    Beside each difference stands its interval, from a bootstrap that draws users, and the least difference that the data could have shown.
    What each metric is exactly: docs/evaluation.md.
    """
