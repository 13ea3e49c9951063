"""Appends a source's rows to ACTIONS, chunk by chunk, each in one transaction with its ledger row: a kill loses and doubles nothing."""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from flows.errors import InputError
from flows.events import EVENT_SCHEMA, RAW_SCHEMA
from flows.ingest.columnar import CsvSource, ParquetSource
from flows.ingest.frames import Chunk, Source
from flows.ingest.jsonl import JsonLinesSource
from flows.ingest.normalise import Normalised, RawRecord, normalise
from flows.ingest.options import IngestOptions, format_of
from flows.kernels.layout import DAY_MS, NEVER
from flows.log import LedgerEntry, Log
from flows.partition import partition_of


@dataclass(frozen=True)
class CheckedFile:
    """A file that can be read to its end.

    Attributes
    ----------
    path : Path
    digest : bytes
        Of its content.
    key : str
        Of the ledger: content and options.
    total : int
        Rows.
    """

    path: Path
    source: Source
    digest: bytes
    key: str
    total: int
    stamp: tuple[int, int]


@dataclass
class Added:
    """What one file gave in this run. `already` rows were there before; `newest` is the greatest event time among its events, ms."""

    path: str
    rows: int = 0
    raw: int = 0
    already: int = 0
    newest: int | None = None
    seconds: float = 0.0


def check_file(path: Path, options: IngestOptions) -> CheckedFile:
    """Open a file and read all of it, so that a fault shows before anything is appended.

    Raises
    ------
    InputError
        It isn't there, isn't a file, or can't be read as what it is said to be.
    """
    if path.is_dir():
        raise InputError(f"{path} is a directory; name its files, e.g. {path}/*.parquet")
    if not path.exists():
        raise InputError(f"{path}: No such file")
    format, compression = format_of(path, options.format)
    try:
        stamp = _stamp(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).digest()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    source: Source
    if format == "parquet":
        source = ParquetSource(path, options)
    elif format == "jsonl":
        source = JsonLinesSource(path, options, compression)
    else:
        source = CsvSource(path, options, compression, "\t" if format == "tsv" else ",")
    return CheckedFile(path, source, digest, f"ingest:{digest.hex()}:{options.fingerprint(format)}", source.check(), stamp)


def ingest_file(
    log: Log,
    file: CheckedFile,
    options: IngestOptions,
    progress: Callable[[int], None] = lambda rows: None,
    retention_ms: int | None = None,
) -> Added:
    """Append what the ledger doesn't have yet of a file.

    Parameters
    ----------
    log : Log
    file : CheckedFile
    options : IngestOptions
        Those that the file was checked with.
    progress : callable
        Called with the number of rows that have been appended since its last call.
    retention_ms : int, optional
        How long the log keeps records by their timestamps.

    Raises
    ------
    InputError
        The file has changed meanwhile; or the log would not keep its records.
    """
    started = time.monotonic()
    entry = log.ledger_entry(file.key)
    done = entry.done if entry else 0
    added = Added(str(file.path), already=done)
    progress(done)
    if entry is None or done < file.total:
        for chunk in file.source.chunks(done):
            if _stamp(file.path) != file.stamp:
                raise InputError(f"{file.path} changes while it is read; {done} of its rows have been added, wait until it is whole")
            batches, raw = records_of(chunk, options, file.source.digits, file.digest, log.partitions)
            if retention_ms is not None:
                _refuse_older(batches, file.path, retention_ms)
            log.append(batches, ledger=LedgerEntry(file.key, chunk.end, file.total, previous=done))
            added.rows += chunk.end - chunk.first
            added.raw += raw
            for _, batch in batches:
                if batch.schema.equals(EVENT_SCHEMA):
                    newest = int(batch.column("event_time").to_numpy().max())
                    added.newest = newest if added.newest is None else max(added.newest, newest)
            progress(chunk.end - done)
            done = chunk.end
        if entry is None and done == 0:
            log.append([], ledger=LedgerEntry(file.key, 0, 0))
    added.seconds = round(time.monotonic() - started, 3)
    return added


