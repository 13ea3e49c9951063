"""`tidemark skew`: is what was served what the log says, and how does it move? Each command lies in a module of its own."""

from __future__ import annotations

import click

from flows.lazy_group import LazyGroup

COMMANDS = {
    "check": ("flows.skew.check_command:check", "Recompute what was served, and compare it bit by bit."),
    "drift": ("flows.skew.drift_command:drift", "How features have moved, between periods or since training."),
    "drill": ("flows.skew.drill_command:drill", "Make ten mistakes on purpose, and see that each is found and named."),
}


@click.group(cls=LazyGroup, table=COMMANDS)
def skew() -> None:
    """Whether what was served is what the log says, and how what is served has moved.

    Each served row is logged with the prefix of the log that it reflects, so the same prefix must give the same bits: a difference is a bug
    and no noise, and is told with its cause. Drift is another question, of distributions: see `tidemark skew drift`.
    """
