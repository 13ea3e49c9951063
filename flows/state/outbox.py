"""A task's outbox: records that its commits hold until the destination log has them durably.

`put` adds records to the commit that causes them; `publish` appends what is waiting, in order; what was published is deleted with the next
commit. A crash between these repeats records, which readers leave out by their sequence numbers (flows.outputs); it never loses one.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
import pyarrow as pa
from rocksdict import WriteBatch
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_random_exponential

from flows.errors import MAKE_ANEW, CorruptionError, DataDirectoryError
from flows.log import LedgerConflictError, LedgerEntry, Log
from flows.state.store import TaskStore

Waiting = tuple[bytes, str, int, pa.RecordBatch]
"""Key in the store, log, destination partition, records."""

_PREFIX = b"O"
# Without options each writer looks for them in the environment.
_IPC = pa.ipc.IpcWriteOptions()
# Under which a log's ledger holds the fingerprint of those who write to it.
_CLAIM = "written under"
_PATIENCE_S = 60.0
_TOGETHER_BYTES = 64 << 20


def records_in(waiting: list[Waiting]) -> int:
    """How many records wait."""
    return sum(part.num_rows for *_, part in waiting)


class Kept(Protocol):
    """Where a task's keys lie: its own store, a view of it, or a checkpoint."""

    def prefixed(self, prefix: bytes) -> list[tuple[bytes, bytes]]: ...


def held(store: Kept, names: list[str]) -> Iterator[Waiting]:
    """What a task's commits hold of its output: not published yet, or not deleted yet.

    Parameters
    ----------
    names : list of str
        The logs, in the order in which keys number them.
    """
    for key, value in store.prefixed(_PREFIX):
        name, destination = names[key[1]], int.from_bytes(key[2:6], "big")
        yield key, name, destination, pa.ipc.open_stream(pa.py_buffer(value)).read_next_batch()


def append_together(taken: list[tuple[Outbox, list[Waiting]]]) -> None:
    """Append what several outboxes have given up by `take`, in order: one append for each log, so that they wait for the disk once.

    And few batches for each partition of it: whoever writes or reads a log pays for each batch.
    """
    chosen: dict[int, tuple[Log, dict[int, list[pa.RecordBatch]]]] = {}
    for outbox, waiting in taken:
        for _, name, destination, records in waiting:
            log = outbox.log(name)
            chosen.setdefault(id(log), (log, {}))[1].setdefault(destination, []).append(records)
    for log, by_destination in chosen.values():
        log.append([(destination, batch) for destination, parts in by_destination.items() for batch in _together(parts)])
    for outbox, waiting in taken:
        outbox.published(waiting)


