"""`tidemark replay`: find what is damaged, put it back, and prove that it is. Each command lies in `replay/commands`."""

from __future__ import annotations

import click

from replay.commands.audit import audit
from replay.commands.checkpoint import checkpoint
from replay.commands.diff import diff
from replay.commands.drill import drill
from replay.commands.rebuild import rebuild
from replay.commands.restore import restore
from replay.commands.status import status
from replay.commands.verify import verify


@click.group()
def replay() -> None:
    """Checkpoints of state, and the way back after damage.

    State is a function of the log: a task is put back from its newest sound checkpoint and the log behind it, or from the log alone, and is
    then the same to the byte. Checkpoints lie in checkpoints/ of the data directory, or where the setting checkpoints says
    (TIDEMARK_CHECKPOINTS=s3://bucket/path, or any other URL of fsspec's).
    """


for command in (status, verify, audit, checkpoint, restore, rebuild, diff, drill):
    replay.add_command(command)
