"""Which users get which base: a pure function of the user's ID, so that every server and every report agrees without asking."""

from __future__ import annotations

import hashlib

import numpy as np

BUCKETS = 10_000
"""Shares are given to a hundredth of a percent."""


def bucket_of(user_ids: np.ndarray, salt: str) -> np.ndarray:
    """The bucket of each user, as good as drawn by chance, and independent between salts.

    Parameters
    ----------
    user_ids : int64[n]
    salt : str

    Returns
    -------
    int32[n]
        0 to BUCKETS - 1.
    """
    seed = np.frombuffer(hashlib.blake2b(salt.encode(), digest_size=8).digest(), "<u8")
    # SplitMix64 (Steele, Lea, Flood 2014), twice: of the ID, then of that with the salt.
    return (_mixed(_mixed(np.asarray(user_ids, np.int64).view(np.uint64)) ^ seed) % np.uint64(BUCKETS)).astype(np.int32)


def _mixed(values: np.ndarray) -> np.ndarray:
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