def _together(parts: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches joined, up to a size: Arrow's texts and bytes can't be more than 2 GiB together."""
    held: list[pa.RecordBatch] = []
    size = 0
    for part in parts:
        if held and size + part.nbytes > _TOGETHER_BYTES:
            yield pa.concat_batches(held)
            held, size = [], 0
        held.append(part)
        size += part.nbytes
    yield pa.concat_batches(held) if len(held) > 1 else held[0]


class Outbox:
    """The outbox of one task.

    Parameters
    ----------
    store : TaskStore
    logs : mapping of name to Log
        Where records go. The order of names numbers them in keys.
    """

    def __init__(self, store: TaskStore, logs: Mapping[str, Log]) -> None:
        self._store = store
        self._logs = logs
        self._names = list(logs)
        self._waiting: list[Waiting] = []
        self._published: deque[bytes] = deque()
        for name, log in logs.items():
            log.expect_appends()
            store.meta.sequences.setdefault(name, [0] * log.partitions)
        self._waiting += held(store, self._names)

    def check(self) -> None:
        """Make sure that what was appended is still there, and that what will be is not taken for something else.

        Raises
        ------
        CorruptionError
            A log has lost records.
        DataDirectoryError
            A log was written under other features or settings.
        """
        for name, log in self._logs.items():
            self._check_whole(name, log)
            self._claim(name, log)

    def _check_whole(self, name: str, log: Log) -> None:
        """Refuse a log that lacks what was appended to it: nothing would ever append that again.

        Where offsets don't count records, a reader finds it by the numbers that are missing.
        """
        if not log.dense:
            return
        waiting = dict.fromkeys(range(log.partitions), 0)
        for _, at, destination, records in self._waiting:
            waiting[destination] += records.num_rows if at == name else 0
        for destination, end in enumerate(log.end_positions()):
            if end < self._store.meta.sequences[name][destination] - waiting[destination]:
                raise CorruptionError(
                    f"log '{name}', partition {destination}, ends at {end}, but state {self._store.path} has appended more: the log has lost "
                    f"records; restore it, or {MAKE_ANEW}"
                )

    def _claim(self, name: str, log: Log) -> None:
        """Refuse a log whose records were made under other features or settings: readers would take ours for their repeats."""
        mark = int.from_bytes(hashlib.blake2b(self._store.meta.fingerprint.encode(), digest_size=8).digest(), "big") >> 1
        if _claimed(log, mark) != mark:
            raise DataDirectoryError(
                f"log '{name}' was written under other features or settings than state {self._store.path}; put the settings back, or "
                f"{MAKE_ANEW}"
            )

    def put(
        self, batch: WriteBatch, name: str, destinations: np.ndarray, columns: Mapping[str, pa.Array | np.ndarray], schema: pa.Schema
    ) -> None:
        """Add records, in order, each to its destination partition, to a commit's write batch.

        Parameters
        ----------
        destinations : int32[n]
        columns : mapping
            All columns of `schema` but generation, origin and sequence, of length n.
        """
        if not len(destinations):
            return
        meta, numbers = self._store.meta, self._store.meta.sequences[name]
        order = np.argsort(destinations.astype(np.uint16), kind="stable")  # numpy sorts 16 bits by radix
        counts = np.bincount(destinations, minlength=self._logs[name].partitions)
        ends = np.cumsum(counts)
        n, starts = len(order), ends - counts
        origin = {
            "generation": np.full(n, meta.generation, np.int32),
            "origin": np.full(n, meta.partition, np.int32),
            # Of each destination from where it has come to.
            "sequence": np.arange(n) + np.repeat(np.array(numbers) - starts, counts),
        }
        arrays = [_ordered(columns[f.name], order, f.type) if f.name in columns else pa.array(origin[f.name], f.type) for f in schema]
        together = pa.RecordBatch.from_arrays(arrays, schema=schema)
        prefix = _PREFIX + bytes([self._names.index(name)])
        for destination in np.flatnonzero(counts).tolist():
            first = numbers[destination]
            records = together.slice(int(starts[destination]), int(counts[destination]))
            key = prefix + destination.to_bytes(4, "big") + first.to_bytes(8, "big")
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, schema, options=_IPC) as writer:
                writer.write_batch(records)
            batch.put(key, sink.getvalue().to_pybytes())
            self._waiting.append((key, name, destination, records))
            numbers[destination] = first + records.num_rows

    def publish(self) -> int:
        """Append all that waits to its logs; returns the number of records."""
        waiting = self.take()
        self.append(waiting)
        return records_in(waiting)

    def take(self) -> list[Waiting]:
        """What waits, to be given to `append` once it is committed."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def append(self, waiting: list[Waiting]) -> None:
        """Append to the logs, in order."""
        append_together([(self, waiting)])

    def log(self, name: str) -> Log:
        """Where records of a name go."""
        return self._logs[name]

    def published(self, waiting: list[Waiting]) -> None:
        """Take note of what has been appended; may run in another thread than the next `put`."""
        self._published.extend(key for key, *_ in waiting)

    def delete_published(self, batch: WriteBatch) -> bool:
        """Delete what was published, by way of a commit's write batch; False if there is nothing."""
        # What is published meanwhile by another thread goes with the next commit.
        published = [self._published.popleft() for _ in range(len(self._published))]
        for key in published:
            batch.delete(key)
        return bool(published)


def _ordered(column: pa.Array | np.ndarray, order: np.ndarray, kind: pa.DataType) -> pa.Array:
    if isinstance(column, np.ndarray):
        return pa.array(column[order], kind)
    return column.take(pa.array(order)).cast(kind)


# Another task may do the same this moment: then whose claim holds is known only once it has committed its own, or has died.
@retry(
    retry=retry_if_exception_type(LedgerConflictError),
    wait=wait_random_exponential(0.05, max=2.0),
    stop=stop_after_delay(_PATIENCE_S),
    reraise=True,
)
def _claimed(log: Log, mark: int) -> int:
    entry = log.ledger_entry(_CLAIM)
    if entry is None or (entry.done != mark and not any(log.end_positions())):
        log.append([], ledger=LedgerEntry(_CLAIM, mark, previous=entry.done if entry is not None else 0))
        return mark
    return entry.done
