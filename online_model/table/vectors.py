"""Where the vectors and accumulators of rows lie: all in memory, or a fixed number of them with RocksDB behind (`spilled.py`).

Kernels work on slots. What they compute must not depend on where a row lies, nor on when it was last in memory.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Vectors(Protocol):
    """Vectors of rows, reached by slots.

    Attributes
    ----------
    weights : f32[slots, d]
    accumulators : f32[slots]
    most : int
        How many rows may be asked for at once.
    """

    weights: np.ndarray
    accumulators: np.ndarray
    most: int

    def slots(self, rows: np.ndarray, writing: bool) -> np.ndarray:
        """Where rows lie, good until the next call: int64[n] of at most `most` rows. `writing` says that they will be changed."""
        ...

    def reserve(self, rows: int) -> None:
        """Make room for that many rows in all."""
        ...

    def forget(self, rows: np.ndarray) -> None:
        """Rows that are free again read as the default row."""
        ...

    def read(self, rows: np.ndarray, weights: np.ndarray, accumulators: np.ndarray) -> None:
        """Copy rows out, without moving any: into f32[n, d] and f32[n]."""
        ...

    def scale_accumulators(self, factor: np.float32) -> None:
        """Multiply every accumulator."""
        ...

    def close(self) -> None:
        """Let go of files."""
        ...

    def memory_bytes(self) -> int:
        """What is held."""
        ...


class InMemory:
    """All vectors in memory; a row's slot is its number.

    Parameters
    ----------
    dimension : int
    """

    most = 1 << 62

    def __init__(self, dimension: int) -> None:
        self.weights = aligned((1, dimension))
        self.accumulators = np.zeros(1, np.float32)

    def slots(self, rows: np.ndarray, writing: bool) -> np.ndarray:
        return rows

    def reserve(self, rows: int) -> None:
        if rows > len(self.accumulators):
            weights = aligned((rows, self.weights.shape[1]))
            weights[: len(self.weights)] = self.weights
            self.weights = weights
            self.accumulators = np.concatenate([self.accumulators, np.zeros(rows - len(self.accumulators), np.float32)])

    def forget(self, rows: np.ndarray) -> None:
        self.weights[rows] = self.weights[0]
        self.accumulators[rows] = 0

    def read(self, rows: np.ndarray, weights: np.ndarray, accumulators: np.ndarray) -> None:
        np.take(self.weights, rows, axis=0, out=weights)
        np.take(self.accumulators, rows, out=accumulators)

    def scale_accumulators(self, factor: np.float32) -> None:
        self.accumulators *= factor

    def close(self) -> None:
        pass

    def memory_bytes(self) -> int:
        return self.weights.nbytes + self.accumulators.nbytes


def aligned(shape: tuple[int, int]) -> np.ndarray:
    """Zeros as f32 that begin at a cache line, so that a vector of 16·n values lies in n lines; numpy's own begin 16 bytes behind one."""
    size = shape[0] * shape[1]
    whole = np.zeros(size + 16, np.float32)
    begin = -whole.ctypes.data % 64 // 4
    return whole[begin : begin + size].reshape(shape)
