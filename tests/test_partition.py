"""Partitions agree with Kafka's own murmur2, restated here in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.partition import partition_of

INT64 = st.integers(-(2**63), 2**63 - 1)


def reference(data: bytes) -> int:
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = 0x9747B28C ^ len(data)
    whole = len(data) // 4 * 4
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k ^= k >> 24
        h = (h * m & mask) ^ (k * m & mask)
    tail = data[whole:]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h ^= h >> 13
    h = h * m & mask
    return h ^ (h >> 15)


@pytest.mark.parametrize(("text", "expected"), [(b"21", -973932308), (b"abc", 479470107), (b"foobar", -790332482)])
def test_murmur2_known_values(text: bytes, expected: int) -> None:
    assert reference(text) == expected & 0xFFFFFFFF


@settings(deadline=None)  # the first call compiles
@given(st.lists(INT64, max_size=40), st.sampled_from([1, 2, 3, 7, 8, 64, 4096]))
def test_partition_of_equals_reference(ids: list[int], partitions: int) -> None:
    expected = [(reference(str(i).encode()) & 0x7FFFFFFF) % partitions for i in ids]
    out = partition_of(np.array(ids, np.int64), partitions)
    assert out.dtype == np.int32
    assert out.tolist() == expected


def test_edges_of_int64_and_every_length() -> None:
    ids = [0, -1, 2**63 - 1, -(2**63), -(2**63) + 1] + [s * 10**k + d for k in range(19) for s in (1, -1) for d in (-1, 0, 1)]
    ids = [i for i in ids if -(2**63) <= i < 2**63]
    assert partition_of(np.array(ids, np.int64), 997).tolist() == [(reference(str(i).encode()) & 0x7FFFFFFF) % 997 for i in ids]


def test_strided_input() -> None:
    ids = np.arange(100, dtype=np.int64)
    assert partition_of(ids[::3], 8).tolist() == partition_of(ids, 8)[::3].tolist()
