"""Buckets are a pure function, even, and independent of each other; their definition must never change while a holdout is on."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from online_model.registry.buckets import BUCKETS, bucket_of

MASK = (1 << 64) - 1
PINNED = [721, 5156, 1867]


def naive(user_id: int, salt: str) -> int:
    """SplitMix64 by the book, in whole numbers."""

    def mixed(value: int) -> int:
        z = (value + 0x9E3779B97F4A7C15) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    seed = int.from_bytes(hashlib.blake2b(salt.encode(), digest_size=8).digest(), "little")
    return mixed(mixed(user_id & MASK) ^ seed) % 10_000


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=8), st.text(max_size=8))
def test_it_is_what_it_says(ids: list[int], salt: str) -> None:
    assert bucket_of(np.array(ids, np.int64), salt).tolist() == [naive(user, salt) for user in ids]


def test_it_stays_what_it_was() -> None:
    """A user who changed buckets would change models."""
    assert bucket_of(np.array([1, 2, 3]), "holdout").tolist() == PINNED


def test_buckets_are_even_and_independent() -> None:
    users = np.arange(1_000_000)
    a, b = bucket_of(users, "a"), bucket_of(users, "b")
    counts = np.bincount(a, minlength=BUCKETS)
    # Chi-squared of 9,999 degrees: its standard deviation is 141.
    assert abs(((counts - 100) ** 2 / 100).sum() - (BUCKETS - 1)) < 5 * 141
    both = ((a < 1000) & (b < 1000)).mean()
    assert abs(both - 0.01) < 0.0006
