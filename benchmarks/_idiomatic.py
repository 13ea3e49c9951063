"""The baseline: the same features as a good Bytewax user writes them, per key, one Python object per event.

Where there is a choice it is made in this baseline's favour: events are decoded objects in memory with their key and their partition's watermark
beforehand, malformed ones are left out, nothing is copied or emitted per event but credit changes. Twice: with state in memory only (no
snapshot is taken, a crash loses all), and with Bytewax's recovery, which at its usual epochs of 10 s stores what was touched.
"""

from __future__ import annotations

import bisect
import gc
import operator
import shutil
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bytewax.operators as op
import numpy as np
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import run_main

from benchmarks import _measure, _outcome, _stream
from flows.features import SEQUENCE_LENGTH
from flows.kernels.layout import CREDIT_MS, NEVER
from flows.settings import HOUR_MS, Settings

BATCH = 1000  # 300 to 3 000 are about equal; 10 000 is a tenth slower


@dataclass(slots=True)
class Event:
    """A decoded record."""

    key: str
    user_id: int
    event_id: int
    pin_id: int
    action: str
    surface: str
    time: int
    duration_ms: int
    watermark: int


@dataclass(slots=True)
class Save:
    """A save and the revisits credited to it."""

    time: int
    event_id: int
    pin_id: int
    surface: str
    revisits: list[Revisit] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Revisit:
    """A revisit and the save that it is credited to."""

    time: int
    pin_id: int
    click: bool
    save: Save | None


@dataclass(slots=True)
class Change:
    """A credit change, on its way to the pin."""

    pin_key: str
    user_id: int
    click: bool
    related: bool
    hour: int
    weight: int


