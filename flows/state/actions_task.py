"""The task of the actions flow: what one ACTIONS partition says of its users.

State: sequences, revisits, labels, topic tiles. Outbox: credit changes, late records, dead letters.
Its working set is saved only now and then (the anchor); a start takes the last one and runs the kernel over the records since, which emits
nothing and must arrive at the very sequence numbers that were committed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from rocksdict import WriteBatch

from flows.corrections.history import History
from flows.decode import Columns, Decoder
from flows.decode_values import Faults
from flows.errors import CorruptionError, StateError
from flows.features import fingerprint
from flows.kernels.actions import NO_CLOCK, Judged, WorkingSet, tally
from flows.kernels.layout import ACCEPTED, DUPLICATE, FUTURE
from flows.kernels.rows import sequence_rows, sort_rows
from flows.log import Log, LogBatch, read_before
from flows.outputs import ACTIONS, DEADLETTER_SCHEMA, DEADLETTERS, LATE, LATE_SCHEMA, REVISIT_SCHEMA, REVISITS
from flows.partition import partition_of
from flows.settings import Settings
from flows.state import tables
from flows.state.anchor import Parts
from flows.state.behind import Lanes
from flows.state.corrected_task import CorrectedTask
from flows.state.meta import Meta
from flows.state.runs import Table
from flows.state.store import TaskStore
from flows.state.view import TaskView
from flows.vocabulary import IMPRESSION, Vocabulary

FLOW = "actions"
TOPIC = b"T"
"""Begins the key of a topic's name."""
# Dead letters that are put together: each may hold 64 KiB, and Arrow's bytes can't be more than 2 GiB together.
_LETTERS = 8_192


def state_fingerprint(settings: Settings, vocabulary: Vocabulary) -> str:
    """The fingerprint of everything that decides values in a data directory."""
    times = (settings.allowed_lateness_ms, settings.dedup_horizon_ms, settings.clock_skew_ms, settings.partitions)
    return fingerprint(vocabulary.fingerprint(), *map(str, times))


@dataclass(frozen=True)
class JudgedBatch:
    """Columns of consecutive records and what the kernel made of them.

    Attributes
    ----------
    offsets : int64[n]
        Of each record.
    before : int or None
        Arrival of the record before the first, ms.
    clock : int64[n] or int64[0]
        As of `WorkingSet.judge`.
    """

    columns: Columns
    judged: Judged
    offsets: np.ndarray
    before: int | None
    clock: np.ndarray = field(default_factory=lambda: NO_CLOCK)

    @cached_property
    def arrival(self) -> np.ndarray:
        """Running maximum of timestamps: int64[n], ms."""
        running = np.maximum.accumulate(self.columns.timestamp)
        return running if self.before is None else np.maximum(running, self.before)

    def sequence_rows(self, impression: int) -> np.ndarray:
        """Rows of accepted engagements: int64[m, 6], columns SEQUENCE_COLUMNS."""
        c = self.columns
        return sequence_rows(
            self.judged.status, c.action, c.surface, c.user_id, c.event_time, c.event_id, c.pin_id, c.duration_ms, impression, self.offsets
        )  # fmt: skip

    def revisit_rows(self) -> np.ndarray:
        """Credit changes as rows of the user's table: int64[m, 5], columns REVISIT_COLUMNS."""
        return self.judged.changes[:, [1, 0, 3, 2, 4]]


