"""The baseline's logic, per key, as a good Bytewax user writes it: one object per user with all its features, one per pin with its counters."""

from __future__ import annotations

import bisect
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bytewax.operators import StatefulBatchLogic

from benchmarks._saves import Revisit, Save
from flows.features import SEQUENCE_LENGTH
from flows.kernels.layout import CREDIT_MS
from flows.settings import HOUR_MS


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
class Change:
    """A credit change, on its way to the pin."""

    pin_key: str
    user_id: int
    click: bool
    related: bool
    hour: int
    weight: int


@dataclass(slots=True)
class Row:
    """A user's features after an event has changed them, on their way to whoever serves them."""

    user_id: int
    sequence: list[tuple[int, int, int, str, str, int]]


class UserLogic(StatefulBatchLogic[Event, Change | Row, Any]):
    """One user: dedup, lateness, sequence, saves, attribution, labels, counters.

    With `serving`, the sequence goes out whenever an event has changed it: otherwise nobody could read it.
    """

    def __init__(self, lateness: int, horizon: int, serving: bool) -> None:
        self.lateness, self.horizon, self.serving = lateness, horizon, serving
        self.user_id = 0
        self.seen: dict[int, int] = {}
        self.seen_in_order: deque[tuple[int, int]] = deque()
        self.sequence: list[tuple[int, int, int, str, str, int]] = []
        self.saves: dict[int, list[Save]] = {}  # by pin, in (time, event_id) order
        self.kept: deque[Save] = deque()
        self.final: list[Save] = []
        self.recent: list[Revisit] = []
        self.counts: defaultdict[tuple[int, bool, bool, int], int] = defaultdict(int)

    def on_batch(self, values: list[Event]) -> tuple[Iterable[Change | Row], bool]:
        changes: list[Change | Row] = []
        for event in values:
            if not self._repeats(event):
                self._accept(event, changes)
        return changes, False

    def on_eof(self) -> tuple[Iterable[Change | Row], bool]:
        return (), False

    def snapshot(self) -> Any:
        # Not copied: Bytewax has pickled it before the next event changes it.
        return self.__dict__ if self.serving else None

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

    def _accept(self, event: Event, changes: list[Change | Row]) -> None:
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
            if self.serving:
                changes.append(Row(self.user_id, sequence.copy()))
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

    def _save(self, event: Event, changes: list[Change | Row]) -> None:
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

    def _revisit(self, event: Event, changes: list[Change | Row]) -> None:
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

    def _change(self, revisit: Revisit, save: Save, weight: int, changes: list[Change | Row]) -> None:
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
