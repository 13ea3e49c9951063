"""`tidemark embed`: users and pins as vectors of one space, from the actions that the log holds."""

from __future__ import annotations

import click

from flows.lazy_group import LazyGroup

COMMANDS = {
    "train": ("online_model.embedding.train_command:train_command", "A new embedding version, from the log."),
}


@click.group(cls=LazyGroup, table=COMMANDS, epilog="Example: tidemark embed train")
def embed() -> None:
    """Users and pins as vectors of one space, from what users did (PinnerFormer).

    A version holds all that makes a vector; vectors of different versions mean nothing to each other.
    """
