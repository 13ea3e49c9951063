"""How large an Arrow IPC stream becomes when it is read: what its compressed buffers say, and what rows that share values hold together.

A stranger's message of a few kilobytes may declare gigabytes, which whoever decompresses it has to find before anything can be looked at. Knows
just enough of the format (https://arrow.apache.org/docs/format/Columnar.html, IPC) and of flatbuffers to add up what is declared.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.compiled import compiled

_CONTINUATION = 0xFFFFFFFF
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
# Fields of the tables, by number.
_VERSION, _HEADER_TYPE, _HEADER, _BODY_LENGTH = 0, 1, 2, 3
_DICTIONARY_DATA, _IS_DELTA = 1, 2
# MetadataVersion counts from 0.
_V5 = 4
_BUFFERS, _COMPRESSION = 2, 3
# Two of it make no overflow.
_MOST = 1 << 60


def uncompressed_bytes(stream: bytes) -> int:
    """Bytes of all buffers of a stream as its messages declare them; 2^60 where they are more.

    Raises
    ------
    ValueError
        It is no Arrow stream, or was cut.
    """
    return int(_declared_in(np.frombuffer(stream, np.uint8)))


@compiled
def _declared_in(stream):  # type: ignore[no-untyped-def]
    total = at = 0
    while at < len(stream):
        mark, size = _number(stream, at, 4), _signed(_number(stream, at + 4, 4), 4)
        if mark != _CONTINUATION or size < 0:
            raise ValueError("no message of Arrow begins here")
        if size == 0:
            break
        start = at + 8
        message = _table(stream, start)
        body = start + size
        version = _field(stream, message, _VERSION)
        if not version or _number(stream, version, 2) < _V5:
            # Before, whether buffers are compressed stood elsewhere.
            raise ValueError("a message of a version before 5")
        long = _field(stream, message, _BODY_LENGTH)
        at = body + (_number(stream, long, 8) if long else 0)
        if not body <= at <= len(stream):
            raise ValueError("a body is not there, or was cut")
        total = min(total + _declared(stream, message, body), _MOST)
    return total


@compiled
def _declared(stream, message, body):  # type: ignore[no-untyped-def]
    """What the buffers of one message take, uncompressed."""
    at, header = _field(stream, message, _HEADER_TYPE), _field(stream, message, _HEADER)
    kind = _number(stream, at, 1) if at else 0
    if (kind != _DICTIONARY_BATCH and kind != _RECORD_BATCH) or not header:
        return 0
    batch = _table(stream, header)
    if kind == _DICTIONARY_BATCH:
        delta = _field(stream, batch, _IS_DELTA)
        if delta and _number(stream, delta, 1):
            # Each makes the whole dictionary anew: a small message could fill the memory with them.
            raise ValueError("a message that adds to a dictionary")
        batch = _table(stream, _field(stream, batch, _DICTIONARY_DATA))
    compressed = _field(stream, batch, _COMPRESSION) != 0
    vector = _table(stream, _field(stream, batch, _BUFFERS))
    count = _number(stream, vector, 4)
    if vector + 4 + 16 * count > len(stream):
        raise ValueError("the stream was cut, or points outside itself")
    total = 0
    for i in range(count):
        offset, length = _number(stream, vector + 4 + 16 * i, 8), _number(stream, vector + 12 + 16 * i, 8)
        if length > 0 and not compressed:
            # More than the body has, where several are of the same bytes.
            total = min(total + min(length, _MOST), _MOST)
        elif length > 0:
            # Before its bytes a buffer says how many they become; -1: they are as they are.
            declared = _number(stream, body + offset, 8) if 0 <= offset < len(stream) else -2
            if declared < -1:
                raise ValueError("a buffer of less than no bytes")
            total = min(total + min(length if declared < 0 else declared, _MOST), _MOST)
    return total


@compiled
def _table(stream, at):  # type: ignore[no-untyped-def]
    """Where an offset points."""
    return at + _number(stream, at, 4)


@compiled
def _field(stream, table, number):  # type: ignore[no-untyped-def]
    """Where a field of a table lies, 0 if it has none."""
    names = table - _signed(_number(stream, table, 4), 4)
    if names < 0:
        raise ValueError("a table points outside")
    if 4 + 2 * number >= _number(stream, names, 2):
        return 0
    offset = _number(stream, names + 4 + 2 * number, 2)
    return table + offset if offset else 0


@compiled
def _number(stream, at, width):  # type: ignore[no-untyped-def]
    """Little-endian, of 8 bytes signed, of fewer not."""
    if at < 0 or at + width > len(stream):
        raise ValueError("the stream was cut, or points outside itself")
    value = np.int64(0)
    for i in range(width):
        value |= np.int64(stream[at + i]) << np.int64(8 * i)
    return value


@compiled
def _signed(value, width):  # type: ignore[no-untyped-def]
    limit = np.int64(1) << np.int64(8 * width - 1)
    return value - 2 * limit if value >= limit else value


def held_bytes(batch: pa.RecordBatch, limit: int) -> int:
    """What records hold, counted as `shared_bytes` does where that may be more than the limit."""
    return int(batch.nbytes) + shared_bytes(batch, limit)


def shared_bytes(batch: pa.RecordBatch, limit: int) -> int:
    """Bytes of texts that rows may share, counted for each row that has them; 0 where that can't be more than the limit."""
    if batch.num_rows * batch.get_total_buffer_size() <= limit:
        return 0
    return sum(_shared_bytes(column, limit) for column in batch.columns)


def _shared_bytes(column: pa.Array, limit: int) -> int:
    kind = column.type
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        # Of 16 bytes each, the first four are its length.
        views = np.frombuffer(column.buffers()[1], np.int32, 4 * len(column), column.offset * 16)
        return int(views[::4].astype(np.int64).clip(0).sum())
    if not pa.types.is_dictionary(kind) or not holds_texts(kind.value_type):
        return 0
    values = column.dictionary
    if len(column) * values.nbytes <= limit:
        return 0
    lengths = np.append(pc.binary_length(values).fill_null(0).to_numpy(zero_copy_only=False), 0)
    return int(lengths[column.indices.cast(pa.int64()).fill_null(len(values)).to_numpy(zero_copy_only=False)].astype(np.int64).sum())


def holds_texts(kind: pa.DataType) -> bool:
    """Whether values of a type are texts or bytes, one after another."""
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_binary, pa.types.is_large_string, pa.types.is_large_binary))
