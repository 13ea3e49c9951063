"""What user embeddings refuse, as errors of the project's one tree."""

from __future__ import annotations

from flows.errors import CorruptionError, FingerprintError, InputError, TidemarkError


class VectorsError(InputError):
    """Vectors of pins that the user gave are not as they must be."""


class NoPositivesError(InputError):
    """No user has an action to learn from."""


class NoVersionError(TidemarkError):
    """There is no embedding version of the number that is asked for, or none at all."""


class DamagedVersionError(CorruptionError):
    """An embedding version is not what was written, or only half of it is there."""


class OtherActionsError(FingerprintError):
    """Actions have other codes, or other vectors, than those that a version was trained with."""
