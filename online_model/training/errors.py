"""What stops a training."""

from __future__ import annotations

from flows.errors import CorruptionError, TidemarkError


class TrainingStoppedError(TidemarkError):
    """The process was asked to stop; what has been done is kept, if there is a place for checkpoints."""

    exit_code = 143


class DivergedError(TidemarkError):
    """The loss is no number any more."""


class CheckpointError(CorruptionError):
    """A training's checkpoint is damaged, or another training's."""
