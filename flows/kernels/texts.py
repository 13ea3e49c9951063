"""A hash of a text, computed over its bytes. What has been hashed is kept in state, so it must never change."""

from __future__ import annotations

import numpy as np

from flows.compiled import compiled_in_place

_PRIME = np.uint64(0x100000001B3)
_BASIS = np.uint64(0xCBF29CE484222325)


@compiled_in_place
def hash_text(data, start, end):  # type: ignore[no-untyped-def]
    """FNV-1a of data[start:end], mixed once more so that its upper bits depend on all; 0 for an empty text, and for no other."""
    if start == end:
        return np.int64(0)
    h = _BASIS
    for i in range(start, end):
        h = (h ^ np.uint64(data[i])) * _PRIME
    h ^= h >> np.uint64(32)
    h *= np.uint64(0x94D049BB133111EB)
    h ^= h >> np.uint64(29)
    return np.int64(h) if h != 0 else np.int64(1)


@compiled_in_place
def hash_each(data, bounds, out):  # type: ignore[no-untyped-def]
    """Fill out[i] with the hash of data[bounds[i]:bounds[i + 1]]."""
    for i in range(out.shape[0]):
        out[i] = hash_text(data, bounds[i], bounds[i + 1])
