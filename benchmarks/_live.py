"""The processes of a live stream: one appends events at a rate, one looks for some of them; each tells afterwards when it did what.

All times are of the monotonic clock, ns, which is one for all processes of a machine. Only `Features` knows the flows: it reads
features as any user does.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from benchmarks._live_events import LiveEvents
from benchmarks._measure import CheckFailedError
from flows.features import PIN_COUNTERS
from flows.ingest.producer import split
from flows.log import LocalLog
from flows.open_log import open_log
from flows.outputs import ACTIONS
from flows.reading import FeatureReader
from flows.settings import Settings

LINGER_NS = 5_000_000
"""How long a producer gathers before it appends: 5 ms, what Kafka's clients are usually set to."""
PAUSE_S = 0.002
PATIENCE_S = 30.0
"""How long an event may take to show, and a run to apply some of what was appended."""
_CLICKED = PIN_COUNTERS.index("revisits_click_all_7d_count")

now = time.monotonic_ns


@dataclass(frozen=True)
class Stretch:
    """What is appended: so many events from `start` on (ns), so many a second.

    Attributes
    ----------
    stride : int
        One closeup and one click in so many events is looked for.
    """

    events: LiveEvents
    number: int
    rate: float
    start: int
    stride: int
    seed: int

    def created(self, index: np.ndarray) -> np.ndarray:
        """When events come into being, whatever the producer is at: int64[n], ns."""
        return self.start + (index * (1e9 / self.rate)).astype(np.int64)


@dataclass(frozen=True)
class Appended:
    """Appends in order.

    Attributes
    ----------
    ends : int64[n]
        One past the last event of each.
    handed, acknowledged : int64[n]
        When the append was called, and when it had returned.
    """

    ends: np.ndarray
    handed: np.ndarray
    acknowledged: np.ndarray

    def of(self, index: np.ndarray) -> np.ndarray:
        """Which append events were in: int64[n]."""
        return np.searchsorted(self.ends, index, "right")


