"""An embedding table read naively: dicts by ID, one sighting and one gradient at a time, in double precision."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass
class Row:
    """What a table knows of an ID that has a row."""

    vector: np.ndarray
    accumulator: float
    count: int
    last_seen: int


class NaiveTable:
    """By the definition, with no thought of speed or memory."""

    def __init__(self, dimension: int, admit_after: int, candidates: int, initial: float, epsilon: float, default: np.ndarray) -> None:
        self.dimension, self.admit_after, self.initial, self.epsilon = dimension, admit_after, initial, epsilon
        self.room = max(1, candidates // 2)
        self.default = Row(default.astype(np.float64), initial, 1, 0)
        self.rows: dict[int, Row] = {}
        self.newer: dict[int, int] = {}
        self.older: dict[int, int] = {}
        self.changed: set[int] = set()
        self.removed: set[int] = set()

    def see(self, identity: int, time: int) -> bool:
        """One sighting; whether the ID has a row as of it."""
        if identity in self.rows:
            row = self.rows[identity]
            row.count, row.last_seen = row.count + 1, max(row.last_seen, time)
            return True
        if self.admit_after == 1:
            seen = 1
        elif identity in self.newer:
            seen = self.newer[identity] + 1
        else:
            seen = self.older.pop(identity, 0) + 1
            if len(self.newer) == self.room:
                self.older, self.newer = self.newer, {}
        if seen < self.admit_after:
            self.newer[identity] = seen
            return False
        self.newer.pop(identity, None)
        self._start(identity, seen, time)
        return True

    def apply(self, identities: Sequence[int | None], gradients: np.ndarray, rate: float, learn_default: bool = False) -> None:
        """One batch; None stands for the default row."""
        sums: dict[int | None, np.ndarray] = {}
        for identity, gradient in zip(identities, gradients.astype(np.float64), strict=True):
            sums[identity] = sums.get(identity, 0.0) + gradient
        for identity, total in sums.items():
            if identity is None:
                if learn_default:
                    self._move(self.default, total, rate)
            else:
                self._move(self.rows[identity], total, rate)
                self.changed.add(identity)

    def put(self, identity: int, vector: np.ndarray) -> None:
        if identity not in self.rows:
            self.newer.pop(identity, None)
            self.older.pop(identity, None)
            self._start(identity, 1, -(2**63))
        self.rows[identity].vector = vector.astype(np.float64)
        self.changed.add(identity)

    def delete(self, identities: Iterable[int]) -> None:
        for identity in identities:
            if self.rows.pop(identity, None) is not None:
                self.removed.add(identity)

    def expire(self, before: int) -> list[int]:
        gone = sorted(identity for identity, row in self.rows.items() if row.last_seen < before)
        self.delete(gone)
        return gone

    def take_changed(self) -> tuple[list[int], list[int]]:
        changed, removed = sorted(self.changed & self.rows.keys()), sorted(self.removed - self.rows.keys())
        self.changed, self.removed = set(), set()
        return changed, removed

    def decay(self, factor: float) -> None:
        for row in [self.default, *self.rows.values()]:
            row.accumulator *= factor

    def vector(self, identity: int) -> np.ndarray:
        return self.rows.get(identity, self.default).vector

    def _start(self, identity: int, seen: int, time: int) -> None:
        self.rows[identity] = Row(self.default.vector.copy(), self.initial, seen, time)
        self.changed.add(identity)

    def _move(self, row: Row, gradient: np.ndarray, rate: float) -> None:
        row.accumulator += float(sum(value * value for value in gradient)) / self.dimension
        row.vector = row.vector - rate / (math.sqrt(row.accumulator) + self.epsilon) * gradient
