"""Texts as numbers: a hash of each text of a column, computed over its bytes at once. What has been hashed is kept in state, so it must never change."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

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
def _hash_all(data, bounds, out):  # type: ignore[no-untyped-def]
    for i in range(out.shape[0]):
        out[i] = hash_text(data, bounds[i], bounds[i + 1])


def hash_texts(texts: pa.Array) -> np.ndarray:
    """The hash of each text of a column, int64[n]; 0 for an empty one and for none at all."""
    if pa.types.is_dictionary(texts.type):
        codes = texts.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return np.append(hash_texts(texts.dictionary), 0)[codes]
    out = np.zeros(len(texts), np.int64)
    if texts.null_count == len(texts):
        return out
    _, bounds, data = texts.buffers()
    if data is not None:
        _hash_all(np.frombuffer(data, np.uint8), np.frombuffer(bounds, np.int32, len(texts) + 1, texts.offset * 4), out)
        if texts.null_count:
            out[texts.is_null().to_numpy(zero_copy_only=False)] = 0
    return out