def _refuse_older(batches: Sequence[tuple[int, pa.RecordBatch]], path: Path, retention_ms: int) -> None:
    """Refuse what brokers would delete the next time that they look, read or not."""
    stamps = np.concatenate([batch.column("timestamp").to_numpy() for _, batch in batches]) if batches else np.empty(0, np.int64)
    # A record of which no time is known has 0; a broker keeps it as long as what lies beside it.
    oldest = int(stamps[stamps != 0].min(initial=NEVER))
    if oldest < time.time_ns() // 1_000_000 - retention_ms:
        raise InputError(
            f"{path}: has records that arrived {datetime.fromtimestamp(oldest / 1000, UTC):%Y-%m-%d}, and the topic keeps records for "
            f"{retention_ms / DAY_MS:,.3g} days: brokers would delete them, read or not; have it keep history (retention.ms=-1, as `tidemark topics "
            "create` makes it without --retention-days), or take them in as arriving now, --arrival now"
        )


def records_of(
    chunk: Chunk, options: IngestOptions, digits: bool, digest: bytes, partitions: int
) -> tuple[list[tuple[int, pa.RecordBatch]], int]:
    """A chunk's batches by partition, in file order with raw records after the events, and the number of raw records."""
    now = time.time_ns() // 1_000_000 if options.arrival == "now" else None
    parts = [normalise(frame, options, digits, digest, now) for frame in chunk.frames]
    raw = [record for part in parts for record in part.raw]
    raw += [RawRecord(row, None, value, now) for row, value in chunk.unreadable]
    raw.sort(key=lambda record: record.row)
    batches: list[tuple[int, pa.RecordBatch]] = []
    events = _joined(parts)
    if events.num_rows:
        batches += split(events, partitions)
    by_partition: dict[int, list[RawRecord]] = {}
    for record in raw:
        by_partition.setdefault(raw_partition(record.user_id, record.value, partitions), []).append(record)
    for partition, records in sorted(by_partition.items()):
        values = [record.value for record in records]
        batches.append((partition, raw_batch(values, [record.timestamp or 0 for record in records])))
    return batches, len(raw)


def raw_batch(values: Sequence[bytes], timestamps: Sequence[int]) -> pa.RecordBatch:
    """Raw records."""
    return pa.record_batch([pa.array(values, pa.binary()), pa.array(timestamps, pa.int64())], schema=RAW_SCHEMA)


def raw_partition(user_id: int | None, value: bytes, partitions: int) -> int:
    """Where a raw record goes: to its user's partition if it names a user, else by its bytes."""
    if user_id is None:
        return zlib.crc32(value) % partitions
    return int(partition_of(np.array([user_id], np.int64), partitions)[0])


def split(events: pa.RecordBatch, partitions: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Events by partition, each in the order given."""
    owners = partition_of(events.column("user_id").to_numpy(), partitions).astype(np.uint16)  # numpy sorts 16 bits by radix
    order = np.argsort(owners, kind="stable")
    bounds = np.searchsorted(owners[order], np.arange(partitions + 1))
    ordered = events.take(pa.array(order))
    for partition in range(partitions):
        first, end = int(bounds[partition]), int(bounds[partition + 1])
        if first < end:
            yield partition, _compact(ordered.slice(first, end - first))


def _compact(events: pa.RecordBatch) -> pa.RecordBatch:
    """Without the entries of large dictionaries that no row here uses: each stored batch carries its dictionaries."""
    arrays = [
        column.dictionary_decode().dictionary_encode()
        if isinstance(column, pa.DictionaryArray) and len(column.dictionary) > 64 + len(column) // 16
        else column
        for column in events.columns
    ]
    return pa.record_batch(arrays, schema=events.schema)


def _joined(parts: list[Normalised]) -> pa.RecordBatch:
    filled = [part for part in parts if part.events.num_rows]
    if not filled:
        return pa.RecordBatch.from_pylist([], EVENT_SCHEMA)
    if len(filled) == 1:
        return filled[0].events
    table = pa.Table.from_batches([part.events for part in filled]).unify_dictionaries().combine_chunks()
    order = np.argsort(np.concatenate([part.rows for part in filled]), kind="stable")
    return table.take(pa.array(order)).combine_chunks().to_batches()[0]


def _stamp(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns
