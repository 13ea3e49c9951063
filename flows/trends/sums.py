"""Counts by stretch of time. They add up, so it never matters in which pieces or in which order records come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flows.errors import InputError
from flows.settings import DAY_MS, HOUR_MS

MINUTE_MS = 60_000
SIZES = (MINUTE_MS, 10 * MINUTE_MS, HOUR_MS, DAY_MS, 7 * DAY_MS, 28 * DAY_MS, 364 * DAY_MS, 3640 * DAY_MS)
"""Widths of a stretch, ms. Each is whole times the one before, and all count from 1970, so that finer counts add up to coarser ones."""
MOST = 400
"""Stretches that hold anything, where nobody has said how wide they are: with more of them they are made wider."""
MOST_ASKED = 20_000
"""The same, where somebody has."""


@dataclass(frozen=True)
class Period:
    """Times from the first on and before the second, ms; None: no end on that side."""

    first: int | None = None
    until: int | None = None

    def __post_init__(self) -> None:
        if self.first is not None and self.until is not None and self.first >= self.until:
            raise InputError(f"a period from {self.first} to {self.until} (ms) holds nothing: it must end after it begins")

    def holds(self, times: np.ndarray) -> np.ndarray:
        """Which times lie in it: bool[n]."""
        inside = np.ones(len(times), np.bool_)
        if self.first is not None:
            inside &= times >= self.first
        if self.until is not None:
            inside &= times < self.until
        return inside


@dataclass(frozen=True)
class Counting:
    """Which records count, and into what.

    Attributes
    ----------
    period : Period
    reference : Period or None
        Counted apart too, wherever it lies; None: the first half of what there is, known only at the end.
    size_ms : int or None
        Width of a stretch, of SIZES; None: the least of which there are MOST at most.
    """

    period: Period = Period()
    reference: Period | None = None
    size_ms: int | None = None

    @property
    def first(self) -> int | None:
        """The earliest time that counts for anything; None: there is none."""
        firsts = [self.period.first, *([self.reference.first] if self.reference is not None else [])]
        return None if None in firsts else min(first for first in firsts if first is not None)

    @property
    def until(self) -> int | None:
        """The time from which on nothing counts for anything; None: there is none."""
        ends = [self.period.until, *([self.reference.until] if self.reference is not None else [])]
        return None if None in ends else max(end for end in ends if end is not None)


class Sums:
    """Counts of one log by stretch and column.

    Parameters
    ----------
    columns : int
    counting : Counting

    Attributes
    ----------
    size_ms : int
        Width of a stretch now.
    reference : int64[columns]
        Sums over `counting.reference`, if there is one.
    """

    def __init__(self, columns: int, counting: Counting) -> None:
        self.columns, self._counting = columns, counting
        self.size_ms = counting.size_ms or SIZES[0]
        self.reference = np.zeros(columns, np.int64)
        self._at: dict[int, np.ndarray] = {}

    def count(self, times: np.ndarray, which: np.ndarray) -> None:
        """Count records once each: int64[n] ms, and the column of each, int64[n]."""
        if self._counting.reference is not None:
            self.reference += np.bincount(which[self._counting.reference.holds(times)], minlength=self.columns)
        inside = self._counting.period.holds(times)
        starts, place = np.unique(times[inside] // self.size_ms, return_inverse=True)
        shape = (len(starts), self.columns)
        self._take(starts, np.bincount(place * self.columns + which[inside], minlength=shape[0] * shape[1]).reshape(shape))

    def add(self, times: np.ndarray, values: np.ndarray) -> None:
        """Add up rows: int64[n] ms, and number[n, columns]."""
        if self._counting.reference is not None:
            self.reference += values[self._counting.reference.holds(times)].sum(axis=0, dtype=np.int64)
        inside = self._counting.period.holds(times)
        if not inside.any():
            return
        order = np.argsort(times[inside] // self.size_ms, kind="stable")
        at = (times[inside] // self.size_ms)[order]
        begins = np.flatnonzero(np.diff(at, prepend=at[0] - 1))
        self._take(at[begins], np.add.reduceat(values[inside][order].astype(np.int64), begins, axis=0))

    def _take(self, stretches: np.ndarray, sums: np.ndarray) -> None:
        for start, row in zip((stretches * self.size_ms).tolist(), sums, strict=True):
            known = self._at.get(start)
            self._at[start] = row.astype(np.int64) if known is None else known + row
        if self._counting.size_ms is None:
            while len(self._at) > MOST and self.size_ms < SIZES[-1]:
                self.coarsen(SIZES[SIZES.index(self.size_ms) + 1])
        elif len(self._at) > MOST_ASKED:
            raise InputError(
                f"there are more than {MOST_ASKED:,} stretches of {self.size_ms // 1000:,} s; choose a shorter period, or wider ones"
            )

    def coarsen(self, size_ms: int) -> None:
        """Make stretches wider; to what they are, it does nothing."""
        at, self._at, self.size_ms = self._at, {}, size_ms
        for start, row in at.items():
            wide = start // size_ms * size_ms
            self._at[wide] = self._at[wide] + row if wide in self._at else row

    def drop_before(self, time: int) -> None:
        """Forget the stretches that begin before a time, ms."""
        self._at = {start: row for start, row in self._at.items() if start >= time}

    @property
    def starts(self) -> np.ndarray:
        """First ms of each stretch that holds anything: int64[b], ascending."""
        return np.array(sorted(self._at), np.int64)

    def table(self, starts: np.ndarray | None = None) -> np.ndarray:
        """Sums by stretch, those of `starts` if given: int64[b, columns]."""
        chosen = self.starts if starts is None else starts
        nothing = np.zeros(self.columns, np.int64)
        return np.array([self._at.get(start, nothing) for start in chosen.tolist()], np.int64).reshape(len(chosen), self.columns)

    def total(self, first: int | None = None, until: int | None = None) -> np.ndarray:
        """Sums over the stretches that begin from the first time on and before the second: int64[columns]."""
        starts = self.starts
        return self.table(starts[Period(first, until).holds(starts)]).sum(axis=0, dtype=np.int64)
