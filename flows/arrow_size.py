"""How large an Arrow IPC stream becomes when it is read: what its compressed buffers say, and what rows that share values hold together.

A stranger's message of a few kilobytes may declare gigabytes, which whoever decompresses it has to find before anything can be looked at. Knows
just enough of the format (https://arrow.apache.org/docs/format/Columnar.html, IPC) and of flatbuffers to add up what is declared.
"""

from __future__ import annotations

import struct

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_CONTINUATION = 0xFFFFFFFF
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
# Fields of the tables, by number.
_HEADER_TYPE, _HEADER, _BODY_LENGTH = 1, 2, 3
_DICTIONARY_DATA = 1
_BUFFERS, _COMPRESSION = 2, 3


def uncompressed_bytes(stream: bytes) -> int:
    """Bytes of all buffers of a stream as its messages declare them.

    Raises
    ------
    ValueError
        It is no Arrow stream, or was cut.
    """
    total = at = 0
    try:
        while at < len(stream):
            mark, size = struct.unpack_from("<Ii", stream, at)
            if mark != _CONTINUATION or size < 0:
                raise ValueError("no message of Arrow begins here")
            if size == 0:
                break
            start = at + 8
            message = _table(stream, start)
            body = start + size
            at = body + _long(stream, _field(stream, message, _BODY_LENGTH))
            if not body <= at <= len(stream):
                raise ValueError("a body is not there, or was cut")
            total += _declared(stream, message, body)
    except (struct.error, OverflowError) as error:
        raise ValueError("the stream was cut, or points outside itself") from error
    return total


def _declared(stream: bytes, message: int, body: int) -> int:
    """What the buffers of one message take, uncompressed."""
    kind = _field(stream, message, _HEADER_TYPE)
    header = _field(stream, message, _HEADER)
    (kind,) = struct.unpack_from("<B", stream, kind) if kind else (0,)
    if kind not in (_DICTIONARY_BATCH, _RECORD_BATCH) or not header:
        return 0
    batch = _table(stream, header)
    if kind == _DICTIONARY_BATCH:
        batch = _table(stream, _field(stream, batch, _DICTIONARY_DATA))
    compressed = bool(_field(stream, batch, _COMPRESSION))
    vector = _table(stream, _field(stream, batch, _BUFFERS))
    (count,) = struct.unpack_from("<I", stream, vector)
    buffers = np.frombuffer(stream, "<i8", 2 * count, vector + 4).reshape(-1, 2)
    total = 0
    for offset, length in buffers.tolist():
        if length > 0 and not compressed:
            # More than the body has, where several are of the same bytes.
            total += length
        elif length > 0:
            # Before its bytes a buffer says how many they become; -1: they are as they are.
            declared = _long(stream, body + offset) if offset >= 0 else -2
            if declared < -1:
                raise ValueError("a buffer of less than no bytes")
            total += length if declared < 0 else declared
    return total


def _table(stream: bytes, at: int) -> int:
    """Where an offset points."""
    return int(at + struct.unpack_from("<I", stream, at)[0])


def _field(stream: bytes, table: int, number: int) -> int:
    """Where a field of a table lies, 0 if it has none."""
    names = table - struct.unpack_from("<i", stream, table)[0]
    if names < 0:
        raise ValueError("a table points outside")
    if 4 + 2 * number >= struct.unpack_from("<H", stream, names)[0]:
        return 0
    (offset,) = struct.unpack_from("<H", stream, names + 4 + 2 * number)
    return table + offset if offset else 0


def _long(stream: bytes, at: int) -> int:
    return int(struct.unpack_from("<q", stream, at)[0]) if at else 0


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
