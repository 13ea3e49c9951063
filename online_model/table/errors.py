"""What an embedding table refuses, as errors of the project's one tree."""

from __future__ import annotations

from flows.errors import CorruptionError, TidemarkError


class TableError(TidemarkError):
    """A table is asked for something that can't be meant: another shape, a row that it never gave, settings out of bounds."""


class GradientError(TableError):
    """Gradients that no row may learn from. Nothing of their batch has been applied."""


class TableFileError(CorruptionError, TableError):
    """A file is no embedding table, or not the one that was written. Nothing of it has been loaded."""
