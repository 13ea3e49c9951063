"""The baseline: the same features as a good Bytewax user writes them, per key, one Python object per event.

Where there is a choice it is made in this baseline's favour: events are decoded objects in memory with their key and their partition's watermark
beforehand, malformed ones are left out. Twice: `idiomatic` gives what Tidemark gives, state that a crash doesn't lose (Bytewax's recovery, which at
its usual epochs of 10 s stores what was touched) and features that can be read (a changed row goes out); `idiomatic_silent` does neither.
"""

from __future__ import annotations

import gc
import operator
import shutil
from pathlib import Path
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import run_main

from benchmarks import _measure, _outcome, _stream
from benchmarks._per_key import Change, Event, PinLogic, UserLogic
from benchmarks._saves import revisit_rows, table
from flows.features import SEQUENCE_LENGTH
from flows.settings import Settings

BATCH = 1000  # 300 to 3 000 are about equal; 10 000 is a tenth slower


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

    serving = True

    def __init__(self, settings: Settings, scratch: Path) -> None:
        self._settings = settings
        self._recovery = scratch / "recovery"
        self._events = _events(settings)
        self.events = len(self._events)
        self._users: list[UserLogic] = []
        self._pins: list[PinLogic] = []

    def run(self) -> dict[str, Any]:
        """Everything once; returns seconds and, of the durable one, bytes of state."""
        self._users, self._pins = [], []
        recovery = None
        if self.serving:
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
        return told | ({"state_bytes": _measure.size_of(self._recovery)} if self.serving else {})

    def _flow(self) -> Dataflow:
        settings = self._settings

        def user(state: None) -> UserLogic:
            logic = UserLogic(settings.allowed_lateness_ms, settings.dedup_horizon_ms, self.serving)
            self._users.append(logic)
            return logic

        def pin(state: None) -> PinLogic:
            logic = PinLogic(self.serving)
            self._pins.append(logic)
            return logic

        flow = Dataflow("idiomatic")
        events = op.input("events", flow, _Source(self._events))
        by_user = op.key_on("by_user", events, operator.attrgetter("key"))
        changes: Any = op.stateful_batch("users", by_user, user)
        if self.serving:
            parted = op.branch("parted", changes, lambda keyed: isinstance(keyed[1], Change))
            op.output("rows", parted.falses, _Nowhere())
            changes = parted.trues
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
        saves = [s.row(u.user_id, surfaces) for u in users for s in (*u.final, *u.kept)]
        return {
            "sequences": _outcome.ranked(table(entries, 7), SEQUENCE_LENGTH),
            "users": _outcome.counted(revisit_rows((u.user_id, u.counts) for u in self._users), as_of),
            "pins": _outcome.counted(revisit_rows((p.pin_id, p.counts) for p in self._pins), as_of),
            "labels": _outcome.labelled(table(saves, 6)),
        }


def _events(settings: Settings) -> list[Event]:
    records = _stream.records(settings)
    records = records[records["usable"]]
    names = ("user_id", "event_id", "pin_id", "action", "surface", "event_time", "duration_ms", "watermark")
    keys: dict[int, str] = {}
    return [Event(keys.setdefault(row[0], str(row[0])), *row) for row in zip(*(records[name].tolist() for name in names), strict=True)]
