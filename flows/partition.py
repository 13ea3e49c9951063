"""The partition of a user: what a Java Kafka producer picks for the user's ID as a string key.

Murmur2 (seed 0x9747b28c) of the decimal ASCII of the ID, without its sign bit, modulo the number of partitions. It decides where history
lies, so it must never change.
"""

from __future__ import annotations

import numpy as np

from flows.compiled import compiled

_SEED = np.uint32(0x9747B28C)
_M = np.uint32(0x5BD1E995)
_LONGEST = 20  # "-9223372036854775808"


@compiled
def murmur2(data: np.ndarray, start: int, length: int) -> np.uint32:
    """Kafka's murmur2 of ``data[start : start + length]`` (uint8), as an unsigned number."""
    h = np.uint32(_SEED ^ np.uint32(length))
    at = start
    for _ in range(length >> 2):
        k = np.uint32(data[at]) | (np.uint32(data[at + 1]) << np.uint32(8))
        k = np.uint32(k | (np.uint32(data[at + 2]) << np.uint32(16)) | (np.uint32(data[at + 3]) << np.uint32(24)))
        k = np.uint32(k * _M)
        k = np.uint32(k ^ (k >> np.uint32(24)))
        h = np.uint32(np.uint32(h * _M) ^ np.uint32(k * _M))
        at += 4
    left = length & 3
    if left == 3:
        h = np.uint32(h ^ (np.uint32(data[at + 2]) << np.uint32(16)))
    if left >= 2:
        h = np.uint32(h ^ (np.uint32(data[at + 1]) << np.uint32(8)))
    if left >= 1:
        h = np.uint32(np.uint32(h ^ np.uint32(data[at])) * _M)
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(13))) * _M)
    return np.uint32(h ^ (h >> np.uint32(15)))


@compiled
def _partition_of(ids: np.ndarray, partitions: int, out: np.ndarray) -> None:
    digits = np.empty(_LONGEST, np.uint8)
    for i in range(ids.size):
        value = ids[i]
        # The magnitude as unsigned: the one of -2^63 is no int64.
        rest = np.uint64(value) if value >= 0 else np.uint64(0) - np.uint64(value)
        at = _LONGEST
        while True:
            at -= 1
            tenth = rest // np.uint64(10)
            digits[at] = np.uint8(np.uint64(48) + (rest - tenth * np.uint64(10)))
            rest = tenth
            if rest == 0:
                break
        if value < 0:
            at -= 1
            digits[at] = np.uint8(45)
        out[i] = np.int32(np.int64(murmur2(digits, at, _LONGEST - at) & np.uint32(0x7FFFFFFF)) % partitions)


def partition_of(ids: np.ndarray, partitions: int) -> np.ndarray:
    """The partition of each user ID.

    Parameters
    ----------
    ids : int64 array
    partitions : int

    Returns
    -------
    int32 array
    """
    ids = np.ascontiguousarray(ids, np.int64)
    out = np.empty(ids.size, np.int32)
    _partition_of(ids, partitions, out)
    return out
