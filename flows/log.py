"""The `Log` interface, and `LocalLog`, the embedded durable log: one SQLite file in WAL mode, one row per appended Arrow batch.

An append becomes readable only after its fsync (synchronous=FULL), so no state runs ahead of what a power failure leaves. A reader checks
every batch's CRC and that offsets have no gap; it must never skip what it can't read. No sqlite3 exception leaves this module.
"""

from __future__ import annotations

import re
import sqlite3
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.arrow_size import held_bytes
from flows.errors import CorruptionError, DataDirectoryError, LogError
from flows.log_file import FORMAT, NO_TIME, LogFile

# Measured on 65 536-record event batches, 2 cores, ext4. Bodies as they are: append 4 M records/s, read 14, 70 B a record; lz4: 7.4, 14 and
# 35 B; zstd: 5.5, 13 and 21 B. The fsync is what an append waits for, so fewer bytes are faster.
_IPC = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
# Decompressed by whoever reads: 22 records, as a followed log holds, take 23 µs instead of 410 by Arrow's threads; 65 536 take 1.9 ms instead of 2.3.
_ALONE = pa.ipc.IpcReadOptions(use_threads=False)
MAX_STORED_RECORDS = 65_536  # a larger batch is stored as several rows, so that a small read never decodes much more than it returns
# The same in bytes, for records may be of 64 KiB each; and what a read stops at, which bounds the memory of everyone who reads.
MAX_STORED_BYTES = 16 << 20
READ_BYTES = 256 << 20


@dataclass(frozen=True)
class LogBatch:
    """All records of one partition from `first_offset` up to, but not with, `end_offset`.

    Attributes
    ----------
    offsets : int64[n] or None
        Of each record, not descending, where offsets have holes or several records share one (Kafka); None: record i has first_offset + i.
    """

    partition: int
    first_offset: int
    end_offset: int
    records: pa.RecordBatch
    offsets: np.ndarray | None = field(default=None, compare=False)

    def offsets_of_records(self) -> np.ndarray:
        """The offset of each record: int64[n]."""
        return self.offsets if self.offsets is not None else np.arange(self.first_offset, self.end_offset)

    def between(self, start: int, stop: int) -> LogBatch:
        """The part of it from position `start` up to `stop`."""
        start, stop = max(start, self.first_offset), min(stop, self.end_offset)
        if start == self.first_offset and stop == self.end_offset:
            return self
        if self.offsets is None:
            return LogBatch(self.partition, start, stop, self.records.slice(start - self.first_offset, stop - start))
        low, high = np.searchsorted(self.offsets, [start, stop], "left").tolist()
        return LogBatch(self.partition, start, stop, self.records.slice(low, high - low), self.offsets[low:high])


@dataclass(frozen=True)
class LedgerEntry:
    """What a producer remembers about a source, written in the same transaction as the records that came from it.

    Parameters
    ----------
    key : str
        Names the source, e.g. the digest of a file.
    done : int
        How much of the source is in the log after this append.
    total : int
        How much there is, -1 if not known yet.
    previous : int
        What the ledger must say before this append (0: nothing), or the append is refused: somebody else is at it.
    """

    key: str
    done: int
    total: int = -1
    previous: int = 0


class LedgerConflictError(LogError):
    """The ledger doesn't say what the producer last saw: another process has appended from the same source."""


class Log(Protocol):
    """What flows and producers need of a log, embedded or Kafka. A position is the next offset to read."""

    name: str
    partitions: int
    dense: bool
    """Whether offsets count records: no holes, one each."""

    def append(
        self, batches: Sequence[tuple[int, pa.RecordBatch]], *, ledger: LedgerEntry | Sequence[LedgerEntry] | None = None
    ) -> list[tuple[int, int, int]]: ...
    def expect_appends(self) -> None: ...
    def read(self, partition: int, position: int, max_records: int, *, exact: bool = True) -> list[LogBatch]: ...
    def start_positions(self) -> list[int]: ...
    def expect(self, partition: int, position: int) -> None: ...
    def end_positions(self) -> list[int]: ...
    def end_position(self, partition: int) -> int: ...
    def position_for_time(self, partition: int, timestamp_ms: int) -> int: ...
    def ledger_entry(self, key: str) -> LedgerEntry | None: ...
    def commit_group(self, group: str, positions: Mapping[int, int]) -> None: ...
    def group_positions(self, group: str) -> dict[int, int]: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


