"""One side of a comparison of distributions: what a period of SERVED, or a training set, says of each feature.

Sums and a bounded sample are kept, never all rows. The sample is a function of the rows and their order alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from flows.errors import FingerprintError
from flows.log import Log
from flows.served import Status
from flows.served_rows import ServedRows
from flows.settings import DAY_MS, HOUR_MS
from flows.skew.names import COLUMNS, KINDS, PIN, SEQUENCE, TOPIC, USER, VIEWS
from flows.skew.served import Chosen, Question

KEPT = 200_000
"""Rows of a kind that are kept for a distribution."""

LENGTH, AGE, DURATION = "length", "newest_age_ms", "duration_ms"
# What of a sequence is a number: of the row, of the row, of each entry.
SEQUENCE_NUMBERS = (LENGTH, AGE)
ACTION, SURFACE = "action", "surface"

Coded: TypeAlias = tuple[np.ndarray, list[str]]
"""Codes, int64[n], and the name of each code."""


class Kept:
    """A thinned sample of rows, float64[n, columns] with NaN for nothing.

    When there are too many, every row whose number is drawn in the upper half is dropped, and is never taken from then on.
    """

    def __init__(self, columns: int, most: int = KEPT) -> None:
        self._columns = columns
        self._most = most
        self._parts: list[np.ndarray] = []
        self._drawn: list[np.ndarray] = []
        self._threshold = 2**64 - 1
        self._seen = 0

    def add(self, rows: np.ndarray) -> None:
        """Take rows."""
        number = np.arange(self._seen, self._seen + len(rows)).astype(np.uint64)
        self._seen += len(rows)
        x = (number + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
        keep = x <= np.uint64(self._threshold)
        self._parts.append(rows[keep])
        self._drawn.append(x[keep])
        while sum(map(len, self._drawn)) > self._most:
            self._threshold //= 2
            kept = [drawn <= np.uint64(self._threshold) for drawn in self._drawn]
            self._parts = [part[k] for part, k in zip(self._parts, kept, strict=True)]
            self._drawn = [drawn[k] for drawn, k in zip(self._drawn, kept, strict=True)]

    def rows(self) -> np.ndarray:
        """What is kept."""
        return np.concatenate(self._parts) if self._parts else np.empty((0, self._columns))


@dataclass
class Coverage:
    """How much of a feature is there.

    Attributes
    ----------
    rows, found, nonzero, defaulted : int
        Of those that weren't found, `defaulted` were not for want of time.
    """

    rows: int = 0
    found: int = 0
    nonzero: int = 0
    defaulted: int = 0

    def share(self, count: int) -> float:
        """Of all rows."""
        return count / self.rows if self.rows else 0.0


@dataclass
class Side:
    """See the module.

    Attributes
    ----------
    name : str
    bucket_ms : int
        Width of a stretch of time over which actions are counted.
    kept : dict of str to Kept
        By kind: its columns; of sequences SEQUENCE_NUMBERS.
    coverage : dict of (str, int) to Coverage
        By kind and column.
    actions, surfaces : Counter
        Entries of sequences by name.
    actions_at : dict of int to Counter
        The same by stretch of request time, as its first ms.
    records : int
    """

    name: str
    bucket_ms: int = DAY_MS
    kept: dict[str, Kept] = field(
        default_factory=lambda: {kind: Kept(len(SEQUENCE_NUMBERS) if kind == SEQUENCE else len(COLUMNS[kind])) for kind in KINDS}
    )
    coverage: dict[tuple[str, int], Coverage] = field(default_factory=dict)
    actions: Counter[str] = field(default_factory=Counter)
    surfaces: Counter[str] = field(default_factory=Counter)
    actions_at: dict[int, Counter[str]] = field(default_factory=dict)
    records: int = 0

    def add_numbers(self, kind: str, values: np.ndarray, found: np.ndarray, defaulted: np.ndarray, asked: np.ndarray | None = None) -> None:
        """Take rows of a kind.

        Parameters
        ----------
        values : number[n, columns]
            Zeros where nothing was found, as a model reads them.
        found : bool[n, columns]
        defaulted : bool[n]
            What nobody knows: it enters no distribution.
        asked : bool[columns], optional
            Which columns there are; all, without it.
        """
        known = np.broadcast_to(~defaulted[:, None], values.shape)
        if kind == SEQUENCE:
            # The age of what isn't there is no number.
            known = known & found
        self.kept[kind].add(np.where(known & (True if asked is None else asked), values.astype(np.float64), np.nan))
        for c in range(values.shape[1]):
            if asked is not None and not asked[c]:
                continue
            covered = self.coverage.setdefault((kind, c), Coverage())
            covered.rows += len(values)
            covered.found += int(found[:, c].sum())
            covered.nonzero += int((found[:, c] & (values[:, c] != 0)).sum())
            covered.defaulted += int(defaulted.sum())

    def add_entries(self, actions: Coded, surfaces: Coded, at: np.ndarray | None) -> None:
        """Take entries of sequences.

        Parameters
        ----------
        actions, surfaces : Coded
            Of each entry.
        at : int64[n] or None
            Time of the request that each was served to, ms, if it is known.
        """
        for counter, (codes, names) in ((self.actions, actions), (self.surfaces, surfaces)):
            counter.update(_named(np.bincount(codes, minlength=len(names)), names))
        codes, names = actions
        if at is not None and len(codes):
            starts, bucket = np.unique(at // self.bucket_ms * self.bucket_ms, return_inverse=True)
            counts = np.bincount(bucket * len(names) + codes, minlength=len(starts) * len(names)).reshape(len(starts), len(names))
            for start, row in zip(starts.tolist(), counts, strict=True):
                self.actions_at.setdefault(start, Counter()).update(_named(row, names))


def of_period(
    log: Log,
    question: Question,
    name: str,
    fingerprint: str | None,
    names: tuple[dict[int, str], dict[int, str]],
    told: tuple[Callable[[int], None], Callable[[int], None]] = (lambda n: None, lambda n: None),
) -> Side:
    """What was served in a period.

    Parameters
    ----------
    log : Log
        SERVED.
    fingerprint : str or None
        What rows must have been served under; None: whatever.
    names : (dict, dict)
        Names of actions and of surfaces by code.
    told : (callable, callable)
        Called with how many records there are, and with how many have just been read.

    Raises
    ------
    FingerprintError
        A row was served under other definitions or settings.
    """
    chosen = Chosen(log, question)
    told[0](chosen.to_read)
    side = Side(name)
    stretches = chosen.stretches(told[1])
    for stretch in stretches:
        if fingerprint is not None:
            refuse_others(stretch, fingerprint, name)
        if not side.records:
            side.bucket_ms = _bucket(stretch, question)
        _add(side, stretch, names)
    return side


def refuse_others(served: ServedRows, fingerprint: str, where: str) -> None:
    """Refuse rows that were served under other definitions or settings.

    Raises
    ------
    FingerprintError
    """
    used = [served.fingerprints[i] for i in np.unique(served.fingerprint[served.fingerprint >= 0]).tolist()]
    others = [one for one in used if one != fingerprint]
    if others:
        raise FingerprintError(
            f"{where} holds rows that were served under other features or settings (fingerprint {', '.join(sorted(others))}, now {fingerprint}): "
            "choose a period without them, or take all with --any-fingerprint"
        )


def _bucket(stretch: ServedRows, question: Question) -> int:
    """Hours where the period is short, days otherwise."""
    first = question.first if question.first is not None else int(stretch.timestamp.min())
    last = question.until if question.until is not None else int(stretch.timestamp.max())
    return HOUR_MS if last - first <= 3 * DAY_MS else DAY_MS


@dataclass(frozen=True, eq=False)
class KindRows:
    """What records of SERVED say of one kind of rows.

    Attributes
    ----------
    kind : str
    record : int64[n]
        Which record of SERVED each row is of.
    values : number[n, columns]
        Zeros where nothing was found, as a model reads them; of sequences SEQUENCE_NUMBERS.
    found : bool[n, columns]
    defaulted : bool[n]
    """

    kind: str
    record: np.ndarray
    values: np.ndarray
    found: np.ndarray
    defaulted: np.ndarray


def rows_by_kind(served: ServedRows) -> list[KindRows]:
    """The rows of each kind that there are any of, in the order of the records."""
    out = []
    users = np.flatnonzero(served.has_user)
    if len(users):
        lengths = np.diff(served.sequence_offsets)[users]
        defaulted = served.user_status[users] == Status.DEFAULTED
        newest = np.zeros(len(users), np.int64)
        some = lengths > 0
        newest[some] = served.sequence["event_time"][served.sequence_offsets[users][some]]
        numbers = np.column_stack([lengths, np.where(some, served.as_of[users] - newest, 0)])
        out.append(KindRows(SEQUENCE, users, numbers, np.column_stack([~defaulted, some]), defaulted))
        # A user's status is of the sequence too: counters are there where any of them is.
        counters = served.user_counters[users]
        out.append(KindRows(USER, users, counters, np.broadcast_to(counters.any(axis=1, keepdims=True), counters.shape), defaulted))
    for kind, values, status, offsets in (
        (PIN, served.pin_counters, served.pin_status, served.pin_offsets),
        (TOPIC, served.topic_stats, served.topic_status, served.topic_offsets),
    ):
        if len(values):
            found = np.broadcast_to((status == Status.FOUND)[:, None], values.shape)
            record = np.repeat(np.arange(len(served)), np.diff(offsets))
            out.append(KindRows(kind, record, values, found, status == Status.DEFAULTED))
    return out


def _add(side: Side, served: ServedRows, names: tuple[dict[int, str], dict[int, str]]) -> None:
    side.records += len(served)
    for rows in rows_by_kind(served):
        side.add_numbers(rows.kind, rows.values, rows.found, rows.defaulted)
    at = np.repeat(served.timestamp, np.diff(served.sequence_offsets))
    side.add_entries(_coded(served.sequence["action"], names[0]), _coded(served.sequence["surface"], names[1]), at)


def _coded(codes: np.ndarray, names: dict[int, str]) -> Coded:
    """Codes of a vocabulary, which are bytes."""
    return codes.astype(np.int64), [names.get(code, f"code {code}") for code in range(256)]


def _named(counts: np.ndarray, names: list[str]) -> dict[str, int]:
    """Counts by name, of those that occur."""
    return {names[code]: int(counts[code]) for code in np.flatnonzero(counts).tolist()}


def name_of(kind: str, column: int) -> str:
    """What a distribution is called."""
    return f"{VIEWS[kind]}:{SEQUENCE_NUMBERS[column] if kind == SEQUENCE else COLUMNS[kind][column]}"
