"""Where the chance of reactions and revisits comes from: a stream of random numbers, or hashes of what they are about.

Whoever asks says for which rows it needs numbers. A stream (`Drawn`) gives the next ones and deals out outcomes by quota, for one simulation as
near to the published rates as can be. Hashes (`Hashed`) give a pin of a request the same numbers whatever else happens, so that two policies
differ by what they do and not by luck; they need no order, no quota and no batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from flows.simulate.table import CLICK, CLOSEUP, LONG_CLICK, NONE

_GOLDEN, _FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class Numbers(Protocol):
    """Random numbers for rows. Of calls in the same order with the same rows, the n-th gives the same numbers."""

    def uniform(self, rows: np.ndarray, day: np.ndarray | int = 0) -> np.ndarray:
        """float64 in [0, 1), of each row (and day)."""

    def whole(self, rows: np.ndarray, least: int, most: int, day: np.ndarray | int = 0) -> np.ndarray:
        """int64 in [least, most), of each row (and day)."""

    def table(self, rows: np.ndarray, width: int) -> np.ndarray:
        """Float in [0, 1), (rows, width)."""

    def even(self, rows: np.ndarray, stratum: np.ndarray, lean: np.ndarray | None = None, leaning: Leaning | None = None) -> np.ndarray:
        """float64 in [0, 1), of each row; as evenly spread within each stratum as can be.

        Parameters
        ----------
        lean : float64, optional
            By how much the log-odds of each row to have a low number are higher than those of others.
        leaning : Leaning, optional
            How all such rows lean. With `lean`, for those who don't see them all.
        """

    def lasting(self, action: int, rows: np.ndarray, day: np.ndarray | int = 0) -> np.ndarray | int:
        """How long a closeup, a click (up to 10 s) or a long click (over 10 s) lasts, in ms; NONE for other actions."""


@dataclass
class Drawn:
    """Numbers of a stream.

    Attributes
    ----------
    rng : Generator
    """

    rng: np.random.Generator

    def uniform(self, rows: np.ndarray, day: np.ndarray | int = 0) -> np.ndarray:
        """See `Numbers`."""
        return self.rng.random(len(rows))

    def whole(self, rows: np.ndarray, least: int, most: int, day: np.ndarray | int = 0) -> np.ndarray:
        """See `Numbers`."""
        return self.rng.integers(least, most, len(rows))

    def table(self, rows: np.ndarray, width: int) -> np.ndarray:
        """See `Numbers`."""
        return self.rng.random((len(rows), width), dtype=np.float32)

    def even(self, rows: np.ndarray, stratum: np.ndarray, lean: np.ndarray | None = None, leaning: Leaning | None = None) -> np.ndarray:
        """See `Numbers`. Of a stratum of n, one in each n-th."""
        lot = self.rng.random(len(rows))
        if lean is not None:
            lot = logit(lot) - lean
        order = np.lexsort((lot, stratum))
        ordered = stratum[order]
        heads = np.flatnonzero(np.diff(ordered, prepend=-1))
        sizes = np.diff(heads, append=len(ordered))
        out = np.empty(len(rows))
        out[order] = (np.arange(len(ordered)) - np.repeat(heads, sizes) + self.rng.random(len(ordered))) / np.repeat(sizes, sizes)
        return out

    def lasting(self, action: int, rows: np.ndarray, day: np.ndarray | int = 0) -> np.ndarray | int:
        """See `Numbers`."""
        if action == CLOSEUP:
            return np.minimum(self.rng.lognormal(8.5, 0.9, len(rows)), 300_000).astype(np.int32)
        if action == CLICK:
            return self.rng.integers(500, 10_001, len(rows)).astype(np.int32)
        if action == LONG_CLICK:
            return (10_001 + np.minimum(self.rng.lognormal(10.0, 1.0, len(rows)), 1_800_000)).astype(np.int32)
        return NONE


class Hashed:
    """Numbers that follow from keys.

    Parameters
    ----------
    keys : uint64
        Of each row: what the row is about, hashed with the seed.
    """

    def __init__(self, keys: np.ndarray) -> None:
        self._keys = keys
        self._calls = 0

    def uniform(self, rows: np.ndarray, day: np.ndarray | int = 0) -> np.ndarray:
        """See `Numbers`."""
        self._calls += 1
        return unit(key_of(self._keys[rows], self._calls, day))

    def whole(self, rows: np.ndarray, least: int, most: int, day: np.ndarray | int = 0) -> np.ndarray:
        """See `Numbers`."""
        return least + (self.uniform(rows, day) * (most - least)).astype(np.int64)

    def table(self, rows: np.ndarray, width: int) -> np.ndarray:
        """See `Numbers`."""
        return np.stack([self.uniform(rows, column) for column in range(width)], axis=1)

    def even(self, rows: np.ndarray, stratum: np.ndarray, lean: np.ndarray | None = None, leaning: Leaning | None = None) -> np.ndarray:
        """See `Numbers`. Rows know nothing of each other, so it is as even as chance is."""
        lot = self.uniform(rows)
        return lot if lean is None or leaning is None else leaning.number(logit(lot) - lean)

    def lasting(self, action: int, rows: np.ndarray, day: np.ndarray | int = 0) -> np.ndarray | int:
        """See `Numbers`."""
        if action not in (CLOSEUP, CLICK, LONG_CLICK):
            return NONE
        if action == CLICK:
            return self.whole(rows, 500, 10_001, day).astype(np.int32)
        # Box and Muller: a normal number of two even ones.
        normal = np.sqrt(-2 * np.log(1 - self.uniform(rows, day))) * np.cos(2 * np.pi * self.uniform(rows, day))
        if action == CLOSEUP:
            return np.minimum(np.exp(8.5 + 0.9 * normal), 300_000).astype(np.int32)
        return (10_001 + np.minimum(np.exp(10.0 + normal), 1_800_000)).astype(np.int32)


class Leaning:
    """How rows lean to low numbers, so that each can have its own though over all of them numbers are evenly spread.

    A row that leans by `lean` and has an even lot u gets the number F(logit(u) - lean), F being the distribution of logit(u) - lean over all
    rows. So its number lies below p with the chance sigmoid(F⁻¹(p) + lean).

    Parameters
    ----------
    lean : float64
        Of rows that may be there.
    weight : float64
        How likely each is to be.
    """

    def __init__(self, lean: np.ndarray, weight: np.ndarray) -> None:
        middle, spread = float(np.average(lean, weights=weight)), float(np.ptp(lean))
        self._at = np.linspace(-40.0 - spread - middle, 40.0 + spread - middle, 4001)
        share, edges = np.histogram(lean, bins=400, weights=weight)
        centres = (edges[1:] + edges[:-1]) / 2
        self._below = np.zeros_like(self._at)
        for centre, part in zip(centres, share / share.sum(), strict=True):
            self._below += part * sigmoid(self._at + centre)

    def number(self, shifted: np.ndarray) -> np.ndarray:
        """F of each."""
        return np.interp(shifted, self._at, self._below)

    def chance(self, below: float | np.ndarray, lean: np.ndarray) -> np.ndarray:
        """The chance that the number of a row that leans so lies below."""
        return sigmoid(np.interp(below, self._below, self._at) + lean)


def key_of(*parts: np.ndarray | int) -> np.ndarray:
    """uint64 that follow from whole numbers, spread over scalars; splitmix64 after each."""
    key = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            z = key + np.asarray(part).astype(np.int64).view(np.uint64) * _SECOND + _GOLDEN
            z = (z ^ (z >> np.uint64(30))) * _FIRST
            z = (z ^ (z >> np.uint64(27))) * _SECOND
            key = z ^ (z >> np.uint64(31))
    return key


def unit(keys: np.ndarray) -> np.ndarray:
    """float64 in [0, 1) of hashes."""
    return (keys >> np.uint64(11)).astype(np.float64) * 2.0**-53


def logit(share: np.ndarray) -> np.ndarray:
    """Log-odds; of 0, those of something that is as good as 0."""
    share = np.clip(share, 1e-15, 1 - 1e-15)
    return np.log(share) - np.log1p(-share)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e⁻ˣ)."""
    return 1 / (1 + np.exp(-x))
