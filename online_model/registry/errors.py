"""What the registry refuses, as errors of the project's one tree."""

from __future__ import annotations

from flows.errors import CorruptionError, FingerprintError, InputError, TidemarkError


class RegistryError(TidemarkError):
    """Base of the errors of the model registry."""


class NoModelError(RegistryError):
    """No model is served yet, or there is no base of the number that is asked for."""


class DamagedModelError(RegistryError, CorruptionError):
    """A base, a snapshot or `current.json` is not what was written, or only half of it is there."""


class NewerFormatError(RegistryError):
    """It was written by a later version of Tidemark."""


class OtherFeaturesError(RegistryError, FingerprintError):
    """A model was trained under other features, or other settings that decide their values."""


class OtherVocabularyError(RegistryError, FingerprintError):
    """A model was trained with another vocabulary: its codes of actions and surfaces mean something else."""


class DraftError(RegistryError, InputError):
    """A draft can't become a base: a file is missing, is not allowed, or holds what no model has."""


class RoleError(RegistryError):
    """A base can't be given a role (served, canary, holdout) as asked."""