def read_before(log: Log, end: int, partition: int, position: int, max_records: int) -> list[LogBatch]:
    """As `Log.read`, of what lies before `end`: where offsets have holes, as many records as there are offsets reach past it."""
    batches = log.read(partition, position, min(max_records, end - position))
    return [batch.between(position, end) for batch in batches if batch.first_offset < end]


class LocalLog:
    """The embedded log. Many reader processes; appends by several writer processes are serialised by SQLite.

    An object may be shared by threads and survives a fork: each thread of each process opens its own connection.
    Make one with `LocalLog.open`.
    """

    dense = True

    def __init__(self, path: Path, name: str, read_only: bool) -> None:
        self.path = path
        self.name = name
        self.partitions = 0
        self._file = LogFile(path, name, read_only)

    @classmethod
    def open(
        cls, directory: str | Path, name: str, partitions: int | None = None, create: bool = False, read_only: bool = False
    ) -> LocalLog:
        """Open a log, or make it.

        Parameters
        ----------
        directory : path
            Where the logs are; the file is ``directory/name.db``.
        name : str
        partitions : int, optional
            Needed to make a log; otherwise checked against what the log has.
        create : bool
            Make the log if it isn't there.
        read_only : bool
            Never write; appends are refused.

        Raises
        ------
        DataDirectoryError
            There is no such log, it has another number of partitions, or another format.
        """
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
            raise LogError(f"'{name}' can't name a log; use letters, digits, '.', '_' and '-'")
        path = Path(directory).absolute() / f"{name}.db"
        log = cls(path, name, read_only)
        if not path.exists():
            if not create or read_only:
                raise DataDirectoryError(f"there is no log '{name}' in {path.parent}; `tidemark ingest` makes one")
            if partitions is None or partitions < 1:
                raise LogError(f"log '{name}': to make it, the number of partitions must be 1 or more, not {partitions}")
            log._file.make(partitions)
        try:
            log._load_meta(partitions)
        except BaseException:
            log.close()
            raise
        return log

    def _load_meta(self, partitions: int | None) -> None:
        with self._file.translated("open it"):
            tables = {row[0] for row in self._file.handle().connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if "meta" not in tables:
                raise CorruptionError(f"{self.path} is not a Tidemark log; put it back from a copy, or delete it and ingest again")
            meta = dict(self._file.handle().connection.execute("SELECT key, value FROM meta"))
        if meta.get("format") != str(FORMAT):
            raise DataDirectoryError(f"log {self.path} has format {meta.get('format')}; this Tidemark reads format {FORMAT}")
        self.partitions = int(meta["partitions"])
        if partitions is not None and partitions != self.partitions:
            raise DataDirectoryError(
                f"log '{self.name}' in {self.path.parent} was made with {self.partitions} partitions, but the settings say {partitions}; "
                f"the number is fixed when a data directory is made: set partitions = {self.partitions}, or use another --data"
            )

    # Writing -----------------------------------------------------------------------------------------------------------------------

    def append(
        self, batches: Sequence[tuple[int, pa.RecordBatch]], *, ledger: LedgerEntry | Sequence[LedgerEntry] | None = None
    ) -> list[tuple[int, int, int]]:
        """Append batches in one transaction: all or nothing, durable and readable when this returns.

        Parameters
        ----------
        batches : sequence of (partition, record batch)
            A batch's ``timestamp`` column, if it has one, makes the log's arrival time.
        ledger : LedgerEntry or several, optional
            Written in the same transaction.

        Returns
        -------
        list of (partition, first offset, end offset)
            One for each batch given.

        Raises
        ------
        StorageFullError, LockedError, LogError
            Nothing was appended.
        LedgerConflictError
            The ledger is not at an entry's `previous`; nothing was appended.
        """
        self._writable()
        entries = [ledger] if isinstance(ledger, LedgerEntry) else list(ledger or ())
        # Everything slow happens before the lock is taken.
        stored = [(partition, [_encode(piece) for piece in _pieces(batch)]) for partition, batch in batches]
        for partition, _ in stored:
            self._check_partition(partition)
        spans: list[tuple[int, int, int]] = []
        # What this connection commits itself doesn't show in the version by which `read` knows that nothing is new.
        self._file.handle().ended.clear()
        with self._file.translated("append to it"), self._file.transaction("IMMEDIATE") as connection:
            for entry in entries:
                self._advance(connection, entry)
            ends = {row[0]: (row[1], row[2]) for row in connection.execute("SELECT partition, end_offset, max_timestamp FROM ends")}
            touched = set()
            for partition, rows in stored:
                first, arrival = ends[partition]
                end = first
                for records, greatest, blob, crc in rows:
                    arrival = max(arrival, greatest)
                    connection.execute(
                        "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?)",
                        (partition, end, end + records, records, arrival, _seal(crc, partition, end, end + records, arrival), blob),
                    )
                    end += records
                if end > first:
                    ends[partition] = (end, arrival)
                    touched.add(partition)
                spans.append((partition, first, end))
            connection.executemany(
                "UPDATE ends SET end_offset = ?, max_timestamp = ? WHERE partition = ?", [(*ends[p], p) for p in sorted(touched)]
            )
        return spans

    def expect_appends(self) -> None:
        """That appends will come: nothing to do, for nothing has to come from anywhere."""

    def _advance(self, connection: sqlite3.Connection, entry: LedgerEntry) -> None:
        row = connection.execute("SELECT done FROM ledger WHERE key = ?", (entry.key,)).fetchone()
        if (row[0] if row else 0) != entry.previous:
            raise LedgerConflictError(
                f"log '{self.name}': another process is appending from the same source ({entry.key}); wait for it, then run this again"
            )
        connection.execute("INSERT OR REPLACE INTO ledger VALUES (?, ?, ?)", (entry.key, entry.done, entry.total))

    def ledger_entry(self, key: str) -> LedgerEntry | None:
        """The ledger's row of a key (`previous` equals `done`, ready for the next append), None if there is none."""
        with self._file.translated("read its ledger"):
            row = self._file.handle().connection.execute("SELECT done, total FROM ledger WHERE key = ?", (key,)).fetchone()
        return LedgerEntry(key, row[0], row[1], previous=row[0]) if row else None

    # Reading -----------------------------------------------------------------------------------------------------------------------

    def read(self, partition: int, position: int, max_records: int, *, exact: bool = True) -> list[LogBatch]:
        """Committed records of a partition from exactly `position` on, at most `max_records`, contiguous; [] at the end. Always `exact`.

        Fewer where they are large: a read ends with the batch in which it reaches READ_BYTES.

        Raises
        ------
        LogError
            `position` lies beyond the end: the caller's state is ahead of the log.
        CorruptionError
            A batch's checksum is wrong, or offsets are missing.
        """
        self._check_partition(partition)
        handle = self._file.handle()
        with self._file.translated("read it"):
            version = handle.connection.execute("PRAGMA data_version").fetchone()[0]
        # Whoever follows a log asks again and again: that nobody has committed since is told for a fraction of a read.
        if handle.ended.get(partition) == (version, position):
            return []
        out: list[LogBatch] = []
        at, stop, size = position, position + max_records, 0
        with self._file.translated("read it"), self._file.transaction("DEFERRED") as connection:
            end = self._end(connection, partition)
            if not 0 <= position <= end:
                raise LogError(
                    f"log '{self.name}', partition {partition}: position {position} lies outside 0 to {end}; "
                    "state that is ahead of its log must be restored"
                )
            stop = min(stop, end)
            tail = handle.tails.pop(partition, None)
            if tail is not None and tail.first_offset <= at < min(tail.end_offset, stop):
                out.append(tail.between(at, stop))
                at = out[-1].end_offset
            if at < stop:
                for row in connection.execute(
                    "SELECT first_offset, end_offset, records, max_timestamp, crc, bytes FROM batches "
                    "WHERE partition = ? AND end_offset > ? ORDER BY end_offset",
                    (partition, at),
                ):
                    tail = self.decoded(partition, row)
                    if tail.first_offset > at or (tail.first_offset < at and out):
                        break
                    out.append(tail.between(at, stop))
                    at = out[-1].end_offset
                    size += held_bytes(out[-1].records, READ_BYTES)
                    if size >= READ_BYTES:
                        stop = at
                    if at >= stop:
                        break
            if at < stop:
                raise CorruptionError(
                    f"log '{self.name}', partition {partition}: records from offset {at} on are missing, though the log ends at {end}; "
                    "restore the log from its archive (`tidemark replay status` shows what that covers)"
                )
            if tail is not None and at < tail.end_offset:
                handle.tails[partition] = tail
            if position == end:
                handle.ended[partition] = (version, position)
        return out

    def decoded(self, partition: int, row: tuple[int, int, int, int, int, bytes]) -> LogBatch:
        """The batch that a row of the file holds: first offset, end offset, records, arrival, checksum, bytes.

        Raises
        ------
        CorruptionError
            It is not what was written.
        """
        first, end, records, arrival, crc, blob = row
        reason = "its checksum is wrong"
        # A damaged page may even turn a column into another type.
        whole = isinstance(blob, bytes) and all(type(value) is int for value in row[:5]) and end - first == records
        if whole and _seal(zlib.crc32(blob), partition, first, end, arrival) == crc:
            try:
                batch = pa.ipc.open_stream(pa.py_buffer(blob), options=_ALONE).read_next_batch()
                if batch.num_rows == records:
                    return LogBatch(partition, first, end, batch)
                reason = f"it holds {batch.num_rows} records"
            except (pa.ArrowException, StopIteration, OSError) as error:
                reason = f"it can't be decoded ({error})"
        where = (
            f"offsets {first} to {end - 1}" if type(first) is type(end) is int else f"offsets that are damaged too, {first!r} and {end!r}"
        )
        raise CorruptionError(
            f"log '{self.name}', partition {partition}, {where}: the stored batch is corrupt: {reason}; "
            f"restore {self.path} from its archive (`tidemark replay verify` lists all that is damaged)"
        )

    def expect(self, partition: int, position: int) -> None:
        """That a read will begin here soon: nothing to do, for nothing has to come from anywhere."""

    def start_positions(self) -> list[int]:
        """The first offset that every partition still has: this log keeps all."""
        return [0] * self.partitions

    def end_positions(self) -> list[int]:
        """The next offset of every partition."""
        with self._file.translated("read it"):
            ends = [row[0] for row in self._file.handle().connection.execute("SELECT end_offset FROM ends ORDER BY partition")]
        if len(ends) != self.partitions:
            raise CorruptionError(f"log '{self.name}': it records {len(ends)} ends for {self.partitions} partitions; restore {self.path}")
        return ends

    def end_position(self, partition: int) -> int:
        """The next offset of one partition."""
        self._check_partition(partition)
        with self._file.translated("read it"):
            return self._end(self._file.handle().connection, partition)

    def _end(self, connection: sqlite3.Connection, partition: int) -> int:
        row = connection.execute("SELECT end_offset FROM ends WHERE partition = ?", (partition,)).fetchone()
        if row is None:
            raise CorruptionError(f"log '{self.name}': the end of partition {partition} is not recorded; restore {self.path}")
        return int(row[0])

    def position_for_time(self, partition: int, timestamp_ms: int) -> int:
        """The first offset whose arrival (running maximum of timestamps) is at least `timestamp_ms`, else the end."""
        self._check_partition(partition)
        with self._file.translated("read it"), self._file.transaction("DEFERRED") as connection:
            row = connection.execute(
                "SELECT first_offset, end_offset, records, max_timestamp, crc, bytes FROM batches "
                "WHERE partition = ? AND max_timestamp >= ? ORDER BY max_timestamp, end_offset LIMIT 1",
                (partition, max(NO_TIME, min(timestamp_ms, 2**63 - 1))),
            ).fetchone()
            if row is None:
                return self._end(connection, partition)
        batch = self.decoded(partition, row)
        if timestamp_ms > NO_TIME and "timestamp" in batch.records.schema.names:
            # Every earlier batch's arrival is below, so the record that raises it is one whose own timestamp is high enough.
            stamps = pc.fill_null(batch.records.column("timestamp"), NO_TIME).to_numpy(zero_copy_only=False)
            return batch.first_offset + int(np.argmax(stamps >= timestamp_ms))
        return batch.first_offset

    # Groups ------------------------------------------------------------------------------------------------------------------------

    def commit_group(self, group: str, positions: Mapping[int, int]) -> None:
        """Record how far a consumer group has come, for lag tools; partitions not named keep theirs."""
        self._writable()
        for partition in positions:
            self._check_partition(partition)
        with self._file.translated("write to it"), self._file.transaction("IMMEDIATE") as connection:
            connection.executemany("INSERT OR REPLACE INTO groups VALUES (?, ?, ?)", [(group, p, o) for p, o in positions.items()])

    def group_positions(self, group: str) -> dict[int, int]:
        """What `commit_group` recorded, by partition."""
        with self._file.translated("read it"):
            query = "SELECT partition, position FROM groups WHERE name = ? ORDER BY partition"
            return dict(self._file.handle().connection.execute(query, (group,)).fetchall())

    def faults(self) -> list[str]:
        """What is wrong with the file itself, beyond what `read` checks; the first few."""
        return self._file.faults()

    # The rest -------------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close every connection of this process; a second call does nothing."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _writable(self) -> None:
        if self._file.read_only:
            raise LogError(f"log '{self.name}' was opened to be read only")

    def _check_partition(self, partition: int) -> None:
        if not 0 <= partition < self.partitions:
            raise LogError(f"log '{self.name}' has partitions 0 to {self.partitions - 1}; there is no partition {partition}")


def _pieces(batch: pa.RecordBatch) -> list[pa.RecordBatch]:
    # To add up the bytes of its rows alone takes longer, and most batches are small.
    if batch.num_rows <= MAX_STORED_RECORDS and batch.get_total_buffer_size() <= MAX_STORED_BYTES:
        return [batch] if batch.num_rows else []
    rows = max(1, min(MAX_STORED_RECORDS, batch.num_rows * MAX_STORED_BYTES // max(1, batch.nbytes)))
    return [batch.slice(at, rows) for at in range(0, batch.num_rows, rows)]


def _encode(batch: pa.RecordBatch) -> tuple[int, int, Any, int]:
    """(records, greatest timestamp, Arrow IPC stream, its CRC) of a batch."""
    greatest = None
    if "timestamp" in batch.schema.names:
        stamps = batch.column("timestamp")
        # Where there is no null, numpy tells for a fraction of the call.
        greatest = pc.max(stamps).as_py() if stamps.null_count or not len(stamps) else int(stamps.to_numpy().max())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=_IPC) as writer:
        writer.write_batch(batch)
    blob = sink.getvalue()
    return batch.num_rows, NO_TIME if greatest is None else greatest, blob, zlib.crc32(blob)


def _seal(crc: int, partition: int, first: int, end: int, arrival: int) -> int:
    """The CRC continued over the row's own columns, so that a row that moved or was renumbered is found too."""
    return zlib.crc32(b"%d,%d,%d,%d" % (partition, first, end, arrival), crc)