class UserLogic(StatefulBatchLogic[Event, Change, Any]):
    """One user: dedup, lateness, sequence, saves, attribution, labels, counters."""

    def __init__(self, lateness: int, horizon: int, durable: bool) -> None:
        self.lateness, self.horizon, self.durable = lateness, horizon, durable
        self.user_id = 0
        self.seen: dict[int, int] = {}
        self.seen_in_order: deque[tuple[int, int]] = deque()
        self.sequence: list[tuple[int, int, int, str, str, int]] = []
        self.saves: dict[int, list[Save]] = {}  # by pin, in (time, event_id) order
        self.kept: deque[Save] = deque()
        self.final: list[Save] = []
        self.recent: list[Revisit] = []
        self.counts: defaultdict[tuple[int, bool, bool, int], int] = defaultdict(int)

    def on_batch(self, values: list[Event]) -> tuple[Iterable[Change], bool]:
        changes: list[Change] = []
        for event in values:
            if not self._repeats(event):
                self._accept(event, changes)
        return changes, False

    def on_eof(self) -> tuple[Iterable[Change], bool]:
        return (), False

    def snapshot(self) -> Any:
        # Not copied: Bytewax has pickled it before the next event changes it.
        return self.__dict__ if self.durable else None

    def _repeats(self, event: Event) -> bool:
        oldest = event.watermark - self.horizon
        seen, in_order = self.seen, self.seen_in_order
        known = seen.get(event.event_id)
        if known is not None and known >= oldest:
            return True
        while in_order and in_order[0][0] < oldest:
            at, event_id = in_order.popleft()
            if seen.get(event_id) == at:
                del seen[event_id]
        if event.time >= oldest:
            seen[event.event_id] = event.time
            in_order.append((event.time, event.event_id))
        return False

    def _accept(self, event: Event, changes: list[Change]) -> None:
        self.user_id = event.user_id
        action, at = event.action, event.time
        if action != "impression":
            entry = (at, event.event_id, event.pin_id, action, event.surface, event.duration_ms)
            sequence = self.sequence
            if not sequence or entry > sequence[-1]:
                sequence.append(entry)
            else:
                bisect.insort(sequence, entry)
            if len(sequence) > SEQUENCE_LENGTH:
                del sequence[0]
        if self.kept or self.recent:
            self._expire(event.watermark)
        if action == "save":
            if at >= event.watermark - self.lateness:
                self._save(event, changes)
        elif event.surface == "own_profile" and (action == "impression" or action == "grid_click"):
            self._revisit(event, changes)

    def _expire(self, watermark: int) -> None:
        kept = self.kept
        while kept and kept[0].time + CREDIT_MS + self.lateness <= watermark:
            save = kept.popleft()
            self.final.append(save)
            of_pin = self.saves[save.pin_id]
            of_pin.remove(save)
            if not of_pin:
                del self.saves[save.pin_id]
        if self.recent and self.recent[0].time <= watermark - self.lateness:
            self.recent = [revisit for revisit in self.recent if revisit.time > watermark - self.lateness]

    def _save(self, event: Event, changes: list[Change]) -> None:
        save = Save(event.time, event.event_id, event.pin_id, event.surface)
        self.kept.append(save)
        bisect.insort(self.saves.setdefault(save.pin_id, []), save, key=lambda s: (s.time, s.event_id))
        for revisit in self.recent:
            if revisit.pin_id == save.pin_id and save.time < revisit.time < save.time + CREDIT_MS:
                before = revisit.save
                if before is None or (before.time, before.event_id) < (save.time, save.event_id):
                    revisit.save = save
                    save.revisits.append(revisit)
                    if before is not None:
                        before.revisits.remove(revisit)
                        if before.surface != save.surface:
                            self._change(revisit, before, -1, changes)
                            self._change(revisit, save, 1, changes)
                    else:
                        self._change(revisit, save, 1, changes)

    def _revisit(self, event: Event, changes: list[Change]) -> None:
        found: Save | None = None
        for save in reversed(self.saves.get(event.pin_id, ())):
            if save.time < event.time:
                if event.time < save.time + CREDIT_MS and save.time + CREDIT_MS + self.lateness > event.watermark:
                    found = save
                break
        revisit = Revisit(event.time, event.pin_id, event.action == "grid_click", found)
        self.recent.append(revisit)
        if found is not None:
            found.revisits.append(revisit)
            self._change(revisit, found, 1, changes)

    def _change(self, revisit: Revisit, save: Save, weight: int, changes: list[Change]) -> None:
        related = save.surface == "related_pins"
        hour = revisit.time // HOUR_MS
        self.counts[revisit.pin_id, revisit.click, related, hour] += weight
        changes.append(Change(str(revisit.pin_id), self.user_id, revisit.click, related, hour, weight))


class PinLogic(StatefulBatchLogic[Change, None, Any]):
    """One pin: its counters."""

    def __init__(self, durable: bool) -> None:
        self.durable = durable
        self.pin_id = 0
        self.counts: defaultdict[tuple[int, bool, bool, int], int] = defaultdict(int)

    def on_batch(self, values: list[Change]) -> tuple[Iterable[None], bool]:
        for change in values:
            self.pin_id = int(change.pin_key)
            self.counts[change.user_id, change.click, change.related, change.hour] += change.weight
        return (), False

    def on_eof(self) -> tuple[Iterable[None], bool]:
        return (), False

    def snapshot(self) -> Any:
        return self.__dict__ if self.durable else None


class _Source(DynamicSource[Event]):
    def __init__(self, events: list[Event]) -> None:
        self._events = events

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Batches:
        return _Batches(self._events)


class _Batches(StatelessSourcePartition[Event]):
    def __init__(self, events: list[Event]) -> None:
        self._events, self._at = events, 0

    def next_batch(self) -> list[Event]:
        batch = self._events[self._at : self._at + BATCH]
        if not batch:
            raise StopIteration()
        self._at += len(batch)
        return batch


class _Nowhere(DynamicSink[Any]):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Nothing:
        return _Nothing()


class _Nothing(StatelessSinkPartition[Any]):
    def write_batch(self, items: list[Any]) -> None:
        pass


