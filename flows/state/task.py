"""What every task does alike: place batches against its position, commit atomically, publish, merge runs, and give a digest of what it knows.

Whatever offset a source resumes from, a task ends in the same state: what it has applied is skipped by position, what is missing is read from
the log, and a position beyond the log's end is refused.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from rocksdict import WriteBatch

from flows.errors import MAKE_ANEW, CorruptionError, StateError
from flows.examples.record import EXAMPLES
from flows.log import Log, LogBatch
from flows.settings import Settings
from flows.state.behind import Lanes
from flows.state.outbox import Outbox, Waiting, records_in
from flows.state.runs import Table
from flows.state.store import TaskStore
from flows.state.tables import canonical, expiry, unexpired


def task_path(settings: Settings, flow: str, partition: int) -> Path:
    """Where a task's state lies."""
    return settings.state / flow / f"{partition:04d}"


def putting_back(*names: str) -> str:
    """The command that puts tasks back, by their names in words (``actions/3``)."""
    flow = names[0].partition("/")[0]
    if flow == EXAMPLES:
        return f"tidemark examples restore {' '.join('--partition ' + name.partition('/')[2] for name in names)}"
    return f"tidemark replay restore {' '.join('--task ' + name for name in names)}"


class Judged(Protocol):
    """What a task makes of some batches: how many of their records it takes, and the greatest event time up to their end, ms."""

    @property
    def records(self) -> int: ...
    @property
    def watermark(self) -> int | None: ...


@dataclass(frozen=True)
class Since:
    """From when a commit is timed, for metrics alone: nothing that is written knows it.

    Attributes
    ----------
    arrived : int or None
        When the first of its records arrived, ms; None if that isn't asked.
    judged : float
        When they were judged, by the monotonic clock, seconds.
    """

    arrived: int | None = None
    judged: float = field(default_factory=time.monotonic)


