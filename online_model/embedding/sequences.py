"""Actions of many users as columns: what every part of an embedding reads. Nothing here knows where they came from, or changes them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class UserSequences:
    """Actions of n users, k in all.

    Attributes
    ----------
    user_ids : int64[n]
        Ascending.
    offsets : int64[n + 1]
        The actions of user i are offsets[i] to offsets[i + 1], ascending in time, those of one moment in the order in which they came.
    pin : int32[k]
        Places in `pin_ids`.
    action, surface : int16[k]
        Codes.
    duration_ms : int64[k]
        0 where nobody said.
    time_ms : int64[k]
        Since 1970.
    pin_ids : int64[m]
        Ascending.
    actions, surfaces : mapping of str to int
        What the codes mean.
    """

    user_ids: np.ndarray
    offsets: np.ndarray
    pin: np.ndarray
    action: np.ndarray
    surface: np.ndarray
    duration_ms: np.ndarray
    time_ms: np.ndarray
    pin_ids: np.ndarray
    actions: Mapping[str, int]
    surfaces: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def lengths(self) -> np.ndarray:
        """How many actions each user has: int64[n]."""
        return np.diff(self.offsets)

    @cached_property
    def owner(self) -> np.ndarray:
        """Whose each action is, as a place in `user_ids`: int64[k]."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def take(self, users: np.ndarray) -> UserSequences:
        """Some users, by their places, ascending; the codes of pins stay."""
        users = np.asarray(users, np.int64)
        return self.stretches(users, self.offsets[users], self.offsets[users + 1])

    def stretches(self, users: np.ndarray, first: np.ndarray, last: np.ndarray) -> UserSequences:
        """Stretches of users' actions, each as if it were a user of its own.

        Parameters
        ----------
        users : int64[q]
            Places; one may come several times.
        first, last : int64[q]
            Actions first up to, but not with, last of all that there are: of that user alone.
        """
        lengths = last - first
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return self._at(np.repeat(first - offsets[:-1], lengths) + np.arange(offsets[-1]), self.user_ids[users], offsets)

    def where(self, kept: np.ndarray) -> UserSequences:
        """The actions that are marked in bool[k]; users stay, maybe without any."""
        counts = np.bincount(self.owner[kept], minlength=len(self))
        return self._at(np.flatnonzero(kept), self.user_ids, np.concatenate([[0], np.cumsum(counts)]))

    def until(self, as_of_ms: int | np.ndarray) -> UserSequences:
        """Actions up to a moment, or up to one for each user: int64[n]."""
        ends = np.broadcast_to(np.asarray(as_of_ms, np.int64), len(self))
        return self.where(self.time_ms <= ends[self.owner])

    def newest(self, count: int) -> UserSequences:
        """At most `count` actions of each user, the last ones."""
        return self.where(np.arange(len(self.pin)) >= (self.offsets[1:] - count)[self.owner])

    def _at(self, at: np.ndarray, user_ids: np.ndarray, offsets: np.ndarray) -> UserSequences:
        columns = {name: getattr(self, name)[at] for name in ("pin", "action", "surface", "duration_ms", "time_ms")}
        return replace(self, user_ids=user_ids, offsets=offsets, **columns)

    def digest(self) -> str:
        """BLAKE2b, 16 bytes in hex, of users, actions and pins: equal sequences have one, whatever became of codes of pins that nobody met."""
        found = hashlib.blake2b(digest_size=16)
        for column in (self.user_ids, self.offsets, self.pin_ids[self.pin], self.action, self.surface, self.duration_ms, self.time_ms):
            found.update(np.ascontiguousarray(column).data)
        return found.hexdigest()


def sequences_of(
    user_id: np.ndarray,
    pin_id: np.ndarray,
    action: np.ndarray,
    surface: np.ndarray,
    duration_ms: np.ndarray,
    time_ms: np.ndarray,
    actions: Mapping[str, int],
    surfaces: Mapping[str, int],
) -> UserSequences:
    """Sequences of actions in the order in which they came: int64[k] each."""
    order = np.lexsort((time_ms, user_id))
    user_ids, counts = np.unique(user_id, return_counts=True)
    pin_ids, pin = np.unique(pin_id[order], return_inverse=True)
    return UserSequences(
        user_ids.astype(np.int64),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        pin.astype(np.int32),
        action[order].astype(np.int16),
        surface[order].astype(np.int16),
        np.asarray(duration_ms)[order].astype(np.int64),
        np.asarray(time_ms)[order].astype(np.int64),
        pin_ids.astype(np.int64),
        dict(actions),
        dict(surfaces),
    )
