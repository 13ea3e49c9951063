"""Logs of any shape, in memory, that lose their beginning as Kafka's do; and what a reading of a log is, for comparing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa

from flows.archive.archive import Archive
from flows.archive.joined import JoinedLog
from flows.archive.task import ArchiverTask, begin
from flows.errors import LogError, RetentionError
from flows.events import RAW_SCHEMA
from flows.log import LedgerEntry, Log, LogBatch

TYPED = pa.schema([("n", pa.int64()), ("word", pa.dictionary(pa.int32(), pa.string())), ("timestamp", pa.int64())], metadata={"by": "us"})


def raw(values: Sequence[bytes | None], start: int = 0) -> pa.RecordBatch:
    return pa.record_batch([pa.array(values, pa.binary()), pa.array(range(start, start + len(values)), pa.int64())], schema=RAW_SCHEMA)


def typed(count: int, start: int = 0) -> pa.RecordBatch:
    numbers = np.arange(start, start + count)
    words = [None if n % 5 == 0 else f"{'x' * (n % 3)}{start}" for n in numbers.tolist()]
    return pa.record_batch([pa.array(numbers), pa.array(words, pa.string()).dictionary_encode(), pa.array(numbers * 10)], schema=TYPED)


class MemoryLog:
    """One log of several partitions, made of any batches. `begin` is where retention has come to, by partition."""

    dense = False

    def __init__(self, parts: Sequence[Sequence[LogBatch]], name: str = "actions") -> None:
        self.name = name
        self.partitions = len(parts)
        self.parts = [list(part) for part in parts]
        self.begin = [0] * len(parts)
        self.groups: dict[str, dict[int, int]] = {}
        self.closed = False

    def append(
        self, batches: Sequence[tuple[int, pa.RecordBatch]], *, ledger: LedgerEntry | Sequence[LedgerEntry] | None = None
    ) -> list[tuple[int, int, int]]:
        spans = []
        for partition, records in batches:
            end = self.end_position(partition)
            self.parts[partition].append(LogBatch(partition, end, end + records.num_rows, records))
            spans.append((partition, end, end + records.num_rows))
        return spans

    def read(self, partition: int, position: int, max_records: int, *, exact: bool = True) -> list[LogBatch]:
        if position < self.begin[partition]:
            raise RetentionError(f"begins at {self.begin[partition]}, not {position}")
        if position > self.end_position(partition):
            raise LogError("beyond the end")
        stop = position + max_records
        found = [b.between(position, stop) for b in self.parts[partition] if b.end_offset > position and b.first_offset < stop]
        return found

    def start_positions(self) -> list[int]:
        return list(self.begin)

    def end_positions(self) -> list[int]:
        return [self.end_position(p) for p in range(self.partitions)]

    def end_position(self, partition: int) -> int:
        return self.parts[partition][-1].end_offset if self.parts[partition] else 0

    def position_for_time(self, partition: int, timestamp_ms: int) -> int:
        for batch in self.parts[partition]:
            for offset, row in zip(batch.offsets_of_records().tolist(), batch.records.to_pylist(), strict=True):
                if offset >= self.begin[partition] and (row.get("timestamp") or -1) >= timestamp_ms:
                    return int(offset)
        return self.end_position(partition)

    def ledger_entry(self, key: str) -> LedgerEntry | None:
        return LedgerEntry(key, 1)

    def commit_group(self, group: str, positions: Mapping[int, int]) -> None:
        self.groups.setdefault(group, {}).update(positions)

    def group_positions(self, group: str) -> dict[int, int]:
        return self.groups.get(group, {})

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Forgetful(MemoryLog):
    """Another log, of which only what lies from `begin` on is told."""

    def __init__(self, log: Log, begin: Sequence[int]) -> None:
        super().__init__([[] for _ in range(log.partitions)], log.name)
        self.log, self.dense, self.begin = log, log.dense, list(begin)

    def read(self, partition: int, position: int, max_records: int, *, exact: bool = True) -> list[LogBatch]:
        if position < self.begin[partition]:
            raise RetentionError(f"begins at {self.begin[partition]}, not {position}")
        return self.log.read(partition, position, max_records, exact=exact)

    def end_position(self, partition: int) -> int:
        return self.log.end_position(partition)


def follow_on(*parts: tuple[pa.RecordBatch, Sequence[int] | None, int | None], partition: int = 0, start: int = 0) -> list[LogBatch]:
    """Batches that follow on: (records, their offsets or None, where it ends or None: right behind its last record)."""
    out = []
    for records, offsets, end in parts:
        at = out[-1].end_offset if out else start
        told = None if offsets is None else np.array(offsets, np.int64)
        stop = end if end is not None else (at + records.num_rows if told is None else int(told[-1]) + 1)
        out.append(LogBatch(partition, at, stop, records, told))
    return out


def archive_all(archives: Path, log: Log, most: int = 1_000, leave_gap: bool = False) -> int:
    """Archive all of a log, in this process. Returns how many records that was."""
    return sum(archive_one(archives, log, partition, most, leave_gap) for partition in range(log.partitions))


def archive_one(archives: Path, log: Log, partition: int, most: int = 1_000, leave_gap: bool = False) -> int:
    at = begin(archives, log, partition, leave_gap)
    task = ArchiverTask(archives, log.name, partition, log.partitions)
    taken = 0
    try:
        task.catch_up(at)
        while batches := log.read(partition, at, most):
            taken += task.apply(batches)
            at = batches[-1].end_offset
        task.close()
    finally:
        task.abandon()
    return taken


def joined(live: Log, archives: Path) -> JoinedLog:
    return JoinedLog(live, Archive(archives, live.name, live.partitions), str(archives))


def read_all(log: Log, partition: int, start: int = 0, most: int = 1_000) -> list[LogBatch]:
    """All from a position on; checks that it has no gap."""
    out: list[LogBatch] = []
    at = start
    while batches := log.read(partition, at, most):
        for batch in batches:
            assert (batch.partition, batch.first_offset) == (partition, at)
            assert batch.end_offset > at
            offsets = batch.offsets_of_records()
            assert len(offsets) == batch.records.num_rows
            assert all(at <= o < batch.end_offset for o in offsets.tolist())
            assert batch.end_offset <= batches[0].first_offset + most
            at = batch.end_offset
        out += batches
    assert at == log.end_position(partition)
    return out


def rows(batches: Iterable[LogBatch]) -> list[tuple[int, str, list[str]]]:
    """(offset, schema, values) of every record: all that a reader can tell of it."""
    out = []
    for batch in batches:
        schema = batch.records.schema.to_string(show_schema_metadata=True, show_field_metadata=True)
        columns = [[repr(v.as_py()) for v in column] for column in batch.records.columns]
        values = [list(row) for row in zip(*columns, strict=True)]
        out += [(o, schema, row) for o, row in zip(batch.offsets_of_records().tolist(), values, strict=True)]
    return out
