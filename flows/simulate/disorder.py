"""How records reach the log: delayed, out of order, late, twice, malformed; and by docs/semantics.md what each of them is.

Everything here is in closed form: a partition's watermark before a record is the greatest event time of the well-formed records before it,
since a duplicate lies behind the record that it repeats and can't raise it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flows.events import MAX_EVENT_TIME
from flows.partition import partition_of
from flows.settings import DAY_MS, HOUR_MS
from flows.simulate.parameters import Parameters
from flows.simulate.population import FIRST_USER_ID
from flows.simulate.table import Events

NO_WATERMARK = -(2**62)
_AHEAD_RATE = 0.003

# Malformed rows that typed columns can hold, and the reasons that docs/semantics.md gives them. Code 0 is "well-formed".
FLAWS: tuple[tuple[str, str], ...] = (
    ("", ""),
    ("unknown_action", "unknown_action"),
    ("null_user_id", "missing_field"),
    ("negative_duration", "negative_duration"),
    ("future_time", "future_time"),
    ("negative_time", "impossible_time"),
    ("far_time", "impossible_time"),
    ("null_pin_id", "missing_field"),
    ("unknown_surface", "unknown_surface"),
    ("unknown_schema_version", "unknown_schema_version"),
)
FLAW = {name: code for code, (name, _) in enumerate(FLAWS)}


@dataclass(frozen=True)
class Records:
    """What is written of records, in order of arrival.

    Attributes
    ----------
    row : int64
        Row of the events that the record carries.
    arrival, event_time : int64
        ms UTC.
    event_id : int64
        Of a duplicate, that of the first one.
    flaw : int8
        Index into FLAWS.
    """

    row: np.ndarray
    arrival: np.ndarray
    event_time: np.ndarray
    event_id: np.ndarray
    flaw: np.ndarray

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True)
class Stream(Records):
    """Records, and what is true of them.

    Attributes
    ----------
    duplicate, late : bool
        Dropped as a duplicate; accepted as late.
    watermark : int64
        W of the record's partition before it.
    last_watermark : int64
        W of each partition behind the last record.
    """

    duplicate: np.ndarray
    late: np.ndarray
    watermark: np.ndarray
    last_watermark: np.ndarray

    @property
    def accepted(self) -> np.ndarray:
        """Mask of the accepted records."""
        return (self.flaw == 0) & ~self.duplicate


def deliver(rng: np.random.Generator, events: Events, malformed: int, parameters: Parameters) -> Stream:
    """The stream of all events, with duplicates of some and malformed copies of some.

    Parameters
    ----------
    malformed : int
        How many malformed rows to add.
    """
    count = len(events)
    arrival = events.time + _delays(rng, count, parameters)

    twice = np.flatnonzero(rng.random(count) < parameters.duplicate_rate)
    retry = min(5 * 60_000, parameters.dedup_horizon_ms // 2)
    again = arrival[twice] + np.minimum(rng.exponential(30_000, len(twice)).astype(np.int64), retry)
    flawed = rng.integers(0, count, malformed) if count else np.zeros(0, np.int64)
    flaw = np.zeros(count + len(twice) + len(flawed), np.int8)
    flaw[count + len(twice) :] = 1 + np.arange(len(flawed)) % (len(FLAWS) - 1)
    duplicate = np.zeros(len(flaw), bool)
    duplicate[count : count + len(twice)] = True

    row = np.concatenate([np.arange(count), twice, flawed])
    event_id = _scatter(np.concatenate([np.arange(count), twice, count + np.arange(len(flawed))]))
    arrival = np.concatenate([arrival, again, arrival[flawed]])
    event_time = _flaw_times(rng, events.time[row], arrival, flaw, parameters)

    # Stable, and a duplicate stands behind its original here already, so it stays behind it where they arrive in the same ms.
    order = np.argsort(arrival, kind="stable")
    row, event_id, arrival, event_time, flaw, duplicate = (a[order] for a in (row, event_id, arrival, event_time, flaw, duplicate))
    partition = partition_of(np.arange(int(events.user.max(initial=0)) + 1) + FIRST_USER_ID, parameters.partitions)[events.user[row]]
    watermark, last = _watermarks(partition, event_time, flaw == 0, parameters.partitions)

    # A record that the engine no longer remembers would be accepted twice: no such retry is made.
    keep = ~duplicate | (event_time >= watermark - parameters.dedup_horizon_ms)
    late = (flaw == 0) & ~duplicate & (event_time < watermark - parameters.allowed_lateness_ms)
    return Stream(
        row=row[keep],
        arrival=arrival[keep],
        event_time=event_time[keep],
        event_id=event_id[keep],
        flaw=flaw[keep],
        duplicate=duplicate[keep],
        late=late[keep],
        watermark=watermark[keep],
        last_watermark=last,
    )


def _delays(rng: np.random.Generator, count: int, parameters: Parameters) -> np.ndarray:
    """From event time to arrival: a second or so; for some minutes; for a few hours or days; for a few less than nothing."""
    lateness = parameters.allowed_lateness_ms
    delay = np.minimum(200 + rng.lognormal(6.5, 0.8, count), 60_000).astype(np.int64)
    kind = rng.random(count)
    late = kind < parameters.late_rate
    unordered = ~late & (kind < parameters.late_rate + parameters.out_of_order_rate)
    # A fifth is left free, for clocks that run ahead move the watermark a little.
    delay[unordered] += (rng.random(np.count_nonzero(unordered)) * lateness * 0.8).astype(np.int64)
    least = lateness + 2 * HOUR_MS
    delay[late] += rng.integers(least, max(2 * DAY_MS, lateness + DAY_MS), np.count_nonzero(late))
    ahead = np.flatnonzero(rng.random(count) > 1 - _AHEAD_RATE)
    ahead = ahead[~late[ahead]]
    most = min(parameters.clock_skew_ms, 5 * 60_000, lateness // 10)
    # Some at the very bound, which is still allowed.
    delay[ahead] = -np.minimum((rng.random(len(ahead)) * 1.1 * (most + 1)).astype(np.int64), most)
    return delay


def _flaw_times(rng: np.random.Generator, time: np.ndarray, arrival: np.ndarray, flaw: np.ndarray, parameters: Parameters) -> np.ndarray:
    """Event times, those that are to be wrong made so; some by a single ms."""
    time = time.copy()
    for name, wrong in (
        ("future_time", lambda at, by: arrival[at] + parameters.clock_skew_ms + 1 + by),
        ("negative_time", lambda at, by: -1 - by),
        ("far_time", lambda at, by: MAX_EVENT_TIME + 1 + by),
    ):
        at = np.flatnonzero(flaw == FLAW[name])
        time[at] = wrong(at, rng.integers(0, 10 * DAY_MS, len(at)) * (rng.random(len(at)) < 0.8))
    return time


def _watermarks(partition: np.ndarray, time: np.ndarray, moves: np.ndarray, partitions: int) -> tuple[np.ndarray, np.ndarray]:
    """W before each record, and W of each partition in the end."""
    order = np.argsort(partition, kind="stable")
    bounds = np.searchsorted(partition[order], np.arange(partitions + 1))
    effect = np.where(moves, time, NO_WATERMARK)[order]
    before = np.empty_like(effect)
    last = np.full(partitions, NO_WATERMARK, np.int64)
    for p in range(partitions):
        begin, end = bounds[p], bounds[p + 1]
        if begin < end:
            reached = np.maximum.accumulate(effect[begin:end])
            before[begin], before[begin + 1 : end], last[p] = NO_WATERMARK, reached[:-1], reached[-1]
    out = np.empty_like(before)
    out[order] = before
    return out, last


def _scatter(numbers: np.ndarray) -> np.ndarray:
    """Distinct int64 of distinct numbers, in no order and of both signs (splitmix64, a bijection): ties are broken by them, signed."""
    z = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).view(np.int64)
