"""Which records a correction changes: a partition of the log gone through, decoded as the flow does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from flows.corrections.history import History
from flows.corrections.record import NO_MOVE, PLACE_BITS, Correction, Made, places_of
from flows.errors import CorruptionError
from flows.events import EVENT_SCHEMA
from flows.kernels.layout import ACCEPTED, NEVER
from flows.log import Log, read_before
from flows.settings import Settings
from flows.state.actions_task import Judge, JudgedBatch
from flows.vocabulary import Vocabulary
from replay.rebuild.events import DecodedEvents
from replay.rebuild.filter import Filter

if TYPE_CHECKING:
    from replay.rebuild.patch import Patch

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Scope:
    """Which events may be changed at all.

    Attributes
    ----------
    users, pins : int64[n] or None
        Only events of these users; only events on these pins. None: all.
    """

    users: np.ndarray | None = None
    pins: np.ndarray | None = None

    @property
    def as_it_was(self) -> bool:
        """Whether the watermark moves as it did, so nobody else's events become late, or cease to be; else, as if changed ones had never been."""
        return self.users is not None or self.pins is not None


@dataclass(frozen=True)
class Found:
    """What a pass has found.

    Attributes
    ----------
    correction : Correction
        That says so of them; it has not taken effect.
    users : int64[n]
        Whose events they are, ascending.
    offsets : (int, int) or None
        Of the first and the last of them.
    times : (int, int) or None
        The least and the greatest event time of them, ms.
    unmatched : int64[n, 2]
        event_id, user_id of events of the patch that the log doesn't have.
    future : int
        How many events of the patch lie too far ahead of their arrival to count.
    """

    correction: Correction
    users: np.ndarray
    offsets: tuple[int, int] | None
    times: tuple[int, int] | None
    unmatched: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))
    future: int = 0

    def __len__(self) -> int:
        return len(self.correction.excluded) + len(self.correction.patched)


def scan(
    settings: Settings,
    vocabulary: Vocabulary,
    log: Log,
    partition: int,
    history: History,
    made: Made,
    span: tuple[int, int],
    condition: Filter | None,
    patch: Patch | None,
    scope: Scope,
    progress: Progress,
) -> Found:
    """Records of [span[0], span[1]) that a condition takes, or that a patch has others for.

    Records that are bad, or excluded already, are none of them; patched ones count as patched.

    Parameters
    ----------
    history : History
        The corrections so far.
    made : Made
        What the correction is to be.
    progress : callable
        Called with numbers of offsets.
    """
    judge = Judge(settings, vocabulary, partition, history)
    matched = np.zeros(len(patch.events) if patch is not None else 0, np.bool_)
    parts: dict[str, list[np.ndarray]] = {
        name: [np.empty(0, np.int64)]
        for name in ("excluded", "excluded_clock", "patched", "patched_clock", "rows", "users", "times", "offsets", "events", "owners")
    }
    arrival, future = np.int64(0), 0
    # Which records moved the watermark depends on all before them.
    at = 0 if scope.as_it_was else span[0]
    while at < span[1]:
        batches = read_before(log, span[1], partition, at, settings.batch_records)
        if not batches:
            raise CorruptionError(f"log '{log.name}', partition {partition}, can't be read from offset {at} on")
        end = batches[-1].end_offset
        if scope.as_it_was:
            done = judge.judge(batches)
            columns, offsets = done.columns, done.offsets
            clock = moved_by(done)
        else:
            columns = judge.decoder.decode(*(batch.records for batch in batches))
            offsets = np.concatenate([batch.offsets_of_records() for batch in batches])
            if judge.overlay is not None:
                judge.overlay.apply(columns, offsets)
            clock = np.full(len(offsets), NEVER)
        eligible = ~columns.bad & (offsets >= span[0])
        for ids, column in ((scope.users, columns.user_id), (scope.pins, columns.pin_id)):
            if ids is not None:
                eligible &= np.isin(column, ids)
        places = places_of(offsets)
        rows = patch.rows_for(columns.event_id, columns.user_id) if patch is not None else np.full(len(offsets), -1)
        patched = eligible & (rows >= 0)
        excluded = (
            eligible & condition.matches(DecodedEvents(columns, batches, offsets, partition, judge.overlay))
            if condition is not None
            else eligible & False
        )
        excluded &= ~patched
        matched[rows[patched]] = True
        parts["excluded"].append(places[excluded])
        parts["excluded_clock"].append(clock[excluded])
        parts["patched"].append(places[patched])
        parts["patched_clock"].append(clock[patched])
        parts["rows"].append(rows[patched])
        changed = excluded | patched
        parts["events"].append(columns.event_id[changed])
        parts["owners"].append(columns.user_id[changed])
        if patched.any():
            arrivals = np.maximum(np.maximum.accumulate(columns.timestamp), arrival)
            times = patch.events.column("event_time").to_numpy()[rows[patched]] if patch is not None else np.empty(0, np.int64)
            future += int((times - settings.clock_skew_ms > arrivals[patched]).sum())
        arrival = max(arrival, columns.timestamp.max(initial=0))
        parts["users"].append(np.unique(columns.user_id[changed]))
        if changed.any():
            times = columns.event_time[changed]
            parts["times"].append(np.array([times.min(), times.max()]))
            parts["offsets"].append(offsets[changed][[0, -1]])
        progress(end - at)
        at = end
    together = {name: np.concatenate(found) for name, found in parts.items()}
    events = (
        patch.events.take(pa.array(together["rows"]))
        if patch is not None and len(together["rows"])
        else pa.RecordBatch.from_pylist([], EVENT_SCHEMA)
    )
    unmatched = (
        np.array([list(key) for key in patch.keys[~matched]], np.int64).reshape(-1, 2) if patch is not None else np.empty((0, 2), np.int64)
    )
    pinned, pinned_clock = np.empty(0, np.int64), np.empty(0, np.int64)
    if scope.as_it_was and len(together["events"]):
        changed = np.concatenate([together["excluded"], together["patched"]])
        pinned, pinned_clock = _pinned(settings, vocabulary, log, partition, history, together["events"], together["owners"], changed)
    correction = Correction(
        made,
        together["excluded"],
        together["excluded_clock"],
        together["patched"],
        together["patched_clock"],
        events,
        pinned,
        pinned_clock,
    )
    return Found(
        _beginning(correction),
        np.unique(together["users"]),
        _bounds(together["offsets"]),
        _bounds(together["times"]),
        unmatched,
        future,
    )


