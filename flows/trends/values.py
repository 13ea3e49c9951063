"""What a report of what moves says: sums over time as shares, rates and distances, with no word of how they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from flows.examples.record import HEADS
from flows.skew.drift import ENOUGH
from flows.skew.measures import psi_of_shares
from flows.skew.names import KINDS
from flows.trends.actions import CODES, LETTERS
from flows.trends.coverage import FEATURES, FOUND, ROWS, view_column
from flows.trends.sums import Period, Sums

UNKNOWN = float("nan")


@dataclass(frozen=True, eq=False)
class Series:
    """Sums of one log.

    Attributes
    ----------
    starts : int64[b]
        First ms of each stretch that holds anything.
    counts : int64[b, columns]
    reference, now : int64[columns]
        Sums over the reference, and over what is held against it.
    """

    starts: np.ndarray
    counts: np.ndarray
    reference: np.ndarray
    now: np.ndarray

    @classmethod
    def of(cls, sums: Sums, reference: Period | None, given: bool) -> Series:
        """What was counted; a reference that was given was counted apart, and another is the stretches that begin in it."""
        starts = sums.starts
        if given or reference is None:
            return cls(starts, sums.table(), sums.reference, sums.total())
        return cls(starts, sums.table(), sums.total(reference.first, reference.until), sums.total(reference.until))

    def of_columns(self, columns: np.ndarray) -> Series:
        """Some columns of it."""
        return replace(self, counts=self.counts[:, columns], reference=self.reference[columns], now=self.now[columns])


def ratio(count: int | np.integer, total: int | np.integer) -> float:
    """`count` of `total`, NaN of nothing."""
    return float(count) / float(total) if total else UNKNOWN


def drift(reference: np.ndarray, counts: np.ndarray) -> float:
    """PSI of counts by category against a reference, int64[c] each; NaN where either holds too few to say anything."""
    if min(int(reference.sum()), int(counts.sum())) < ENOUGH:
        return UNKNOWN
    # What occurs on neither side is no category.
    used = (reference > 0) | (counts > 0)
    return psi_of_shares(reference[used], counts[used])


@dataclass(frozen=True, eq=False)
class Trends:
    """See the module.

    Attributes
    ----------
    period : Period
        What was asked for.
    reference : Period or None
        What the rest is held against; None where there is nothing.
    size_ms : int
        Width of a stretch of time.
    names : mapping of int to str
        Of actions, by code.
    actions, late, dead : Series
        Columns of `flows.trends.actions`: CODES + 1, one, LETTERS.
    coverage : Series or None
        Columns of `flows.trends.coverage`; None where there is no log SERVED.
    labels : Series or None
        Columns of `flows.trends.labels`; None where there is no log EXAMPLES.
    topics : mapping of str to int64[COLUMNS]
        The same by topic, those with most labels first.
    """

    period: Period
    reference: Period | None
    size_ms: int
    names: Mapping[int, str]
    actions: Series
    late: Series
    dead: Series
    coverage: Series | None
    labels: Series | None
    topics: Mapping[str, np.ndarray]

    @property
    def by_action(self) -> tuple[tuple[str, ...], Series]:
        """Actions that occur, the most frequent first, and their sums."""
        total = self.actions.counts.sum(axis=0)[:CODES] + self.actions.reference[:CODES]
        codes = sorted(np.flatnonzero(total).tolist(), key=lambda code: (-int(total[code]), code))
        return tuple(self.names.get(code, f"code {code}") for code in codes), self.actions.of_columns(np.array(codes, np.int64))

    @property
    def psi(self) -> np.ndarray:
        """Of each stretch, of actions against the reference: float64[b], NaN where there are too few."""
        return np.array([drift(self.actions.reference[:CODES], row[:CODES]) for row in self.actions.counts], np.float64)

    @property
    def psi_now(self) -> float:
        """The same, of all that is held against the reference."""
        return drift(self.actions.reference[:CODES], self.actions.now[:CODES])

    @property
    def letters(self) -> dict[str, int]:
        """Dead letters by reason, the most frequent first."""
        total = self.dead.counts.sum(axis=0)
        return {LETTERS[i]: int(total[i]) for i in sorted(np.flatnonzero(total).tolist(), key=lambda i: (-int(total[i]), i))}

    @property
    def volume(self) -> tuple[np.ndarray, np.ndarray]:
        """Stretches in which anything came, int64[b], and records, late ones and dead letters: int64[b, 3]."""
        series = (self.actions, self.late, self.dead)
        starts = np.unique(np.concatenate([one.starts for one in series]))
        counts = np.zeros((len(starts), len(series)), np.int64)
        for column, one in enumerate(series):
            counts[np.searchsorted(starts, one.starts), column] = one.counts.sum(axis=1)
        return starts, counts


def views(counts: np.ndarray, what: int = FOUND) -> dict[str, tuple[int, int]]:
    """By kind of rows, how many were found (or what `what` says) and how many there were, of int64[columns] of `flows.trends.coverage`."""
    return {kind: (int(counts[view_column(kind, what)]), int(counts[view_column(kind, ROWS)])) for kind in KINDS}


def covered(counts: np.ndarray) -> dict[str, tuple[int, int]]:
    """By feature (view:feature), rows with a value and rows, of int64[columns] of `flows.trends.coverage`."""
    return {one.name: (int(counts[one.column]), int(counts[one.rows])) for one in FEATURES}


def rates(counts: np.ndarray) -> dict[str, tuple[int, int]]:
    """By head, labels that are 1 and labels, of int64[COLUMNS] of `flows.trends.labels`."""
    return {head: (int(counts[len(HEADS) + i]), int(counts[i])) for i, head in enumerate(HEADS)}
