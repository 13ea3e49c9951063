"""The script that a user would write instead: one loop over the events of a partition, with dicts and lists, in one process's memory.

No engine, nothing durable, nothing that another process could read. It reads the same log, turns its columns into tuples, and keeps the features of
the others: duplicates left out, sequences, credited revisits, their counters for users and pins, labels (no topic statistics). Which records are
malformed it is told. It is written to be fast, not to be pretty: no object and no call per event, only per save and revisit. `run(decoded=True)`
also spares it the reading: all tuples lie in memory before the clock starts.
"""

from __future__ import annotations

import bisect
import gc
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from itertools import compress
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks import _measure, _outcome, _stream
from benchmarks._saves import Revisit, Save, revisit_rows, table
from flows.events import RAW_SCHEMA
from flows.features import SEQUENCE_LENGTH
from flows.kernels.layout import CREDIT_MS
from flows.log import LocalLog
from flows.outputs import ACTIONS
from flows.settings import HOUR_MS, Settings

Event = tuple[int, int, int, str, str, int, int]
"""event_time, event_id, pin_id, action, surface, duration_ms, user_id: as it lies, an entry of a sequence, in its order."""
_COLUMNS = ("event_time", "event_id", "pin_id", "action", "surface", "duration_ms", "user_id")
Counts = defaultdict[int, defaultdict[tuple[int, bool, bool, int], int]]
"""Entity → (other entity, click, from related pins, hour) → revisits."""

LONGEST = 2 * SEQUENCE_LENGTH  # cut back to SEQUENCE_LENGTH, so that a list is cut once in a hundred times
_BATCH = 65_536
_OTHER = "other"  # a surface that isn't told


class Features:
    """All that the loop knows."""

    def __init__(self, lateness: int, horizon: int) -> None:
        self.lateness, self.horizon = lateness, horizon
        self.newest = -(2**62)
        self.sequences: dict[int, list[Event]] = {}
        self.visitors: dict[int, Visitor] = {}
        self.of_users: Counts = defaultdict(lambda: defaultdict(int))
        self.of_pins: Counts = defaultdict(lambda: defaultdict(int))

    def add(self, events: Iterable[Event]) -> None:
        """All events of a partition, in order."""
        sequences, horizon = self.sequences, self.horizon
        watermark = turned = -(2**62)
        # Two dicts in turns forget what is beyond the horizon, at no cost per event.
        seen: dict[int, Event] = {}
        before: dict[int, Event] = {}
        for event in events:
            time, event_id, _, action, surface, _, user_id = event
            known = seen.get(event_id) or before.get(event_id)
            if known is not None and known[0] >= watermark - horizon and known[6] == user_id:
                continue
            if action != "impression":
                sequence = sequences.get(user_id)
                if sequence is None:
                    sequences[user_id] = [event]
                else:
                    if event > sequence[-1]:
                        sequence.append(event)
                    else:
                        bisect.insort(sequence, event)
                    if len(sequence) > LONGEST:
                        del sequence[:-SEQUENCE_LENGTH]
                if action == "save":
                    if time >= watermark - self.lateness:
                        self._save(event, watermark)
                elif action == "grid_click" and surface == "own_profile":
                    self._revisit(event, watermark)
            elif surface == "own_profile":
                self._revisit(event, watermark)
            if time > watermark:
                watermark = time
                if watermark - turned >= horizon:
                    before, seen, turned = seen, {}, watermark
            seen[event_id] = event
        self.newest = max(self.newest, watermark)

    def _save(self, event: Event, watermark: int) -> None:
        time, event_id, pin_id, _, surface, _, user_id = event
        visitor = self.visitors.get(user_id)
        if visitor is None:
            visitor = self.visitors[user_id] = Visitor()
        visitor.forget(watermark - self.lateness)
        save = Save(time, event_id, pin_id, surface)
        visitor.kept.append(save)
        of_pin = visitor.saves.get(pin_id)
        if of_pin is None:
            visitor.saves[pin_id] = [save]
        else:
            bisect.insort(of_pin, save, key=_place)
        for revisit in visitor.recent:
            if revisit.pin_id == pin_id and time < revisit.time < time + CREDIT_MS:
                credited = revisit.save
                if credited is None or _place(credited) < (time, event_id):
                    if credited is not None:
                        credited.revisits.remove(revisit)
                        self._count(user_id, revisit, credited, -1)
                    revisit.save = save
                    save.revisits.append(revisit)
                    self._count(user_id, revisit, save, 1)

    def _revisit(self, event: Event, watermark: int) -> None:
        time, _, pin_id, action, _, _, user_id = event
        visitor = self.visitors.get(user_id)
        if visitor is None:
            visitor = self.visitors[user_id] = Visitor()
        revisit = Revisit(time, pin_id, action == "grid_click", None)
        visitor.recent.append(revisit)
        for save in reversed(visitor.saves.get(pin_id, ())):
            if save.time < time:
                if time < save.time + CREDIT_MS and save.time + CREDIT_MS + self.lateness > watermark:
                    revisit.save = save
                    save.revisits.append(revisit)
                    self._count(user_id, revisit, save, 1)
                break

    def _count(self, user_id: int, revisit: Revisit, save: Save, weight: int) -> None:
        click, related, hour = revisit.click, save.surface == "related_pins", revisit.time // HOUR_MS
        self.of_users[user_id][revisit.pin_id, click, related, hour] += weight
        self.of_pins[revisit.pin_id][user_id, click, related, hour] += weight


