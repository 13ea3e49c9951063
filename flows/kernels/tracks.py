"""Tracks: queries put into an order in which times and prefixes only grow, so that all of a track are answered by one look at their entity's rows."""

from __future__ import annotations

import numpy as np

from flows.compiled import compiled

# Tracks of an entity that wait for a query at a time.
_OPEN = 8


class Tracks:
    """Queries in an order in which those of a track follow each other.

    Parameters
    ----------
    entity : int64[n]
        Index of each query's entity.
    time : int64[n]
        Events at or before it are taken, ms.
    mark : int64[n]
        Which row of `limits` says what lies in its prefix.
    limits : int64[m, streams]
        A row of a stream lies in the prefix if its order is below the limit.

    Attributes
    ----------
    order : int64[n]
        The queries, track by track.
    bounds : int64[tracks + 1]
        Queries of track i are order[bounds[i] : bounds[i + 1]].
    """

    def __init__(self, entity: np.ndarray, time: np.ndarray, mark: np.ndarray, limits: np.ndarray) -> None:
        self.limits = np.ascontiguousarray(limits)
        # Equal times in the order of what they see, as far as the first stream says it: with one stream, they never need two tracks for that.
        first = self.limits[mark, 0] if self.limits.shape[1] else mark
        order = np.lexsort((mark, first, time, entity))
        numbers = np.empty(len(order), np.int64)
        _number_tracks(entity[order], mark[order], self.limits, numbers)
        if numbers.any():
            again = np.lexsort((numbers, entity[order]))
            order, numbers = order[again], numbers[again]
        self.order = order
        self.entity, self.time, self.mark = entity[order], time[order], mark[order]
        if len(order):
            begins = (np.diff(self.entity) != 0) | (np.diff(numbers) != 0)
            self.bounds = np.concatenate([[0], np.flatnonzero(begins) + 1, [len(order)]]).astype(np.int64)
        else:
            self.bounds = np.zeros(1, np.int64)


@compiled
def _follows(limits, before, after):  # type: ignore[no-untyped-def]
    for s in range(limits.shape[1]):
        if limits[after, s] < limits[before, s]:
            return False
    return True


@compiled
def _number_tracks(entity, mark, limits, numbers):  # type: ignore[no-untyped-def]
    """Number the tracks of each entity from 0: a query joins the first open one that it follows, else it begins one, in place of the oldest open."""
    last = np.empty(_OPEN, np.int64)
    number = np.empty(_OPEN, np.int64)
    begun = 0
    for i in range(entity.shape[0]):
        if i == 0 or entity[i] != entity[i - 1]:
            begun = 0
        joined = -1
        for k in range(min(begun, _OPEN)):
            if _follows(limits, last[k], mark[i]):
                joined = k
                break
        if joined < 0:
            joined = begun % _OPEN
            number[joined] = begun
            begun += 1
        last[joined] = mark[i]
        numbers[i] = number[joined]


@compiled
def from_time(time, low, high, moment):  # type: ignore[no-untyped-def]
    """The first query of a track whose time has reached a moment."""
    while low < high:
        middle = (low + high) // 2
        if time[middle] < moment:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def from_prefix(mark, limits, low, high, stream, order):  # type: ignore[no-untyped-def]
    """The first query of a track in whose prefix a row lies."""
    while low < high:
        middle = (low + high) // 2
        if limits[mark[middle], stream] <= order:
            low = middle + 1
        else:
            high = middle
    return low