class Judge:
    """Decoder and kernel of one partition, fed with log batches: used by the task, by its restart, and by reads of an earlier time.

    Parameters
    ----------
    history : History, optional
        The partition's corrections.
    corrected_to : int, optional
        The newest of them that counts; all, without it.
    examples : bool
        Whether columns are to tell requests, and what is judged, which saves have come to be revisited.
    """

    def __init__(
        self,
        settings: Settings,
        vocabulary: Vocabulary,
        partition: int,
        history: History | None = None,
        corrected_to: int | None = None,
        *,
        examples: bool = False,
    ) -> None:
        history = history if history is not None else History.of(settings, partition)
        self._examples = examples
        self.decoder = Decoder(vocabulary, (partition, settings.partitions), requests=examples)
        self.overlay = history.overlay(history.generation if corrected_to is None else corrected_to, self.decoder)
        self.working_set = WorkingSet(settings.allowed_lateness_ms, settings.dedup_horizon_ms, settings.clock_skew_ms)
        self.impression = vocabulary.actions[IMPRESSION]

    def judge(self, batches: list[LogBatch], decoded: Columns | None = None) -> JudgedBatch:
        """Judge consecutive batches."""
        c = decoded if decoded is not None else self.decoder.decode(*(b.records for b in batches))
        before = self.working_set.arrival
        offsets = np.concatenate([b.offsets_of_records() for b in batches])
        clock = self.overlay.apply(c, offsets) if self.overlay is not None else NO_CLOCK
        judged = self.working_set.judge(
            c.event_id, c.user_id, c.pin_id, c.event_time, c.role, c.surface, c.topic, c.timestamp, c.bad, clock, self._examples
        )
        return JudgedBatch(c, judged, offsets, before, clock)


@dataclass(frozen=True)
class Judgement:
    """What the kernel made of a batch, and of it what the next batch will change.

    Attributes
    ----------
    watermark : int or None
        After the batch, ms.
    saved : sequence of bytes or None
        The working set after the batch, if it is time to save it.
    """

    batch: JudgedBatch
    watermark: int | None
    saved: Parts | None

    @property
    def records(self) -> int:
        """All of the batch."""
        return len(self.batch.columns)