def _place(save: Save) -> tuple[int, int]:
    return save.time, save.event_id


class Visitor:
    """What a user has saved, and come back to."""

    __slots__ = ("final", "kept", "recent", "saves")

    def __init__(self) -> None:
        self.saves: dict[int, list[Save]] = {}  # by pin, in (time, event_id) order
        self.kept: deque[Save] = deque()
        self.final: list[Save] = []
        self.recent: deque[Revisit] = deque()

    def forget(self, before: int) -> None:
        """Drop what can't change any more once the watermark has passed a time by the allowed lateness."""
        kept, recent = self.kept, self.recent
        while kept and kept[0].time + CREDIT_MS <= before:
            save = kept.popleft()
            self.final.append(save)
            of_pin = self.saves[save.pin_id]
            of_pin.remove(save)
            if not of_pin:
                del self.saves[save.pin_id]
        while recent and recent[0].time <= before:
            recent.popleft()


class Contestant:
    """See the module. A subclass loops over less."""

    def __init__(self, settings: Settings, scratch: Path) -> None:
        self._settings = settings
        self._usable = [
            rows["usable"].tolist() for _, rows in _stream.records(settings).sort_values(["partition", "offset"]).groupby("partition")
        ]
        self.events = sum(map(len, self._usable))
        self._decoded: list[list[Event]] = []
        self._last = self._nothing()

    def run(self, decoded: bool = False) -> dict[str, Any]:
        """Everything once; returns seconds."""
        self._last = self._nothing()
        if decoded and not self._decoded:
            self._decoded = [list(events) for events in self._read()]
        gc.collect()
        # It makes no cycles, and would else lose a third of its time to the search for them.
        gc.disable()
        clock = _measure.Clock()
        for events in self._decoded if decoded else self._read():
            self._last.add(events)
        told = clock.read()
        gc.enable()
        return told

    def outcome(self) -> _outcome.Outcome:
        """What the last run led to, at the newest event."""
        vocabulary, last = self._settings.load_vocabulary(), self._last
        actions, surfaces = vocabulary.actions, vocabulary.surfaces
        as_of = last.newest
        entries = [
            (user, e[0], e[1], e[2], actions[e[3]], surfaces[e[4]], e[5])
            for user, sequence in sorted(last.sequences.items())
            for e in sequence
        ]
        visitors = sorted(last.visitors.items())
        saves = [save.row(user, surfaces) for user, of in visitors for save in (*of.final, *of.kept)]
        return {
            "sequences": _outcome.ranked(table(entries, 7), SEQUENCE_LENGTH),
            "users": _outcome.counted(revisit_rows(last.of_users.items()), as_of),
            "pins": _outcome.counted(revisit_rows(last.of_pins.items()), as_of),
            "labels": _outcome.labelled(table(saves, 6)),
        }

    def _nothing(self) -> Features:
        return Features(self._settings.allowed_lateness_ms, self._settings.dedup_horizon_ms)

    def _read(self) -> Iterator[Iterable[Event]]:
        """Of each partition the usable events in the order of the log, read as they are asked for."""
        with LocalLog.open(self._settings.logs, ACTIONS, read_only=True) as log:
            for partition, usable in enumerate(self._usable):
                yield compress(_tuples(log, partition, len(usable)), usable)


def _tuples(log: LocalLog, partition: int, end: int) -> Iterator[Event]:
    at = 0
    while at < end:
        for batch in log.read(partition, at, _BATCH):
            at = batch.end_offset
            if batch.records.schema.names == RAW_SCHEMA.names:
                # What no typed column could hold: malformed in a simulated stream, so none of them is usable.
                yield from [()] * batch.records.num_rows  # type: ignore[misc]
                continue
            yield from zip(*(_values(batch.records.column(name)) for name in _COLUMNS), strict=True)


def _values(column: pa.Array) -> list[Any]:
    if isinstance(column, pa.DictionaryArray):
        # Of a text that repeats one object, not one per event: several times as fast.
        names = [*column.dictionary.to_pylist(), _OTHER]
        return [names[i] for i in column.indices.fill_null(-1).to_numpy().tolist()]
    return column.fill_null(0).to_numpy().tolist()
