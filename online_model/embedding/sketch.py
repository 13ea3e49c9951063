"""A count-min sketch (Cormode and Muthukrishnan 2005): how often each pin was met, in memory that doesn't grow, never too few times."""

from __future__ import annotations

import numpy as np

_BITS = 64


class CountMinSketch:
    """Counts of numbers.

    Parameters
    ----------
    width, depth : int
        Counters of a row, rounded up to a power of two; rows, each with a hash function of its own.
    seed : int
        Of the hash functions.

    Attributes
    ----------
    table : int64[depth, width]
    total : int
        How many numbers were added.
    """

    def __init__(self, width: int, depth: int, seed: int = 0) -> None:
        self._shift = np.uint64(_BITS - max(1, (width - 1).bit_length()))
        rng = np.random.default_rng([seed, width, depth])
        # Multiply-shift (Dietzfelbinger et al. 1997): odd factors, the highest bits of the product.
        self._factors = rng.integers(0, 2**63, depth, dtype=np.uint64) << np.uint64(1) | np.uint64(1)
        self.table = np.zeros((depth, 1 << (_BITS - int(self._shift))), np.int64)
        self.total = 0

    def add(self, numbers: np.ndarray) -> None:
        """Count int64[n]."""
        for row, at in zip(self.table, self._places(numbers), strict=True):
            row += np.bincount(at, minlength=len(row))
        self.total += len(numbers)

    def counts(self, numbers: np.ndarray) -> np.ndarray:
        """How often each was added, or more where others fall on its counters: int64[n]."""
        return np.min([row[at] for row, at in zip(self.table, self._places(numbers), strict=True)], axis=0)

    def share(self, numbers: np.ndarray) -> np.ndarray:
        """Of all that was added, the share of each: float64[n]."""
        return self.counts(numbers) / max(self.total, 1)

    def _places(self, numbers: np.ndarray) -> np.ndarray:
        mixed = np.asarray(numbers).astype(np.uint64)[None, :] * self._factors[:, None]
        return (mixed >> self._shift).astype(np.int64)
