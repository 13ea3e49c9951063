"""What can be wrong with a learner, besides what is wrong with the base, the examples and the deltas that it works on."""

from __future__ import annotations

from flows.errors import StateError, TidemarkError


class LearnerError(TidemarkError):
    """A learner can't do what is asked."""


class UnlearnableError(LearnerError):
    """Learning from some records gives what is no number."""


class LearnerStateError(LearnerError, StateError):
    """A learner's checkpoint is damaged, or another's."""
