"""How fresh a user's vector is when a pin is to be found by it: what was known is a prefix of their actions, and never one of the pin's own moment.

Once: actions before the window. Daily: actions before the begin of the day of the pin, days being counted from the window's begin. Realtime:
actions strictly before the pin's.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from flows.settings import DAY_MS
from online_model.embedding.sequences import UserSequences


class Refresh(StrEnum):
    """How often users' vectors are made anew."""

    ONCE = "once"
    DAILY = "daily"
    REALTIME = "realtime"


def known_before(refresh: Refresh, time_ms: np.ndarray, begin_ms: int) -> np.ndarray:
    """The moment before which actions are known, of pins acted on at some times in the window: int64[n], ms."""
    if refresh is Refresh.ONCE:
        return np.full(len(time_ms), begin_ms, np.int64)
    if refresh is Refresh.DAILY:
        return begin_ms + (time_ms - begin_ms) // DAY_MS * DAY_MS
    return time_ms.astype(np.int64)


def counts_before(sequences: UserSequences, users: np.ndarray, before_ms: np.ndarray) -> np.ndarray:
    """How many actions each user has strictly before a moment.

    Parameters
    ----------
    sequences : UserSequences
    users : int64[n]
        Places.
    before_ms : int64[n]

    Returns
    -------
    int64[n]
    """
    if not len(sequences.time_ms):
        return np.zeros(len(users), np.int64)
    low = int(sequences.time_ms.min())
    span = int(sequences.time_ms.max()) - low + 2
    # One sorted column of (user, time): users are apart by more than any time.
    keys = sequences.owner * np.int64(span) + (sequences.time_ms - low)
    asked = users * np.int64(span) + np.clip(before_ms - low, 0, span - 1)
    return np.searchsorted(keys, asked) - sequences.offsets[users]


def prefixes(sequences: UserSequences, users: np.ndarray, before_ms: np.ndarray, most: int) -> tuple[UserSequences, np.ndarray]:
    """Users as they were known at some moments, each of which is inferred once, however many pins ask for it.

    Parameters
    ----------
    sequences : UserSequences
    users : int64[n]
    before_ms : int64[n]
    most : int
        Of the newest actions of each that are looked at.

    Returns
    -------
    (UserSequences of q users, int64[n])
        Which of them each asks for.
    """
    counts = counts_before(sequences, users, before_ms)
    asked, which = np.unique(np.column_stack([users, counts]), axis=0, return_inverse=True)
    first = sequences.offsets[asked[:, 0]]
    last = first + asked[:, 1]
    return sequences.stretches(asked[:, 0], np.maximum(last - most, first), last), which.reshape(-1)
