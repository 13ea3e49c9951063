"""Which entities an audit looks at: those whose IDs hash lowest, so that state and log choose the same ones without knowing of each other.

An entity that state has lost is not in state's list, and one that it has too much is not in the log's. So each side is listed by itself, each keeps
the N of its IDs with the lowest hash (of ID and seed), and the N lowest of both lists together are what is compared. Whatever either side has
among these, it has listed. Each list is gone through once, in memory of N, without knowing how long it is; and the same seed gives the same sample.
"""

from __future__ import annotations

import numpy as np

_GOLDEN, _FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class Sample:
    """The IDs with the lowest hash of all that were offered.

    Parameters
    ----------
    seed : int
        Non-negative, below 2⁶⁴.
    size : int or None
        How many are kept; None: all.
    """

    def __init__(self, seed: int, size: int | None) -> None:
        self._seed = _mixed(np.array([seed], np.uint64))
        self._size = size
        self._limit: np.uint64 | None = None
        self.ids = np.empty(0, np.int64)
        """Sorted, distinct: int64[≤ size]."""

    def offer(self, ids: np.ndarray) -> None:
        """Look at some more: int64[n], repeats do no harm."""
        if self._limit is not None:
            ids = ids[self._hashed(ids) <= self._limit]
        self.ids = np.union1d(self.ids, ids)
        if self._size is not None and len(self.ids) > self._size:
            hashed = self._hashed(self.ids)
            self._limit = np.partition(hashed, self._size - 1)[self._size - 1]
            self.ids = self.ids[hashed <= self._limit]

    def _hashed(self, ids: np.ndarray) -> np.ndarray:
        # Different IDs have different hashes, so the size is kept exactly.
        return _mixed(ids.astype(np.int64).view(np.uint64) ^ self._seed)


def _mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finish: one to one, and every bit depends on every other."""
    values = values + _GOLDEN
    values = (values ^ (values >> np.uint64(30))) * _FIRST
    values = (values ^ (values >> np.uint64(27))) * _SECOND
    return values ^ (values >> np.uint64(31))
