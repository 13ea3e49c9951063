"""Which log partition a user lies in: Java Kafka's murmur2 of the decimal ID."""

from __future__ import annotations

_MASK = 0xFFFFFFFF
_SEED = 0x9747B28C
_M = 0x5BD1E995
_R = 24


def murmur2(data: bytes) -> int:
    """`org.apache.kafka.common.utils.Utils.murmur2`, as Java's signed int.

    Parameters
    ----------
    data : bytes
        The serialised key.
    """
    length = len(data)
    h = _SEED ^ length
    whole = length - length % 4
    for start in range(0, whole, 4):
        k = int.from_bytes(data[start : start + 4], "little")
        k = k * _M & _MASK
        k ^= k >> _R
        k = k * _M & _MASK
        h = h * _M & _MASK
        h ^= k
    tail = data[whole:]
    if tail:
        h ^= int.from_bytes(tail, "little")
        h = h * _M & _MASK
    h ^= h >> 13
    h = h * _M & _MASK
    h ^= h >> 15
    return h - 2**32 if h >= 2**31 else h


def partition_of(user_id: int, partitions: int) -> int:
    """The partition that Java's default partitioner gives to the key ``str(user_id)``."""
    return (murmur2(str(int(user_id)).encode("ascii")) & 0x7FFFFFFF) % partitions