class Task:
    """A (flow, partition) with its state. Subclasses implement `_judge` and `_put`.

    Parameters
    ----------
    settings : Settings
    flow : str
    partition : int
    fingerprint : str
    tables : sequence of Table
    source : Log
        The task's input.
    outputs : mapping of name to Log
        Where its records go.
    lanes : Lanes, optional
        Who commits and publishes, beside the judging of what comes next; without them `apply` returns when all is committed and published.
    path : Path, optional
        Where the state lies, if not in its place.
    """

    def __init__(
        self,
        settings: Settings,
        flow: str,
        partition: int,
        fingerprint: str,
        tables: Sequence[Table],
        source: Log,
        outputs: Mapping[str, Log],
        lanes: Lanes | None = None,
        path: Path | None = None,
    ) -> None:
        self.settings = settings
        self.partition = partition
        self.source = source
        self._lanes = lanes
        self._written: Future[None] | None = None
        self._synced: Future[None] | None = None
        self._published: Future[None] | None = None
        self._damage: StateError | None = None
        self.refused = 0
        """Records judged since it was opened that became dead letters."""
        self.store = TaskStore(path or task_path(settings, flow, partition), flow, partition, fingerprint, tables)
        try:
            end = source.end_position(partition)
            if self.position > end:
                raise CorruptionError(
                    f"state {self.store.path} is at position {self.position}, but log '{source.name}', partition {partition}, ends at {end}: "
                    f"the log has lost records; restore it, or, unless it is 'actions', {MAKE_ANEW}"
                )
            self.outbox = Outbox(self.store, outputs)
            self._restore()
            self._check_outbox()
            self.outbox.publish()
            self.reached = self.position
            """Next offset to judge."""
            self.seen = self.watermark
            """Greatest event time judged, ms; commits come after it."""
            self._pass()
        except BaseException:
            self.store.close()
            raise

    @property
    def position(self) -> int:
        """Next offset to read, of what is committed and durable."""
        return self.store.committed

    @property
    def watermark(self) -> int | None:
        """Greatest event time applied, ms."""
        return self.store.meta.watermark

    @property
    def working_set_bytes(self) -> int:
        """Memory for what it remembers of the stream."""
        return 0

    def apply(self, batches: Sequence[LogBatch], decoded: Any = None) -> int:
        """Apply what is new of some batches, commit, publish. Returns how many records were taken: repeats are not.

        With lanes, commits may still be under way; their errors are raised by a later call of this or of `settled`, at the latest by `close`.

        Parameters
        ----------
        batches : sequence of LogBatch
            In the order of their offsets.
        decoded : object, optional
            What the task's decoder makes of all these records.
        """
        records = 0
        for part in self._parts(batches):
            held = sum(b.records.num_rows for b in part)
            whole = len(part) == len(batches) and all(a is b for a, b in zip(part, batches, strict=True))
            judged, end = self._judge(part, decoded if whole else None), part[-1].end_offset
            if self._lanes is None:
                self._commit(judged, end)
            else:
                self._written = self._lanes.commits.do(partial(self._commit_behind, judged, end, Since(_arrival(part))), held)
            self.reached, self.seen = end, judged.watermark
            records += judged.records
            self._pass()
        return records

    def catch_up(self, position: int) -> int:
        """Read by itself the next stretch of what lies before `position`; returns how many records were taken."""
        if self.reached >= position:
            return 0
        return self.apply(self.source.read(self.partition, self.reached, min(self.settings.batch_records, position - self.reached)))

    def busy(self) -> bool:
        """Whether anything that was judged is not written yet."""
        return self._written is not None and not self._written.done()

    def settled(self) -> bool:
        """Whether everything is committed and published; raises what went wrong."""
        if self._damage is not None:
            raise self._damage
        # Each is looked at only when the one before has ended, which hands over to it.
        return _ended(self._written) and _ended(self._synced) and _ended(self._published)

    def settle(self) -> None:
        """Wait until everything is committed and published."""
        # Each is looked at only when the one before has ended, which hands over to it.
        _wait(self._written)
        _wait(self._synced)
        _wait(self._published)
        if self._damage is not None:
            raise self._damage

    def close(self) -> None:
        """Commit, save the working set, so that the next start replays nothing, and release the task."""
        try:
            self.settle()
            batch = self.store.batch()
            deleted = self.outbox.delete_published(batch)
            if self._anchor(batch) or deleted:
                self.store.commit(batch)
        except BaseException:
            self.abandon()
            raise
        self.store.close()

    def abandon(self) -> None:
        """Release the task as a crash would: nothing more is written than what lanes have begun."""
        # Each by itself: a commit that fails may have handed over all the same, or one before it may have.
        for lane in (lambda: self._written, lambda: self._synced, lambda: self._published):
            with suppress(Exception):
                _wait(lane())
        self.store.close()

    def _placed(self, batches: Sequence[LogBatch]) -> Iterator[list[LogBatch]]:
        """Groups of batches that continue exactly at the position: overlap cut off, gaps read from the log."""
        fresh: list[LogBatch] = []
        at = self.reached
        for batch in batches:
            if batch.end_offset <= at:
                continue
            while batch.first_offset > at:
                found = self.source.read(self.partition, at, min(self.settings.batch_records, batch.first_offset - at))
                if not found:
                    raise CorruptionError(
                        f"log '{self.source.name}', partition {self.partition}: offsets {at} to {batch.first_offset} can't be read"
                    )
                fresh += found
                at = found[-1].end_offset
                if sum(b.records.num_rows for b in fresh) >= self.settings.batch_records:
                    yield fresh
                    fresh = []
            fresh.append(batch.between(at, batch.end_offset))
            at = batch.end_offset
        if fresh:
            yield fresh

    def _commit(self, judged: Any, end: int, since: Since | None = None) -> None:
        batch = self.store.batch()
        self.outbox.delete_published(batch)
        self._put(judged, batch)
        self.store.meta.position = end
        self._moved(judged, batch)
        waiting = self.outbox.take()
        if self._lanes is None:
            self.store.commit(batch)
            self.outbox.append(waiting)
        else:
            self.store.write(batch)
            self._synced = self._lanes.sync(self.store, partial(self._publish, waiting, since or Since()), records_in(waiting))
        self._merge_due()

    def _commit_behind(self, judged: Any, end: int, since: Since) -> None:
        """A commit among those of other tasks: once one has met damage, this task has no more."""
        if self._damage is not None:
            raise self._damage
        committed = self.store.meta.position
        try:
            self._commit(judged, end, since)
        except StateError as error:
            self._damage = error
            self.store.meta.position = committed
            raise

    def _publish(self, waiting: list[Waiting], since: Since, damage: StateError | None) -> None:
        self._damage = self._damage or damage
        if self._damage is None and self._lanes is not None:
            self._lanes.synced(self.store.meta.flow, time.monotonic() - since.judged, since.arrived)
        # What was not synced is not published, nor what comes after it: it stays in the outbox.
        if self._damage is None and waiting and self._lanes is not None:
            self._published = self._lanes.publish(self.outbox, waiting)

    def _merge_due(self) -> None:
        meta, runs = self.store.meta, self.store.runs
        before = expiry(self.settings, meta.watermark) if meta.watermark is not None else meta.expired_to
        while meta.fold_all or runs.due() is not None:
            batch = self.store.batch()
            if meta.fold_all:
                for table in runs.tables.values():
                    runs.merge_all(table.name, batch, partial(unexpired, table, before=before))
                meta.fold_all = False
            elif (name := runs.due()) is not None:
                runs.merge(name, batch, partial(unexpired, runs.tables[name], before=before))
            meta.expired_to = max(meta.expired_to, before)
            # Says nothing new, so that it may wait for the sync of the next commit.
            self.store.write(batch)

    def digest(self) -> str:
        """Hex digest of the canonical logical state: the same for every history that leads to it.

        Covers folded rows with expiry applied at the position, what later records depend on, the position and the outbox's counts;
        never keys, runs, or how batches were cut.
        """
        meta = self.store.meta
        total = hashlib.blake2b(digest_size=16)
        before = expiry(self.settings, meta.watermark) if meta.watermark is not None else meta.expired_to
        for name, table in sorted(self.store.runs.tables.items()):
            total.update(name.encode())
            # Hashed apart, so that it doesn't show where one slice of the scan ends and the next begins.
            parts: list[hashlib.blake2b] = []
            for rows in self._digested_rows(table):
                for i, part in enumerate(canonical(table, rows, before)):
                    if i == len(parts):
                        parts.append(hashlib.blake2b(digest_size=16))
                    parts[i].update(np.ascontiguousarray(part).tobytes())
            for hashed in parts:
                total.update(hashed.digest())
        total.update(repr((self._place(), meta.watermark, sorted(meta.sequences.items()))).encode())
        total.update(repr(sorted(meta.counts.items())).encode())
        self._digest_more(total)
        return total.hexdigest()

    def _count(self, name: str, n: int) -> None:
        if n:
            self.store.meta.counts[name] = self.store.meta.counts.get(name, 0) + n

    # What a kind of task adds ------------------------------------------------------------------------------------------------------

    def _parts(self, batches: Sequence[LogBatch]) -> Iterator[list[LogBatch]]:
        """What of some batches is new, in parts that are each judged and committed at once."""
        return self._placed(batches)

    def _pass(self) -> None:
        """Do what is due at the position just reached; nothing here."""

    def _check_outbox(self) -> None:
        """Make sure that what was put out is still there, and that what will be is not taken for something else."""
        self.outbox.check()

    def _judge(self, batches: list[LogBatch], decoded: Any) -> Judged:
        """What batches mean, given all before them. Touches nothing that `_put` does: the two may run at once, for different batches."""
        raise NotImplementedError

    def _put(self, judged: Any, batch: WriteBatch) -> None:
        """Put what was judged into a write batch."""
        raise NotImplementedError

    def _restore(self) -> None:
        """Bring back what is kept in memory; nothing here."""

    def _moved(self, judged: Any, batch: WriteBatch) -> None:
        """Put what is said of the new position; nothing here."""

    def _anchor(self, batch: WriteBatch) -> bool:
        """Save what is kept in memory; False if nothing was put."""
        return False

    def _place(self) -> object:
        """The position, in a form that is the same for every history."""
        return self.store.meta.position

    def _digested_rows(self, table: Table) -> Iterable[np.ndarray]:
        """Folded rows of a table, in order."""
        return self.store.runs.scan(table, self.store.runs.manifest[table.name])

    def _digest_more(self, total: hashlib.blake2b) -> None:
        """Add what is kept in memory."""


def _arrival(batches: Sequence[LogBatch]) -> int | None:
    """When the first of some records arrived, ms; None where none does say."""
    records = batches[0].records
    at = records.schema.get_field_index("timestamp")
    if at < 0 or not records.num_rows or not pa.types.is_integer(records.schema.field(at).type):
        return None
    return records.column(at)[0].as_py()


def _wait(future: Future[None] | None) -> None:
    """Wait for a job; raises what went wrong."""
    if future is not None:
        future.result()


def _ended(future: Future[None] | None) -> bool:
    """Whether a job has ended; raises what went wrong."""
    if future is None:
        return True
    if not future.done():
        return False
    future.result()
    return True