class ActionsTask(CorrectedTask):
    """See the module."""

    def __init__(
        self,
        settings: Settings,
        partition: int,
        vocabulary: Vocabulary,
        source: Log,
        outputs: Mapping[str, Log],
        lanes: Lanes | None = None,
        *,
        history: History | None = None,
        path: Path | None = None,
    ) -> None:
        history = history if history is not None else History.of(settings, partition)
        self._judging = Judge(settings, vocabulary, partition, history)
        self._action_names = vocabulary.action_names()
        self._topics_saved: set[int] = set()
        mark = state_fingerprint(settings, vocabulary)
        super().__init__(settings, FLOW, partition, mark, tables.ACTIONS_TABLES, source, outputs, lanes, path=path, history=history)

    def _restore(self) -> None:
        self._refuse_outdated()
        meta = self.store.meta
        self._topics_saved = set(topics_in(self.store))
        sequences = list(meta.anchor_sequences.get(REVISITS, [0] * self._revisit_partitions()))
        self._unsaved = 0
        for judged in resume(self._judging, self.store, meta, self.source, self.settings.batch_records):
            self._unsaved += len(judged.status)
            if not self.muted:
                for destination in partition_of(np.ascontiguousarray(judged.changes[:, 0]), len(sequences)):
                    sequences[destination] += 1
        if sequences != meta.sequences[REVISITS] or self._judging.working_set.watermark != meta.watermark:
            raise StateError(
                f"state {self.store.path}: replaying log '{self.source.name}', partition {self.partition}, offsets {meta.anchor} to {meta.position} "
                "does not lead to the committed state; the log or the state was altered: put the task back with `tidemark replay restore`"
            )
        super()._restore()

    @property
    def working_set_bytes(self) -> int:
        return self._judging.working_set.size

    def _judge(self, batches: list[LogBatch], decoded: Columns | None) -> Judgement:
        done = self._judging.judge(batches, decoded)
        working_set = self._judging.working_set
        # Records, not offsets: a message of Kafka holds up to thousands of them.
        self._unsaved += len(done.columns)
        self.refused += len(done.columns.faults) + int(np.count_nonzero(done.judged.status == FUTURE))
        due = self._unsaved >= self.settings.anchor_records
        if due:
            self._unsaved = 0
        return Judgement(done, working_set.watermark, working_set.parts() if due else None)

    def _moved(self, judgement: Judgement, batch: WriteBatch) -> None:
        self.store.meta.watermark = judgement.watermark
        if judgement.saved is not None:
            self._put_anchor(batch, judgement.saved)

    def _anchor(self, batch: WriteBatch) -> bool:
        if self.store.meta.position == self.store.meta.anchor:
            return False
        self._put_anchor(batch, self._judging.working_set.parts())
        return True

    def _anchor_here(self, batch: WriteBatch) -> None:
        self._put_anchor(batch, self._judging.working_set.parts())
        self._unsaved = 0

    def _put_anchor(self, batch: WriteBatch, parts: Parts) -> None:
        meta = self.store.meta
        meta.anchor = meta.position
        meta.anchor_sequences = {name: list(numbers) for name, numbers in meta.sequences.items()}
        self.store.save(batch, parts)

    def _put(self, judgement: Judgement, batch: WriteBatch) -> None:
        done = judgement.batch
        c, judged = done.columns, done.judged
        runs = self.store.runs
        runs.add(batch, tables.SEQUENCES.name, done.sequence_rows(self._judging.impression))
        runs.add(batch, tables.REVISITS.name, done.revisit_rows())
        runs.add(batch, tables.LABELS.name, judged.labels)
        runs.add(batch, tables.TILES.name, judged.tiles)
        self._put_topics(batch, judged.tiles, c.topics)
        self._put_changes(batch, done)
        self._put_late(batch, done)
        self._put_deadletters(batch, done)
        by_status, by_action = tally(judged.status, c.action)
        excluded = np.count_nonzero(c.bad) - len(c.faults) - c.heartbeats
        for name, n in (
            ("records", len(c)),
            ("accepted", by_status[ACCEPTED]),
            ("duplicate", by_status[DUPLICATE]),
            ("excluded", excluded),
            ("heartbeats", c.heartbeats),
        ):
            self._count(name, int(n))
        for code in np.flatnonzero(by_action).tolist():
            self._count(f"action.{self._action_names.get(code, code)}", int(by_action[code]))

    def _put_topics(self, batch: WriteBatch, tiles: np.ndarray, topics: dict[int, str]) -> None:
        for topic in {int(t) for t in np.unique(tiles[:, 0])} - self._topics_saved:
            batch.put(TOPIC + topic.to_bytes(8, "big", signed=True), topics[topic].encode())
            self._topics_saved.add(topic)

    def _put_changes(self, batch: WriteBatch, done: JudgedBatch) -> None:
        changes = done.judged.changes
        pins = np.ascontiguousarray(changes[:, 0])
        columns = {
            "timestamp": done.arrival[changes[:, 5]],
            "pin_id": pins,
            "user_id": changes[:, 1],
            "time": changes[:, 2],
            "kind": changes[:, 3].astype(np.int8),
            "weight": changes[:, 4].astype(np.int8),
        }
        self._put_out(batch, REVISITS, partition_of(pins, self._revisit_partitions()), columns, REVISIT_SCHEMA)

    def _put_late(self, batch: WriteBatch, done: JudgedBatch) -> None:
        c = done.columns
        at = np.flatnonzero(done.judged.lateness)
        self._count("late", len(at))
        columns = {
            "timestamp": done.arrival[at],
            "partition": np.full(len(at), self.partition, np.int32),
            "offset": done.offsets[at],
            "user_id": c.user_id[at],
            "event_id": c.event_id[at],
            "pin_id": c.pin_id[at],
            "action": pa.array([self._action_names[int(code)] for code in c.action[at]], pa.string()),
            "event_time": c.event_time[at],
            "lateness_ms": done.judged.lateness[at],
        }
        self._put_out(batch, LATE, np.full(len(at), self.partition), columns, LATE_SCHEMA)

    def _put_deadletters(self, batch: WriteBatch, done: JudgedBatch) -> None:
        c = done.columns
        faults = dict(c.faults)
        for i in np.flatnonzero(done.judged.status == FUTURE):
            faults[int(i)] = ("future_time", f"event_time {c.event_time[i]} at arrival {done.arrival[i]}")
        found = np.array(sorted(faults), np.int64)
        for start in range(0, len(found), _LETTERS):
            self._put_letters(batch, done, found[start : start + _LETTERS], faults)
        for reason, _ in faults.values():
            self._count(f"deadletter.{reason}", 1)

    def _put_letters(self, batch: WriteBatch, done: JudgedBatch, at: np.ndarray, faults: Faults) -> None:
        c = done.columns
        kept = c.raw(at.tolist())
        columns = {
            "timestamp": done.arrival[at],
            "log": pa.array([ACTIONS] * len(at), pa.string()),
            "partition": np.full(len(at), self.partition, np.int32),
            "offset": done.offsets[at],
            "reason": pa.array([faults[int(i)][0] for i in at], pa.string()),
            "detail": pa.array([faults[int(i)][1] for i in at], pa.string()),
            "raw": pa.array([value for value, _ in kept], pa.binary()),
            "size": np.array([size for _, size in kept], np.int64),
        }
        self._put_out(batch, DEADLETTERS, np.full(len(at), self.partition), columns, DEADLETTER_SCHEMA)

    def _revisit_partitions(self) -> int:
        return len(self.store.meta.sequences[REVISITS])

    def _digested_rows(self, table: Table) -> Iterable[np.ndarray]:
        rows = super()._digested_rows(table)
        # A save's row lies in the table or still in the working set, by what has passed since: the two are one.
        return [self.labels()] if table is tables.LABELS else rows

    @property
    def working_set(self) -> WorkingSet:
        """What the kernel remembers."""
        return self._judging.working_set

    def labels(self) -> np.ndarray:
        """Every save's row, sorted: int64[n, 8], columns LABEL_COLUMNS."""
        saved = super()._digested_rows(tables.LABELS)
        return merged_labels(saved, self._judging.working_set)

    def _digest_more(self, total: hashlib.blake2b) -> None:
        total.update(self._judging.working_set.canonical())


