"""The partition of a user: what a Java Kafka producer picks for the user's ID as a string key.

Murmur2 (seed 0x9747b28c) of the decimal ASCII of the ID, without its sign bit, modulo the number of partitions. It decides where history
lies, so it must never change.
"""

from __future__ import annotations

import numpy as np

from flows.compiled import compiled

_SEED = np.uint32(0x9747B28C)
_M = np.uint32(0x5BD1E995)
_BASE = np.uint64(10_000)
_SIGNED = np.uint64(1_110)


def _words() -> np.ndarray:
    """Of each four digits, what murmur2 makes of them before it adds them to its hash; behind these, of a minus sign and each three digits."""
    texts = [b"%04d" % i for i in range(10_000)] + [b"-%03d" % i for i in range(1_000)]
    k = np.frombuffer(b"".join(texts), "<u4") * _M
    return ((k ^ (k >> np.uint32(24))) * _M).astype(np.uint32)


def _ends() -> np.ndarray:
    """Of each one, two and three digits, the word that murmur2 adds at the end; behind these, of a minus sign and each one and two digits."""
    texts = [b"%0*d" % (digits, i) for digits in (1, 2, 3) for i in range(10**digits)]
    texts += [b"-%0*d" % (digits, i) for digits in (1, 2) for i in range(10**digits)]
    return np.frombuffer(b"".join(text.ljust(4, b"\0") for text in texts), "<u4").astype(np.uint32)


_WORDS, _ENDS = _words(), _ends()
_TENS = np.array([10**i for i in range(20)], np.uint64)


@compiled
def _partition_of(ids, partitions, words, ends, tens, out):  # type: ignore[no-untyped-def]
    """Murmur2 by four digits at a time, from tables, without writing the text: each record of a log is looked at."""
    found = np.zeros(5, np.uint32)
    digits = 1
    for i in range(ids.size):
        value = ids[i]
        negative = value < 0
        # The magnitude as unsigned: the one of -2^63 is no int64.
        rest = np.uint64(0) - np.uint64(value) if negative else np.uint64(value)
        # Most IDs are as long as the one before.
        while rest >= tens[digits]:
            digits += 1
        while digits > 1 and rest < tens[digits - 1]:
            digits -= 1
        length = digits + 1 if negative else digits
        h = np.uint32(_SEED ^ np.uint32(length))
        left = length & 3
        end = rest
        if negative and digits < 3:
            end += _SIGNED if digits == 1 else _SIGNED + np.uint64(10)
        elif left == 1:
            upper = rest // np.uint64(10)
            end, rest = rest - upper * np.uint64(10), upper
        elif left == 2:
            upper = rest // np.uint64(100)
            end, rest = np.uint64(10) + (rest - upper * np.uint64(100)), upper
        elif left == 3:
            upper = rest // np.uint64(1000)
            end, rest = np.uint64(110) + (rest - upper * np.uint64(1000)), upper
        last = (length >> 2) - 1
        for k in range(last, 0, -1):
            upper = rest // _BASE
            found[k] = words[rest - upper * _BASE]
            rest = upper
        if last >= 0:
            h = np.uint32(np.uint32(h * _M) ^ words[rest + _BASE if negative else rest])
        for k in range(1, last + 1):
            h = np.uint32(np.uint32(h * _M) ^ found[k])
        if left:
            h = np.uint32(np.uint32(h ^ ends[end]) * _M)
        h = np.uint32(np.uint32(h ^ (h >> np.uint32(13))) * _M)
        h = np.uint32(h ^ (h >> np.uint32(15)))
        out[i] = np.int32((h & np.uint32(0x7FFFFFFF)) % np.uint32(partitions))


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
    _partition_of(ids, partitions, _WORDS, _ENDS, _TENS, out)
    return out
