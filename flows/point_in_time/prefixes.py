"""Where prefixes end in one pass over a partition: how many of its records lie before a position, or have arrived by a time.

Found while the records pass by, so that nothing of a record need be kept to say it later.
"""

from __future__ import annotations

import numpy as np

from flows.state.actions_task import JudgedBatch


class Ends:
    """How many records of a pass lie in each of some prefixes.

    Parameters
    ----------
    arrivals : int64 array
        Times, ms: the records that arrived at or before each.
    positions : int64 array
        Positions: the records at lower offsets.
    """

    def __init__(self, arrivals: np.ndarray, positions: np.ndarray) -> None:
        self._arrivals, self._positions = np.unique(arrivals), np.unique(positions)
        self._by_arrival, self._by_position = np.zeros(len(self._arrivals), np.int64), np.zeros(len(self._positions), np.int64)
        self._arrived = self._passed = self._records = 0

    def add(self, done: JudgedBatch) -> None:
        """The records that come next."""
        if not len(done.offsets):
            return
        # Of a time that is the last record's, more may come.
        n = int(np.searchsorted(self._arrivals, done.arrival[-1], "left"))
        if n > self._arrived:
            self._by_arrival[self._arrived : n] = self._records + np.searchsorted(done.arrival, self._arrivals[self._arrived : n], "right")
            self._arrived = n
        n = int(np.searchsorted(self._positions, done.offsets[-1], "right"))
        if n > self._passed:
            self._by_position[self._passed : n] = self._records + np.searchsorted(done.offsets, self._positions[self._passed : n], "left")
            self._passed = n
        self._records += len(done.offsets)

    def end(self) -> None:
        """No more records: what is left holds all of them."""
        self._by_arrival[self._arrived :] = self._records
        self._by_position[self._passed :] = self._records

    def of_arrivals(self, arrivals: np.ndarray) -> np.ndarray:
        """The number of records for each of the times."""
        return self._by_arrival[np.searchsorted(self._arrivals, arrivals)]

    def of_positions(self, positions: np.ndarray) -> np.ndarray:
        """The number of records for each of the positions."""
        return self._by_position[np.searchsorted(self._positions, positions)]


class ChangeCounts:
    """How many changes for each partition of REVISITS lie before some positions of a pass.

    Parameters
    ----------
    positions : int64 array
    partitions : int
    """

    def __init__(self, positions: np.ndarray, partitions: int) -> None:
        self._positions = np.unique(positions)
        self.now = np.zeros(partitions, np.int64)
        """So far."""
        self._counts = np.zeros((len(self._positions), partitions), np.int64)
        self._passed = 0

    def add(self, offsets: np.ndarray, homes: np.ndarray, end: int) -> None:
        """The changes that come next: the offset of each one's cause, and its partition; all of those before `end`.

        To be called before `now` is moved on.
        """
        n = int(np.searchsorted(self._positions, end, "right"))
        for i in range(self._passed, n):
            before = homes[: np.searchsorted(offsets, self._positions[i], "left")]
            self._counts[i] = self.now + np.bincount(before, minlength=len(self.now))
        self._passed = n

    def end(self) -> None:
        """No more changes."""
        self._counts[self._passed :] = self.now

    def before(self, positions: np.ndarray, partition: int) -> np.ndarray:
        """How many for a partition lie before each of the positions."""
        return self._counts[np.searchsorted(self._positions, positions), partition]