class Contestant:
    """See the module."""

    durable = False

    def __init__(self, settings: Settings, scratch: Path, partitions: list[int]) -> None:
        self._settings = settings
        self._recovery = scratch / "recovery"
        self._events = _events(settings, partitions)
        self.events = len(self._events)
        self._users: list[UserLogic] = []
        self._pins: list[PinLogic] = []

    def run(self) -> dict[str, Any]:
        """Everything once; returns seconds and, of the durable one, bytes of state."""
        self._users, self._pins = [], []
        recovery = None
        if self.durable:
            shutil.rmtree(self._recovery, ignore_errors=True)
            self._recovery.mkdir()
            init_db_dir(self._recovery, 1)
            recovery = RecoveryConfig(str(self._recovery))
        gc.collect()
        # The input is not the flow's: the garbage collector needn't walk it.
        gc.freeze()
        flow = self._flow()
        clock = _measure.Clock()
        run_main(flow, recovery_config=recovery)
        told: dict[str, Any] = clock.read()
        gc.unfreeze()
        return told | ({"state_bytes": _measure.size_of(self._recovery)} if self.durable else {})

    def _flow(self) -> Dataflow:
        settings = self._settings

        def user(state: None) -> UserLogic:
            logic = UserLogic(settings.allowed_lateness_ms, settings.dedup_horizon_ms, self.durable)
            self._users.append(logic)
            return logic

        def pin(state: None) -> PinLogic:
            logic = PinLogic(self.durable)
            self._pins.append(logic)
            return logic

        flow = Dataflow("idiomatic")
        events = op.input("events", flow, _Source(self._events))
        by_user = op.key_on("by_user", events, operator.attrgetter("key"))
        changes = op.stateful_batch("users", by_user, user)
        by_pin = op.map("by_pin", changes, lambda keyed: (keyed[1].pin_key, keyed[1]))
        op.output("out", op.stateful_batch("pins", by_pin, pin), _Nowhere())
        return flow

    def outcome(self) -> _outcome.Outcome:
        """What the last run led to, at the newest event."""
        vocabulary = self._settings.load_vocabulary()
        actions, surfaces = vocabulary.actions, vocabulary.surfaces
        as_of = max(event.time for event in self._events)
        users = sorted(self._users, key=operator.attrgetter("user_id"))
        entries = [(u.user_id, *e[:3], actions[e[3]], surfaces[e[4]], e[5]) for u in users for e in u.sequence]
        saves = [(u.user_id, s.pin_id, s.time, surfaces[s.surface], *_firsts(s)) for u in users for s in (*u.final, *u.kept)]
        return {
            "sequences": _outcome.ranked(_table(entries, 7), SEQUENCE_LENGTH),
            "users": _outcome.counted(_revisit_rows((u.user_id, u.counts) for u in self._users), as_of),
            "pins": _outcome.counted(_revisit_rows((p.pin_id, p.counts) for p in self._pins), as_of),
            "labels": _outcome.labelled(_table(saves, 6)),
        }


def _events(settings: Settings, partitions: list[int]) -> list[Event]:
    records = _stream.records(settings, partitions)
    records = records[records["usable"]]
    names = ("user_id", "event_id", "pin_id", "action", "surface", "event_time", "duration_ms", "watermark")
    keys: dict[int, str] = {}
    return [Event(keys.setdefault(row[0], str(row[0])), *row) for row in zip(*(records[name].tolist() for name in names), strict=True)]


def _firsts(save: Save) -> tuple[int, int]:
    impressions = [r.time for r in save.revisits if not r.click]
    clicks = [r.time for r in save.revisits if r.click]
    return min(impressions, default=int(NEVER)), min(clicks, default=int(NEVER))


def _table(rows: list[tuple[Any, ...]], columns: int) -> np.ndarray:
    return np.array(rows, np.int64).reshape(-1, columns)


def _revisit_rows(counts: Iterable[tuple[int, dict[tuple[int, bool, bool, int], int]]]) -> np.ndarray:
    """As the kernels' rows: entity, other, kind, time (here the beginning of the hour), weight."""
    rows = [(entity, o, click + 2 * rp, hour * HOUR_MS, n) for entity, of in counts for (o, click, rp, hour), n in of.items() if n]
    return _table(rows, 5)
