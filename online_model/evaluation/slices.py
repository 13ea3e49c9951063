"""Metrics by time of the request, by topic, and by how long the user has been there: the same metrics of parts of the rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flows.settings import DAY_MS, HOUR_MS
from online_model.evaluation.metrics import METRICS, OF_ROWS, Head, measure
from online_model.evaluation.scored import ScoredRows

AGE_DAYS = (0, 1, 7, 28, 90)
"""Where the groups of users by age begin, in whole days since they acted first."""
MOST_TOPICS = 50
_HOURS, _DAYS = 2, 90  # spans of up to so many days have buckets so long; longer ones have weeks, or
_MOST_BUCKETS = 400  # several weeks at once


@dataclass(frozen=True)
class Part:
    """A part of the rows.

    Attributes
    ----------
    name : str
        Empty for buckets of time.
    start_ms : int or None
        Where a bucket of time begins.
    rows, users : int
    heads : dict of str to Head
    """

    name: str
    start_ms: int | None
    rows: int
    users: int
    heads: dict[str, Head]


@dataclass(frozen=True)
class Slices:
    """The parts.

    Attributes
    ----------
    bucket_ms : int
    time, age : tuple of Part
    topic : tuple of Part
        The MOST_TOPICS with most rows, most first; metrics of rows alone, for a request's pins are of several topics.
    topics : int
        How many there are.
    """

    bucket_ms: int
    time: tuple[Part, ...]
    topic: tuple[Part, ...]
    age: tuple[Part, ...]
    topics: int


def slices(rows: ScoredRows, bucket_ms: int | None = None) -> Slices:
    """Metrics of all parts.

    Parameters
    ----------
    rows : ScoredRows
    bucket_ms : int, optional
        How long buckets of time are; they begin at multiples of it since 1970. Left out: an hour where the rows span at most 2 days, a day up to 90,
        else a week, or several at once where rows span years.
    """
    size = bucket_ms or _bucket(int(rows.request_time.max()) - int(rows.request_time.min()))
    starts, bucket = np.unique(rows.request_time // size, return_inverse=True)
    age = _ages(rows)
    counts = np.bincount(rows.topic[rows.topic >= 0], minlength=len(rows.topics))
    there = np.flatnonzero(counts)
    shown = sorted(there.tolist(), key=lambda at: (-counts[at], rows.topics[at]))[:MOST_TOPICS]
    return Slices(
        bucket_ms=size,
        time=tuple(_part(rows, bucket == i, "", start_ms=int(start) * size) for i, start in enumerate(starts.tolist())),
        topic=tuple(_part(rows, rows.topic == at, rows.topics[at], metrics=OF_ROWS) for at in shown),
        age=tuple(_part(rows, age == i, _age_name(i)) for i in np.unique(age).tolist()),
        topics=len(there),
    )


def _bucket(span_ms: int) -> int:
    if span_ms <= _HOURS * DAY_MS:
        return HOUR_MS
    if span_ms <= _DAYS * DAY_MS:
        return DAY_MS
    return 7 * DAY_MS * -(-span_ms // (7 * DAY_MS * _MOST_BUCKETS))


def _ages(rows: ScoredRows) -> np.ndarray:
    """Which group of AGE_DAYS each row's user is in at the request; before the first action: the first."""
    days = (rows.request_time - rows.first_seen[rows.user]) // DAY_MS
    return np.maximum(np.searchsorted(AGE_DAYS, days, side="right") - 1, 0)


def _age_name(group: int) -> str:
    first = AGE_DAYS[group]
    if group + 1 == len(AGE_DAYS):
        return f"{first} days and more"
    last = AGE_DAYS[group + 1] - 1
    return f"{first}–{last} days" if last > first else "first day"


def _part(rows: ScoredRows, which: np.ndarray, name: str, start_ms: int | None = None, metrics: tuple[str, ...] = METRICS) -> Part:
    part = rows.take(which)
    return Part(name, start_ms, len(part), len(part.user_id), measure(part, metrics))