def merged_labels(saved: Iterable[np.ndarray], working_set: WorkingSet) -> np.ndarray:
    """Label rows of saves that have left the working set and of those still in it, sorted."""
    return sort_rows(np.ascontiguousarray(np.concatenate([working_set.open_labels(), *saved])), tables.LABELS.keys)


def topics_in(state: TaskStore | TaskView) -> dict[int, str]:
    """The names of topics that a state knows, by ID."""
    return {int.from_bytes(key[1:], "big", signed=True): name.decode() for key, name in state.prefixed(TOPIC)}


def resumed(settings: Settings, vocabulary: Vocabulary, view: TaskView, meta: Meta, source: Log) -> Judge:
    """A judge that stands where a state's last commit does."""
    judge = Judge(settings, vocabulary, meta.partition, corrected_to=meta.corrected_to)
    for _ in resume(judge, view, meta, source, settings.batch_records):
        pass
    return judge


def resume(judge: Judge, view: TaskStore | TaskView, meta: Meta, source: Log, batch_records: int) -> Iterator[Judged]:
    """Bring a fresh judge to a task's committed position: the saved working set, then the kernel over the records since.

    Yields what each stretch of records made, which the task has committed already.
    """
    if meta.anchor:
        _restore_saved(judge, view, meta)
    at = meta.anchor
    while at < meta.position:
        batches = read_before(source, meta.position, meta.partition, at, batch_records)
        if not batches:
            raise CorruptionError(
                f"state {view.path} is at position {meta.position}, but log '{source.name}', partition {meta.partition}, ends at {at}: "
                "the log has lost records; restore the log"
            )
        yield judge.judge(batches).judged
        at = batches[-1].end_offset


def _restore_saved(judge: Judge, view: TaskStore | TaskView, meta: Meta) -> None:
    if (saved := view.saved()) is None:
        raise StateError(
            f"state {view.path}: the working set saved at position {meta.anchor} is not what was written; "
            "put the task back with `tidemark replay restore`"
        )
    judge.working_set.restore(saved)
