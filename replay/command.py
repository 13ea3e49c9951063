"""`tidemark replay`: find what is damaged, put it back, and prove that it is. Each command lies in `replay/commands`."""

from __future__ import annotations

import click

from flows.lazy_group import LazyGroup

COMMANDS = {
    "status": ("replay.commands.status:status", "Where each task stands, and what its checkpoints and archive cover."),
    "verify": ("replay.commands.verify:verify", "Read all that is stored, and check it."),
    "audit": ("replay.commands.audit:audit", "Recompute a sample of live features from the log, and compare."),
    "checkpoint": ("replay.commands.checkpoint:checkpoint", "Make checkpoints, beside whoever runs the tasks."),
    "restore": ("replay.commands.restore:restore", "Put tasks, or logs, back after damage."),
    "rebuild": ("replay.commands.rebuild:rebuild", "Make features anew without bad events, and switch."),
    "learner": ("replay.commands.learner:learner", "Roll learned rows back, and learn again, without a bad span."),
    "diff": ("replay.commands.diff:diff", "What two states say differently."),
    "drill": ("replay.commands.drill:drill", "Damage a copy in every way there is, and put it right."),
}


@click.group(cls=LazyGroup, table=COMMANDS, epilog="Example: tidemark replay checkpoint")
def replay() -> None:
    """Checkpoints of state, and the way back after damage.

    State is a function of the log: a task is put back from its newest sound checkpoint and the log behind it, or from the log alone, and is
    then the same to the byte. Checkpoints lie in checkpoints/ of the data directory, or where the setting checkpoints says
    (TIDEMARK_CHECKPOINTS=s3://bucket/path, or any other URL of fsspec's).
    """
