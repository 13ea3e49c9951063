"""Why a delta is refused: each has an error of its own, for each has another cause. Rows of a reader are as they were before it."""

from __future__ import annotations

from flows.errors import CorruptionError, LockedError, LogError, TidemarkError


class DeltaError(TidemarkError):
    """A delta is not the one that comes next; a snapshot behind it heals whoever reads.

    Attributes
    ----------
    position : int
        Offset of EMBEDDINGS at which it begins, or at which it should.
    """

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


class GapError(DeltaError, CorruptionError):
    """A delta before this one is missing."""


class DuplicateError(DeltaError):
    """A delta that was applied before lies there again."""


class ReorderedError(DeltaError):
    """A delta before this one lies behind it."""


class OtherBaseError(DeltaError):
    """A delta is of another base, and nobody has said that there would be one; after a switch, that is how a consumer learns of it."""


class ForkedError(DeltaError):
    """A delta has the right number, and follows another one than that which was applied: two learners, or a log that was made anew."""


class DamagedDeltaError(DeltaError, CorruptionError):
    """Rows of a delta are missing, or are not what was written."""


class LostDeltasError(DeltaError, LogError):
    """The log ends before what was read from it, or a learner has put out more than it holds."""


class NoSnapshotError(DeltaError):
    """There is no sound snapshot behind what was refused; the learner makes one."""


class DivergedError(TidemarkError):
    """What was learned again is not what was put out before a kill: another machine, or another build."""


class SecondLearnerError(LockedError):
    """Another process has put out deltas of this base meanwhile, or has taken it over."""
