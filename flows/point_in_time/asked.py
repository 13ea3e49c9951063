"""What a point-in-time read is asked for, and what it answers: plain columns, a row for each query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from flows.positions import Positions

_NONE = np.iinfo(np.int32).min


@dataclass(frozen=True, eq=False)
class Asked:
    """Queries: an entity, a time, and a prefix of the logs.

    Attributes
    ----------
    entity : int64[n] or sequence of n str
        User or pin IDs; names of topics.
    time : int64[n]
        Events with event_time ≤ time are taken, ms. Who wants those strictly before a time asks for that of a millisecond before.
    arrived_by : int64[n] or None
        The prefix of each ACTIONS partition: records whose arrival is at or before it, ms. Under the newest corrections.
    positions : sequence of Positions
        Prefixes that are given by position instead.
    position : int32[n] or None
        Which of `positions` is a query's prefix; -1: that of its `arrived_by`.
    """

    entity: np.ndarray | Sequence[str]
    time: np.ndarray
    arrived_by: np.ndarray | None = None
    positions: Sequence[Positions] = field(default_factory=tuple)
    position: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.entity)
        given = [column for column in (self.time, self.arrived_by, self.position) if column is not None]
        if any(len(column) != n for column in given):
            raise ValueError("the columns of a point-in-time read must be of one length")
        if n and self.arrived_by is None and (self.position is None or (np.asarray(self.position) < 0).any()):
            raise ValueError("a query of a point-in-time read has no prefix: give arrived_by, or a position")

    def __len__(self) -> int:
        return len(self.entity)

    def times(self) -> np.ndarray:
        """Times that read the same, and from which a window can be taken without leaving int64."""
        return np.clip(np.asarray(self.time, np.int64), -1, 2**62)

    def marks(self) -> np.ndarray:
        """Index into `positions` of each query, -1 for none: int64[n]."""
        if self.position is None:
            return np.full(len(self), -1, np.int64)
        return np.maximum(np.asarray(self.position, np.int64), -1)

    def arrivals(self) -> np.ndarray:
        """`arrived_by`, int64[n]; of queries that have a position, nothing that means anything."""
        if self.arrived_by is None:
            return np.full(len(self), _NONE, np.int64)
        # One more must not leave int64.
        return np.minimum(np.asarray(self.arrived_by, np.int64), np.iinfo(np.int64).max - 1)


@dataclass(frozen=True, eq=False)
class UsersAt:
    """What n queries of users found; of sequences or counters, whichever was left out, nothing.

    Attributes
    ----------
    offsets : int64[n + 1]
        Query i's actions, newest first, are offsets[i] to offsets[i + 1] of the five arrays.
    pin_id, event_time, duration_ms : int64[m]
    action, surface : int16[m]
        Codes of the vocabulary.
    counters : int64[n, 24 or 0]
        In the order of features.USER_COUNTERS.
    found_sequence, found_counters : bool[n]
    """

    offsets: np.ndarray
    pin_id: np.ndarray
    action: np.ndarray
    surface: np.ndarray
    event_time: np.ndarray
    duration_ms: np.ndarray
    counters: np.ndarray
    found_sequence: np.ndarray
    found_counters: np.ndarray


@dataclass(frozen=True, eq=False)
class PinsAt:
    """Counters of n queries of pins: values int64[n, 24] in the order of features.PIN_COUNTERS, found bool[n]."""

    values: np.ndarray
    found: np.ndarray


@dataclass(frozen=True, eq=False)
class TopicsAt:
    """Statistics of n queries of topics: values float64[n, 15] in the order of features.TOPIC_STATS, found bool[n]."""

    values: np.ndarray
    found: np.ndarray
