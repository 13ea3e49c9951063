"""What a message holds: one record of any bytes, or an Arrow IPC stream of many. Knows no connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter

import numpy as np
import pyarrow as pa
from confluent_kafka import Message

from flows.arrow_size import shared_bytes, uncompressed_bytes
from flows.arrow_types import are_tame, may_be_bulky, tamed, unless_bulky
from flows.events import RAW_SCHEMA
from flows.log import READ_BYTES, LogBatch

# Kafka's default limit of a message is 1 MiB with its envelope.
_MESSAGE_BYTES, _MESSAGE_RECORDS = 900_000, 8_192
_IPC = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
# For a record without a time: the client takes 0 for the time of day, which must never enter what is made of a log.
_NO_TIME = 1
# How every Arrow stream begins, and no JSON.
_ARROW = b"\xff\xff\xff\xff"
# Threads that unpack columns side by side cost a message of some records more than all else: three times the time on cores that are free.
_READ = pa.ipc.IpcReadOptions(use_threads=False)
# Of one Arrow message, and, about, of one read. A column of nulls has no bytes, so a stranger may declare any number of records, and of columns.
_MOST_RECORDS, _MOST_CELLS = 1 << 18, 1 << 24


def messages_of(batch: pa.RecordBatch) -> list[tuple[bytes | None, int]]:
    """(value, timestamp) of each message that a batch is sent as."""
    if batch.schema.names == RAW_SCHEMA.names:
        times = (max(t or 0, _NO_TIME) for t in batch.column("timestamp").to_pylist())
        return list(zip(batch.column("value").to_pylist(), times, strict=True))
    out: list[tuple[bytes | None, int]] = []
    at, size = 0, _MESSAGE_RECORDS
    while at < batch.num_rows:
        piece = batch.slice(at, size)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema, options=_IPC) as writer:
            writer.write_batch(piece)
        value = sink.getvalue().to_pybytes()
        if len(value) > _MESSAGE_BYTES and piece.num_rows > 1:
            size = max(1, size // 2)
            continue
        stamps = piece.column("timestamp").to_numpy(zero_copy_only=False) if "timestamp" in batch.schema.names else np.zeros(1)
        out.append((value, max(_NO_TIME, int(stamps.max()))))
        at += piece.num_rows
    return out


def batches_of(partition: int, start: int, end: int, messages: Sequence[Message]) -> list[LogBatch]:
    """Messages as log batches that cover start to end: each Arrow message one, each stretch of others one.

    They end with the Arrow message in which they reach READ_BYTES, or so many records: it is only here that one shows how large it is.
    """
    # Some hundred thousand messages a second come this way: a method is mapped over all of them rather than called by a line of ours for each.
    values = list(map(Message.value, messages))
    stamps = np.fromiter(map(itemgetter(1), map(Message.timestamp, messages)), np.int64, len(messages)).clip(0)
    offsets = np.fromiter(map(Message.offset, messages), np.int64, len(messages))
    parts: list[tuple[pa.RecordBatch, np.ndarray]] = []
    plain = size = rows = 0

    def close_plain(upto: int) -> None:
        if upto > plain:
            records = [_binary(values[plain:upto]), pa.array(stamps[plain:upto])]
            parts.append((pa.record_batch(records, schema=RAW_SCHEMA), offsets[plain:upto]))

    for i, value in [(i, value) for i, value in enumerate(values) if value is not None and value[:4] == _ARROW]:
        found = _arrow(value, int(stamps[i]))
        if found is None:
            continue
        records, held = found
        close_plain(i)
        plain = i + 1
        if records.num_rows:
            parts.append((records, np.full(records.num_rows, offsets[i], np.int64)))
        size += held
        rows += records.num_rows
        if (size >= READ_BYTES or rows >= _MOST_RECORDS) and plain < len(values):
            values, end = values[:plain], int(offsets[plain])
            break
    close_plain(len(values))
    if not parts:
        none = pa.RecordBatch.from_pylist([], RAW_SCHEMA)
        return [LogBatch(partition, start, end, none, np.empty(0, np.int64))] if end > start else []
    out = []
    for i, (records, at) in enumerate(parts):
        stop = int(parts[i + 1][1][0]) if i + 1 < len(parts) else end
        whole = len(at) == stop - start and int(at[0]) == start
        out.append(LogBatch(partition, start, stop, records, None if whole and int(at[-1]) == stop - 1 else at))
        start = stop
    return out


def _binary(values: list[bytes | None]) -> pa.Array:
    """`pa.array` of bytes, in half the time and without pandas, which that loads."""
    none = np.fromiter((value is None for value in values), np.bool_, len(values)) if None in values else None
    joined = [value or b"" for value in values] if none is not None else values
    bounds = np.zeros(len(values) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, joined), np.int32, len(values)), out=bounds[1:])  # type: ignore[arg-type]
    valid = pa.py_buffer(np.packbits(~none, bitorder="little")) if none is not None else None
    return pa.Array.from_buffers(pa.binary(), len(values), [valid, pa.py_buffer(bounds), pa.py_buffer(b"".join(joined))])  # type: ignore[arg-type]


def _arrow(value: bytes, timestamp: int) -> tuple[pa.RecordBatch, int] | None:
    """The records of an Arrow message, with the message's time where they have none, and what they hold, bytes.

    None if it is no Arrow after all, or would fill the memory.
    """
    try:
        held = uncompressed_bytes(value)
        if held > READ_BYTES:
            return None
        parts: list[pa.RecordBatch] = []
        for part in pa.ipc.open_stream(pa.py_buffer(value), options=_READ):
            parts.append(part)
            total = sum(p.num_rows for p in parts)
            if total > _MOST_RECORDS or total * part.num_columns > _MOST_CELLS:
                return None
            # Where offsets and codes point is looked at here and nowhere else: the bytes may be anybody's.
            part.validate(full=True)
            shared = shared_bytes(part, READ_BYTES)
            if shared > READ_BYTES:
                return None
        if len(parts) == 1 and not may_be_bulky(held + shared) and _is_known(parts[0].schema):
            return (parts[0], held + shared) if total else None
        table = pa.Table.from_batches([_each(tamed, part) for part in parts]).combine_chunks()
        # What no part holds too much of, all together may.
        together = sum(shared_bytes(part, READ_BYTES) for part in table.to_batches())
        if together > READ_BYTES:
            return None
        held += together
    except (pa.ArrowException, OSError, ValueError, MemoryError):
        return None
    if not _has_time(table.schema):
        table = table.select([i for i, name in enumerate(table.schema.names) if name != "timestamp"])
        table = table.append_column("timestamp", pa.array(np.full(table.num_rows, timestamp), pa.int64()))
    batches = table.to_batches()
    return (_each(unless_bulky, batches[0]), held) if batches else None


# The last schemas with nothing to be changed about their records. A log has messages of one or two. Replaced as a whole: threads read it.
_known: tuple[pa.Schema, ...] = ()


def _is_known(schema: pa.Schema) -> bool:
    """Whether records of a schema go on as they are. To look at their columns one by one takes as long as to read them.

    Raises
    ------
    ValueError
        A name in it is no text.
    """
    global _known
    if any(schema.equals(one, check_metadata=False) for one in _known):
        return True
    if not (schema.names and _has_time(schema) and are_tame(schema)):
        return False
    _known = (schema, *_known[:3])
    return True


def _has_time(schema: pa.Schema) -> bool:
    at = schema.get_field_index("timestamp")  # -1 if there are two
    return at >= 0 and pa.types.is_int64(schema.field(at).type)


def _each(change: Callable[[pa.Array], pa.Array], records: pa.RecordBatch) -> pa.RecordBatch:
    """Records with each of their columns changed."""
    before = records.columns
    columns = [change(column) for column in before]
    if all(new is old for new, old in zip(columns, before, strict=True)):
        return records
    return pa.RecordBatch.from_arrays(columns, names=records.schema.names)
