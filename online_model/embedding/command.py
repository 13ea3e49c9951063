"""`tidemark embed`: users and pins as vectors of one space, from the actions that the log holds."""

from __future__ import annotations

import click

from flows.lazy_group import LazyGroup

COMMANDS = {
    "train": ("online_model.embedding.train_command:train_command", "A new embedding version, from the log."),
    "infer": ("online_model.embedding.infer_command:infer_command", "Users and pins of a version, up to what the log holds."),
    "evaluate": (
        "online_model.embedding.evaluation.command:evaluate_command",
        "What an embedding is worth: the paper's tables, or HR@10 of last items.",
    ),
    "switch": ("online_model.embedding.switch_command:switch_command", "Serve another version: its users, pins and index."),
}


@click.group(cls=LazyGroup, table=COMMANDS, epilog="Example: tidemark embed train")
def embed() -> None:
    """Users and pins as vectors of one space, from what users did (PinnerFormer).

    A version holds all that makes a vector; vectors of different versions mean nothing to each other.
    """
