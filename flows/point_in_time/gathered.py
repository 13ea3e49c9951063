"""Rows that one pass after another gives for the entities of a read, kept within a bound."""

from __future__ import annotations

import numpy as np

# A pass that would keep more goes on with a part of the entities, and another one follows for the rest. Sorting takes as much again.
MOST_ROWS = 6_000_000


class Gathered:
    """Rows whose first column is the index of an entity.

    Parameters
    ----------
    columns : int
    """

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._parts: list[np.ndarray] = []
        self.size = 0

    def add(self, rows: np.ndarray) -> None:
        """Keep rows."""
        if len(rows):
            self._parts.append(rows)
            self.size += len(rows)

    def keep_below(self, entity: int) -> None:
        """Forget the rows of entities from this one on."""
        self._parts = [part[part[:, 0] < entity] for part in self._parts]
        self.size = sum(map(len, self._parts))

    def entities(self) -> np.ndarray:
        """The entity of each row."""
        return np.concatenate([np.empty(0, np.int64), *(part[:, 0] for part in self._parts)])

    def take(self) -> np.ndarray:
        """All rows, in the order in which they came; they are kept here no longer."""
        parts, self._parts, self.size = self._parts, [], 0
        return np.concatenate(parts) if parts else np.empty((0, self._columns), np.int64)


class Room:
    """Which entities a pass still keeps rows of: those below `below`.

    Parameters
    ----------
    entities : int
    """

    def __init__(self, entities: int) -> None:
        self.below = entities

    def make(self, *gathered: Gathered) -> None:
        """Give up the upper part of the entities where there are more rows than there is room for."""
        while sum(one.size for one in gathered) > MOST_ROWS and self.below > 1:
            held = np.concatenate([one.entities() for one in gathered])
            # At least one is kept, however many rows it has.
            self.below = max(1, min(self.below - 1, int(np.partition(held, len(held) // 2)[len(held) // 2])))
            for one in gathered:
                one.keep_below(self.below)