def _beginning(correction: Correction) -> Correction:
    """A correction that says from which offset on it makes a difference."""
    places = correction.places()
    return replace(correction, made=replace(correction.made, first=int(places.min()) >> PLACE_BITS if len(places) else None))


def moved_by(done: JudgedBatch) -> np.ndarray:
    """The time by which each record may have moved the watermark, -NEVER for none: int64[n]."""
    own = np.where(done.judged.status == ACCEPTED, done.columns.event_time, NO_MOVE)
    return np.where(done.clock == NEVER, own, done.clock) if len(done.clock) else own


def _pinned(
    settings: Settings,
    vocabulary: Vocabulary,
    log: Log,
    partition: int,
    history: History,
    events: np.ndarray,
    owners: np.ndarray,
    changed: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Other records of the same events: they may become duplicates, or cease to be, and must move the watermark as they did.

    Parameters
    ----------
    events, owners : int64[n]
        event_id and user_id of what is changed.
    changed : int64[n]
        Places of what is changed.
    """
    judge = Judge(settings, vocabulary, partition, history)
    keys = set(zip(events.tolist(), owners.tolist(), strict=True))
    places, clocks, at, end = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0, log.end_position(partition)
    while at < end and (batches := read_before(log, end, partition, at, settings.batch_records)):
        done = judge.judge(batches)
        near = np.flatnonzero(np.isin(done.columns.event_id, events) & ~done.columns.bad)
        pairs = zip(done.columns.event_id[near].tolist(), done.columns.user_id[near].tolist(), strict=True)
        same = near[np.fromiter((pair in keys for pair in pairs), np.bool_, len(near))]
        here = places_of(done.offsets)[same]
        others = ~np.isin(here, changed)
        places.append(here[others])
        clocks.append(moved_by(done)[same][others])
        at = batches[-1].end_offset
    return np.concatenate(places), np.concatenate(clocks)


def _bounds(values: np.ndarray) -> tuple[int, int] | None:
    return (int(values.min()), int(values.max())) if len(values) else None
