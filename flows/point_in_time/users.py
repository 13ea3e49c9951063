"""Sequences and counters of users: each partition by itself, answered as soon as it has been passed over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flows.corrections.history import History
from flows.features import SEQUENCE_LENGTH, USER_COUNTERS
from flows.kernels.gathering import ENTRY_COLUMNS, REVISIT_COLUMNS, entry_rows, indexes, places, revisit_keys, table_of
from flows.kernels.points import Entries, Revisits
from flows.kernels.rows import SEQUENCE_CODES
from flows.kernels.tracks import Tracks
from flows.partition import partition_of
from flows.point_in_time.asked import Asked, UsersAt
from flows.point_in_time.collecting import Collector, Pass, Reach, Taker
from flows.point_in_time.gathered import Gathered, Room
from flows.point_in_time.prefixes import Ends
from flows.state.actions_task import JudgedBatch

# Queries that are answered together: with the longest sequences, some 100 MB.
_PART = 8_192


@dataclass(frozen=True, eq=False)
class UserPart:
    """Answers to some queries.

    Attributes
    ----------
    query : int64[k]
        Which ones, ascending.
    found : UsersAt
        A row for each.
    """

    query: np.ndarray
    found: UsersAt


class Users(Collector):
    """See the module.

    Parameters
    ----------
    asked : Asked
    partitions : int
    sequences, counters : bool
        Which of them are wanted.
    answer : callable
        Given each part of the answer as it is there.
    """

    def __init__(self, asked: Asked, partitions: int, sequences: bool, counters: bool, answer: Callable[[UserPart], None]) -> None:
        self._ids = np.asarray(asked.entity, np.int64)
        self._times, self._marks, self._arrivals = asked.times(), asked.marks(), asked.arrivals()
        self._positions = asked.positions
        self.sequences, self.counters, self.answer = sequences, counters, answer
        homes = partition_of(self._ids, partitions)
        self._left = {int(p): np.flatnonzero(homes == p) for p in np.unique(homes)}
        self._corrected: dict[int, np.ndarray] = {}

    def pending(self) -> bool:
        return bool(self._left)

    def begin(self) -> None:
        self._corrected = {}

    def numbers(self, partition: int, history: History) -> set[int]:
        queries = self._left.get(partition)
        if queries is None:
            return set()
        marks = self._marks[queries]
        of_position = np.array([*(p.corrected_to[partition] for p in self._positions), history.generation], np.int64)
        self._corrected[partition] = of_position[marks]
        return {int(number) for number in np.unique(self._corrected[partition])}

    def taker(self, of: Pass) -> Taker | None:
        if of.partition not in self._corrected:
            return None
        queries = self._left[of.partition][self._corrected[of.partition] == of.corrected_to]
        return _Taking(self, of, queries) if len(queries) else None

    def end(self) -> None:
        """Partitions are answered as they end."""

    def leave(self, partition: int, queries: np.ndarray) -> None:
        """These queries are answered."""
        self._corrected[partition] = self._corrected[partition][keep := ~np.isin(self._left[partition], queries)]
        self._left[partition] = self._left[partition][keep]
        if not len(self._left[partition]):
            del self._left[partition], self._corrected[partition]

    def positions_of(self, partition: int) -> np.ndarray:
        """The position in a partition of each prefix that is given by position; behind them, a place for -1."""
        return np.array([*(p.actions[partition] for p in self._positions), 0], np.int64)

    def columns(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """IDs, times, marks and arrivals of queries."""
        return self._ids[queries], self._times[queries], self._marks[queries], self._arrivals[queries]


class _Taking(Taker):
    """Queries of one partition and one correction."""

    def __init__(self, users: Users, of: Pass, queries: np.ndarray) -> None:
        self._users, self._of, self._queries = users, of, queries
        ids, self._times, self._marks, self._arrivals = users.columns(queries)
        distinct, self._entity = np.unique(ids, return_inverse=True)
        self._table = table_of(distinct)
        self._room = Room(len(distinct))
        self._count = len(distinct)
        self._by_position = self._marks >= 0
        self._at = users.positions_of(of.partition)[self._marks]
        self._ends = Ends(self._arrivals[~self._by_position], self._at[self._by_position])
        self.reach = Reach()
        if not self._by_position.all():
            self.reach.also(arrival=int(self._arrivals[~self._by_position].max()))
        if self._by_position.any():
            self.reach.also(position=int(self._at[self._by_position].max()))
        self._entries, self._changes = Gathered(len(ENTRY_COLUMNS)), Gathered(len(REVISIT_COLUMNS))

    def take(self, done: JudgedBatch, first: int) -> None:
        self._ends.add(done)
        if self._users.sequences:
            c = done.columns
            rows = entry_rows(
                self._table, done.judged.status, c.action, c.surface, c.user_id, c.event_time, c.event_id, c.pin_id, c.duration_ms,
                self._of.judge.impression, done.offsets, first,
            )  # fmt: skip
            self._entries.add(rows if self._room.below == self._count else rows[rows[:, 0] < self._room.below])
        if self._users.counters:
            pin, user, time, kind, weight, record = done.judged.changes.T
            entity = indexes(self._table, np.ascontiguousarray(user))
            rows = np.column_stack([entity, pin, revisit_keys(time, kind), first + record, places(0, weight)])
            self._changes.add(rows[(entity >= 0) & (entity < self._room.below)])
        self._room.make(self._entries, self._changes)

    def end(self) -> None:
        self._ends.end()
        limit = np.empty(len(self._queries), np.int64)
        limit[self._by_position] = self._ends.of_positions(self._at[self._by_position])
        limit[~self._by_position] = self._ends.of_arrivals(self._arrivals[~self._by_position])
        now = np.flatnonzero(self._entity < self._room.below)
        entity, times, limit = self._entity[now], self._times[now], limit[now]
        values, found_counters = np.zeros((len(now), 0), np.int64), np.zeros(len(now), np.bool_)
        if self._users.counters:
            tracks = Tracks(entity, times, np.arange(len(now)), limit[:, None])
            values, found_counters = Revisits(self._changes.take(), self._count).at(tracks)
        entries = None
        if self._users.sequences:
            entries = Entries(self._entries.take(), self._count, entity, times, limit, SEQUENCE_LENGTH)
        self._users.leave(self._of.partition, self._queries[now])
        for begin in range(0, len(now), _PART):
            end = min(begin + _PART, len(now))
            taken = entries.of(begin, end) if entries is not None else np.empty((0, len(ENTRY_COLUMNS)), np.int64)
            offsets = (
                entries.offsets[begin : end + 1] - entries.offsets[begin] if entries is not None else np.zeros(end - begin + 1, np.int64)
            )
            codes = taken[:, SEQUENCE_CODES]
            found = UsersAt(
                offsets, taken[:, 4].copy(), (codes & 0xFF).astype(np.int16), (codes >> 8 & 0xFF).astype(np.int16), taken[:, 1].copy(),
                taken[:, 5].copy(), values[begin:end], np.diff(offsets) > 0, found_counters[begin:end],
            )  # fmt: skip
            self._users.answer(UserPart(self._queries[now[begin:end]], found))


def joined(parts: list[UserPart], n: int, counters: bool) -> UsersAt:
    """Parts as one answer to n queries; they are used up."""
    lengths = np.zeros(n + 1, np.int64)
    values = np.zeros((n, len(USER_COUNTERS) if counters else 0), np.int64)
    found_sequence, found_counters = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    for part in parts:
        lengths[part.query + 1] = np.diff(part.found.offsets)
        values[part.query] = part.found.counters
        found_sequence[part.query], found_counters[part.query] = part.found.found_sequence, part.found.found_counters
    offsets = np.cumsum(lengths)
    m = int(offsets[-1])
    pin_id, event_time, duration_ms = np.empty(m, np.int64), np.empty(m, np.int64), np.empty(m, np.int64)
    action, surface = np.empty(m, np.int16), np.empty(m, np.int16)
    while parts:
        part = parts.pop()
        begins, count = part.found.offsets[:-1], np.diff(part.found.offsets)
        to = np.repeat(offsets[part.query] - begins, count) + np.arange(part.found.offsets[-1])
        columns = (part.found.pin_id, part.found.action, part.found.surface, part.found.event_time, part.found.duration_ms)
        outs: tuple[np.ndarray, ...] = (pin_id, action, surface, event_time, duration_ms)
        for out, column in zip(outs, columns, strict=True):
            out[to] = column
    return UsersAt(offsets, pin_id, action, surface, event_time, duration_ms, values, found_sequence, found_counters)
