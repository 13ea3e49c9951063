"""Rows of entities as few bytes, for a store that keeps a value for each entity.

Each number is the difference to the one above it in its column, zigzag-coded, seven bits a byte, the last byte of a number below 128. Times that lie
near each other and small codes take a few bytes; any int64 goes, for differences wrap round. One loop for all entities: no Python per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from flows.compiled import compiled

# Seven bits each: what an int64 takes at most.
_MOST_BYTES = 10


def pack_rows(rows: np.ndarray, bounds: np.ndarray) -> list[bytes]:
    """Each entity's rows as bytes.

    Parameters
    ----------
    rows : int64[n, columns]
    bounds : int64[m + 1]
        Rows of entity i are bounds[i] to bounds[i + 1].

    Returns
    -------
    list of bytes
        m values; empty where an entity has no rows.
    """
    out = np.empty(rows.size * _MOST_BYTES, np.uint8)
    ends = np.zeros(len(bounds), np.int64)
    size = _pack(np.ascontiguousarray(rows), bounds, out, ends)
    data = out[:size].tobytes()
    places = ends.tolist()
    return [data[start:end] for start, end in pairwise(places)]


def unpack_rows(values: Sequence[bytes], columns: int) -> tuple[np.ndarray, np.ndarray] | None:
    """What `pack_rows` was given: rows int64[n, columns] and bounds int64[m + 1]; None where a value isn't of its making."""
    data = np.frombuffer(b"".join(values), np.uint8)
    ends = np.zeros(len(values) + 1, np.int64)
    np.cumsum([len(value) for value in values], out=ends[1:])
    # A number ends with each byte below 128.
    numbers = np.concatenate([[0], np.cumsum(data < 128)])[ends]
    if (numbers % columns).any() or (data[ends[1:][np.diff(ends) > 0] - 1] >= 128).any():
        return None
    bounds = numbers // columns
    rows = np.empty((int(bounds[-1]), columns), np.int64)
    return (rows, bounds) if _unpack(data, bounds, rows) else None


@compiled
def _pack(rows, bounds, out, ends):  # type: ignore[no-untyped-def]
    at = 0
    for e in range(bounds.shape[0] - 1):
        for i in range(bounds[e], bounds[e + 1]):
            for c in range(rows.shape[1]):
                step = rows[i, c] - rows[i - 1, c] if i > bounds[e] else rows[i, c]
                left = np.uint64((step << 1) ^ (step >> 63))
                while left >= np.uint64(128):
                    out[at] = np.uint8((left & np.uint64(127)) | np.uint64(128))
                    at += 1
                    left >>= np.uint64(7)
                out[at] = np.uint8(left)
                at += 1
        ends[e + 1] = at
    return at


@compiled
def _unpack(data, bounds, rows):  # type: ignore[no-untyped-def]
    at = 0
    for e in range(bounds.shape[0] - 1):
        for i in range(bounds[e], bounds[e + 1]):
            for c in range(rows.shape[1]):
                value = np.uint64(0)
                shift = np.uint64(0)
                while data[at] >= 128:
                    if shift > np.uint64(56):
                        return False
                    value |= np.uint64(data[at] & 127) << shift
                    shift += np.uint64(7)
                    at += 1
                value |= np.uint64(data[at]) << shift
                at += 1
                step = np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1))
                rows[i, c] = rows[i - 1, c] + step if i > bounds[e] else step
    return True
