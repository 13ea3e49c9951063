"""A Bytewax source over a log: an item is (partition, Part), a whole stretch of record batches, never one event.

Each partition first gives an empty part, OPEN, so that its task is built, drains its outbox and fills what it lacks even where nothing new arrives.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from flows import stopping
from flows.dataflow.ahead import Ahead
from flows.dataflow.pace import AT_ONCE, Wait, worked
from flows.dataflow.plan import Plan
from flows.dataflow.progress import reporting
from flows.log import Log, LogBatch

# Seconds.
POLL = 0.02
SOON = 0.002
# While a log is followed and records come, a partition is asked for more so soon; where none has come for a while, each POLL.
_EAGER = 0.004
_QUIET = 0.5
# How often it is looked whether somebody wants the task.
_LOOK = 1.0
# Records that a bounded run waits for where it doesn't know yet where its input ends: each commit costs a sync. And how many a stretch must have for
# the next to be read ahead while a log is followed: a smaller one has reached the end, and what comes next is better gathered.
_ENOUGH = 16_384

Read = tuple[tuple[LogBatch, ...], Any]

_ahead: Ahead[Read] = Ahead()


@dataclass(frozen=True)
class Part:
    """A stretch of one partition. With no batches: OPEN, the task must come to position `start` by itself."""

    partition: int
    start: int
    batches: tuple[LogBatch, ...] = ()
    # What a reader has made of all the records, so that it need not be made twice. It goes into no other process: there it is made anew.
    decoded: Any = field(default=None, compare=False, repr=False)

    @property
    def end(self) -> int:
        """Where the task has come to with it."""
        return self.batches[-1].end_offset if self.batches else self.start

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "decoded": None}


Ends = Callable[[int], int | None]
"""Partition → the position where a bounded input ends, None while that isn't known yet."""
Busy = Callable[[int], bool]
"""Partition → whether its task still has something to write."""
Held = Callable[[int], bool]
"""Partition → whether its task is away, and will come back."""
Wanted = Callable[[int], bool]
"""Partition → whether somebody wants to have its task."""
Decode = Callable[..., object]
"""Record batches → what a task needs of them."""


class LogSource(FixedPartitionedSource[tuple[str, Part], int]):
    """Reads a worker's partitions of a log.

    Parameters
    ----------
    open_log : callable
        Makes the log, in the process that reads it.
    partitions : int
    begin : callable
        Where to start reading a partition of the log. Only a hint: the task knows.
    plan : Plan
    batch_records : int
        Greatest number of records of an item.
    ends : callable or None
        Where the input ends; None follows it for ever.
    decoder : callable or None
        Makes, for a partition, what turns records into what its task needs of them.
    busy : callable, optional
        Whether a partition's task has a commit before it; while a log is followed, small stretches are gathered until it hasn't.
    held : callable, optional
        Whether a partition's input must not end yet, for its task is to come back: what other tasks have to do goes on meanwhile.
    wanted : callable, optional
        Whether somebody wants to have a partition's task. The task is told of it, by an empty part, within about a second.
    gather_s : float, optional
        While a log is followed: how long records gather that come in small numbers, where nobody waits for them.
    """

    def __init__(
        self,
        open_log: Callable[[], Log],
        partitions: int,
        begin: Callable[[Log, int], int],
        plan: Plan,
        batch_records: int,
        ends: Ends | None,
        decoder: Callable[[int], Decode] | None = None,
        busy: Busy = lambda partition: False,
        held: Held = lambda partition: False,
        wanted: Wanted = lambda partition: False,
        gather_s: float | None = None,
    ) -> None:
        self._log = _Shared(open_log)
        self._partitions = partitions
        self._begin = begin
        self._plan = plan
        self._batch_records = batch_records
        self._ends = ends
        self._decoder = decoder
        self._busy = busy
        self._held = held
        self._wanted = wanted
        self._gather_s = gather_s

    def list_parts(self) -> list[str]:
        return [str(p) for p in range(self._partitions) if self._plan.owns(p)]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _LogPartition:
        with reporting(self._plan.progress):
            log = self._log.open()
            partition = int(for_part)
            start = self._begin(log, partition) if resume_state is None else resume_state
            start = min(start, log.end_position(partition))
            log.expect(partition, start)
        decode = self._decoder(partition) if self._decoder is not None else None
        asked = _Asked(self._ends, self._busy, self._held, self._wanted, self._gather_s)
        return _LogPartition(self._log, log, partition, start, self._batch_records, asked, decode, self._plan.progress)


class _Shared:
    """A log that all partitions of a process read: over Kafka each opening is a few requests and connections. Closed with the last of them."""

    def __init__(self, open_log: Callable[[], Log]) -> None:
        self._open_log = open_log
        self._lock = threading.Lock()
        self._log: Log | None = None
        self._users = 0

    def open(self) -> Log:
        with self._lock:
            if self._log is None:
                self._log = self._open_log()
            self._users += 1
            return self._log

    def close(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._log is not None:
                self._log.close()
                self._log = None


@dataclass(frozen=True)
class _Asked:
    """Whom a source's partition asks: see `LogSource`."""

    ends: Ends | None
    busy: Busy
    held: Held
    wanted: Wanted
    gather_s: float | None


class _LogPartition(StatefulSourcePartition[tuple[str, Part], int]):
    def __init__(
        self,
        shared: _Shared,
        log: Log,
        partition: int,
        start: int,
        batch_records: int,
        asked: _Asked,
        decode: Decode | None,
        progress: int | None,
    ) -> None:
        self._shared = shared
        self._log = log
        self._partition = partition
        self._at = start
        self._batch_records = batch_records
        self._ends, self._busy, self._held, self._wanted = asked.ends, asked.busy, asked.held, asked.wanted
        self._gather_s = asked.gather_s
        self._decode = decode
        self._progress = progress
        self._opened = False
        self._wait = Wait()
        self._ahead: Future[Read] | None = None
        self._quiet_since = self._looked = time.monotonic()

    def next_batch(self) -> Iterable[tuple[str, Part]]:
        with reporting(self._progress):
            items = self._next() if self._wait.over() or stopping.requested() else []
        if items:
            worked()
        return items

    def _next(self) -> list[tuple[str, Part]]:
        if not self._opened:
            self._opened = True
            # Ready by the time that the tasks are open.
            self._read_ahead(self._ends(self._partition) if self._ends is not None and self._decode is not None else None)
            return [(str(self._partition), Part(self._partition, self._at))]
        if stopping.requested():
            raise StopIteration()
        if self._calls():
            return [(str(self._partition), Part(self._partition, self._at))]
        # Asked before the log is read: what the answer covers is then in the log already.
        end = self._ends(self._partition) if self._ends is not None else None
        if end is not None and self._at >= end:
            if self._held(self._partition):
                self._wait.begin(POLL)
                return []
            raise StopIteration()
        if self._ahead is not None and not self._ahead.done():
            # Bytewax asks all partitions before any part goes downstream: waiting here would keep the kernels waiting too.
            self._wait.begin(SOON)
            return []
        if self._ends is not None and end is None and self._log.end_position(self._partition) - self._at < _ENOUGH:
            self._wait.begin(POLL)
            return []
        if self._ends is None and self._ahead is None and self._busy(self._partition):
            self._wait.begin(SOON)
            return []
        ahead, self._ahead = self._ahead, None
        batches, decoded = _ahead.take(ahead) if ahead is not None else self._read(end)
        if not batches:
            eager = self._ends is None and time.monotonic() - self._quiet_since < _QUIET
            self._wait.begin(self._gather_s or (_EAGER if eager else POLL))
            return []
        self._quiet_since = time.monotonic()
        start, self._at = self._at, batches[-1].end_offset
        if self._ends is not None or sum(b.records.num_rows for b in batches) >= min(_ENOUGH, self._batch_records):
            self._read_ahead(end)
        elif self._gather_s is not None:
            self._wait.begin(self._gather_s)
        return [(str(self._partition), Part(self._partition, start, batches, decoded))]

    def _calls(self) -> bool:
        """Whether it is time to tell the task that somebody wants it."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return False
        self._looked = now
        return self._wanted(self._partition)

    def _read_ahead(self, end: int | None) -> None:
        """Read and decode the next stretch beside the kernels. Where there is nothing to decode, reading takes next to nothing."""
        if self._decode is not None and (end is None or self._at < end):
            self._ahead = _ahead.submit(lambda: self._read(end))

    def _read(self, end: int | None) -> Read:
        limit = self._batch_records if end is None else min(self._batch_records, end - self._at)
        batches = tuple(self._log.read(self._partition, self._at, limit, exact=False))
        return batches, self._decode(*(b.records for b in batches)) if self._decode is not None and batches else None

    def next_awake(self) -> datetime:
        return AT_ONCE

    def snapshot(self) -> int:
        return self._at

    def close(self) -> None:
        if self._ahead is not None:
            _ahead.drop(self._ahead)
        self._shared.close()