def produce(settings: Settings, name: str, stretch: Stretch) -> Appended:
    """Append events as they come into being, all that have since the last append together, at most each LINGER_NS."""
    ends, handed, acknowledged = [], [], []
    behind = time.time_ns() - now()
    done = 0
    with open_log(settings, name) as log:
        gc.freeze()
        while done < stretch.number:
            due = stretch.start + ((now() - stretch.start) // LINGER_NS + 1) * LINGER_NS
            time.sleep(max(0, max(due, stretch.start) - now()) / 1e9)
            end = min(stretch.number, int((now() - stretch.start) * stretch.rate / 1e9))
            if end == done:
                continue
            times = (stretch.created(np.arange(done, end)) + behind) // 1_000_000
            batches = list(split(stretch.events.batch(done, end, times), log.partitions))
            handed.append(now())
            log.append(batches)
            acknowledged.append(now())
            ends.append(end)
            done = end
    return Appended(*(np.array(column, np.int64) for column in (ends, handed, acknowledged)))


class Place(Protocol):
    """Where events are looked for."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def look(self, closeups: np.ndarray, clicks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of some closeups and clicks (indices) can be seen now: bool[n], bool[m]."""
        ...


class Features:
    """The features that events change: a user's sequence, a pin's counter; both under a fresh view."""

    def __init__(self, settings: Settings, events: LiveEvents) -> None:
        self._reader = FeatureReader(settings)
        self._events = events

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def look(self, closeups: np.ndarray, clicks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Place`."""
        self._reader.refresh()
        rows = self._reader.user_sequences(self._events.user_ids(closeups))
        pins = self._events.pin_ids(closeups)
        bounds = list(zip(rows.offsets[:-1].tolist(), rows.offsets[1:].tolist(), strict=True))
        seen = np.array([pin in rows.pin_id[low:high] for pin, (low, high) in zip(pins, bounds, strict=True)], np.bool_)
        counted = self._reader.pin_counters(self._events.pin_ids(clicks)).values[:, _CLICKED] == 1
        return seen, counted


class Records:
    """The log itself: what any durable engine must do before it can do more."""

    def __init__(self, settings: Settings, events: LiveEvents) -> None:
        self._log = LocalLog.open(settings.logs, ACTIONS, read_only=True)
        self._first = events.first_id
        self._at = self._log.end_positions()
        self._reached = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()

    def look(self, closeups: np.ndarray, clicks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Place`. An append is read as a whole or not at all, over all partitions."""
        for partition, end in enumerate(self._log.end_positions()):
            while self._at[partition] < end:
                for batch in self._log.read(partition, self._at[partition], end - self._at[partition]):
                    self._reached = max(self._reached, int(batch.records.column("event_id").to_numpy()[-1]) - self._first)
                    self._at[partition] = batch.end_offset
        return closeups <= self._reached, clicks <= self._reached


@dataclass(frozen=True)
class Seen:
    """When each sampled event was first seen, at the end of the look that found it.

    Attributes
    ----------
    closeups, clicks : int64[n], int64[m]
        Indices.
    closeups_at, clicks_at : int64[n], int64[m]
        0 if it was not found.
    looks : int64[k]
        How long each look took with the pause before it: no event was seen later than that after it could be.
    """

    closeups: np.ndarray
    closeups_at: np.ndarray
    clicks: np.ndarray
    clicks_at: np.ndarray
    looks: np.ndarray


def watch(settings: Settings, place: Callable[[Settings, LiveEvents], Place], stretch: Stretch) -> Seen:
    """Look for sampled events, again and again, from the moment that each came into being until it is seen."""
    events = stretch.events
    sampled = events.closeups(stretch.number, stretch.stride, stretch.seed), events.clicks(stretch.number, stretch.stride, stretch.seed + 1)
    created = [stretch.created(index) for index in sampled]
    found = [np.zeros(len(index), np.int64) for index in sampled]
    looks = []
    last = stretch.start + int(stretch.number / stretch.rate * 1e9)
    with place(settings, events) as looking:
        gc.freeze()
        time.sleep(max(0, stretch.start - now()) / 1e9)
        ended = now()
        while ended < last or (not all(map(np.all, found)) and ended < last + PATIENCE_S * 1e9):
            time.sleep(PAUSE_S)
            begun = now()
            waiting = [np.flatnonzero((at == 0) & (born <= begun)) for at, born in zip(found, created, strict=True)]
            seen = looking.look(*(index[at] for index, at in zip(sampled, waiting, strict=True)))
            before, ended = ended, now()
            looks.append(ended - before)
            for at, which, yes in zip(found, waiting, seen, strict=True):
                at[which[yes]] = ended
    return Seen(sampled[0], found[0], sampled[1], found[1], np.array(looks, np.int64))


BACKLOG, CHUNK = 200_000, 16_384
_LOOK_S = 0.05


def feed(settings: Settings, events: LiveEvents, seconds: float) -> tuple[float, int]:
    """Keep a backlog of some records for so long; returns how many were applied a second and how many were appended, all applied by then.

    Raises
    ------
    CheckFailedError
        Nothing was applied for PATIENCE_S.
    """
    began = applied = appended = 0
    moved = now()
    rate = 0.0
    with open_log(settings, ACTIONS) as log, FeatureReader(settings) as reader:
        before = sum(reader.positions()[ACTIONS])
        looked = now()
        while not rate or applied < appended:
            if not rate and appended - applied < BACKLOG:
                times = np.full(CHUNK, time.time_ns() // 1_000_000)
                log.append(list(split(events.batch(appended, appended + CHUNK, times), log.partitions)))
                appended += CHUNK
            else:
                time.sleep(_LOOK_S / 5)
            if now() - looked < _LOOK_S * 1e9:
                continue
            reader.refresh()
            seen, looked = sum(reader.positions()[ACTIONS]) - before, now()
            if seen > applied:
                applied, moved = seen, looked
            elif looked - moved > PATIENCE_S * 1e9:
                raise CheckFailedError(f"of {appended} records {applied} were applied, and none in {PATIENCE_S:.0f} s")
            if applied and not began:
                began, first = looked, applied
            if began and not rate and looked - began >= seconds * 1e9:
                rate = (applied - first) * 1e9 / (looked - began)
    return rate, appended
