"""Statistics of topics: saves and first clicks of all ACTIONS partitions, gathered over a whole round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flows.corrections.history import History
from flows.events import hash_id
from flows.kernels.gathering import MOVE_COLUMNS, indexes, places, table_of
from flows.kernels.points import topics_at
from flows.kernels.tracks import Tracks
from flows.point_in_time.asked import Asked, TopicsAt
from flows.point_in_time.collecting import Collector, Pass, Reach, Taker
from flows.point_in_time.gathered import Gathered, Room
from flows.point_in_time.prefixes import Ends
from flows.state.actions_task import JudgedBatch


@dataclass(frozen=True, eq=False)
class TopicPart:
    """Answers to some queries: which ones, int64[k], and a row for each."""

    query: np.ndarray
    found: TopicsAt


class _Topics(Collector):
    """Queries of topics whose prefixes are all of one kind; as `pins._Pins`."""

    def __init__(self, asked: Asked, queries: np.ndarray, answer: Callable[[TopicPart], None]) -> None:
        known: dict[str, int] = {}
        for name in asked.entity:
            if name not in known:
                # No save has the topic "": 0 stands for it, and no move bears that.
                known[name] = hash_id(name) if name else 0
        self._asked_ids = np.array([known[name] for name in asked.entity], np.int64)
        self._asked_times, self._queries, self._answer = asked.times(), queries, answer

    def pending(self) -> bool:
        return len(self._queries) > 0

    def begin(self) -> None:
        self.distinct, self._entity = np.unique(self._asked_ids[self._queries], return_inverse=True)
        self.table = table_of(self.distinct)
        self.room, self.rows = Room(len(self.distinct)), Gathered(len(MOVE_COLUMNS))

    def keep(self, moves: np.ndarray, order: np.ndarray, stream: int) -> None:
        """Moves as the kernel says them, with the order of each in its stream."""
        topic, save, click, weight, _ = moves.T
        entity = indexes(self.table, np.ascontiguousarray(topic))
        rows = np.column_stack([entity, save, click, order, places(stream, weight)])
        self.rows.add(rows[(entity >= 0) & (entity < self.room.below)])
        self.room.make(self.rows)

    def settle(self, limits_of: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]) -> None:
        """Answer all queries of topics whose rows were kept; `limits_of` gives marks and limits of queries."""
        now = np.flatnonzero(self._entity < self.room.below)
        queries = self._queries[now]
        mark, limits = limits_of(queries)
        tracks = Tracks(self._entity[now], self._asked_times[queries], mark, limits)
        values, found = topics_at(self.rows.take(), len(self.distinct), tracks)
        self._answer(TopicPart(queries, TopicsAt(values, found)))
        self._queries = self._queries[self._entity >= self.room.below]


class TopicsArrived(_Topics):
    """By what had arrived: one stream, in which a move has the order of its arrival."""

    def __init__(self, asked: Asked, queries: np.ndarray, answer: Callable[[TopicPart], None]) -> None:
        super().__init__(asked, queries, answer)
        self._arrivals = asked.arrivals()

    def numbers(self, partition: int, history: History) -> set[int]:
        return {history.generation}

    def taker(self, of: Pass) -> Taker | None:
        return _Arriving(self, int(self._arrivals[self._queries].max()))

    def end(self) -> None:
        self.settle(lambda queries: (np.arange(len(queries)), self._arrivals[queries][:, None] + 1))


class _Arriving(Taker):
    def __init__(self, topics: TopicsArrived, newest: int) -> None:
        self._topics, self.reach = topics, Reach(arrival=newest)

    def take(self, done: JudgedBatch, first: int) -> None:
        moves = done.judged.moves
        self._topics.keep(moves, done.arrival[moves[:, 4]], 0)

    def end(self) -> None:
        """Nothing is left to do."""


class TopicsByPosition(_Topics):
    """By the positions of all ACTIONS partitions: a stream for each of them and correction, in which a move has the number of its cause."""

    def __init__(self, asked: Asked, queries: np.ndarray, answer: Callable[[TopicPart], None]) -> None:
        super().__init__(asked, queries, answer)
        self._marks = asked.marks()
        self._actions = np.array([p.actions for p in asked.positions], np.int64)
        self._corrected = np.array([p.corrected_to for p in asked.positions], np.int64)

    def begin(self) -> None:
        super().begin()
        self._streams: list[tuple[np.ndarray, np.ndarray, Ends]] = []

    def numbers(self, partition: int, history: History) -> set[int]:
        return {int(number) for number in np.unique(self._corrected[:, partition])}

    def taker(self, of: Pass) -> Taker | None:
        mine = self._corrected[:, of.partition] == of.corrected_to
        if not mine.any():
            return None
        positions = self._actions[mine, of.partition]
        ends = Ends(np.empty(0, np.int64), positions)
        self._streams.append((mine, positions, ends))
        return _Numbering(self, ends, len(self._streams) - 1, int(positions.max()))

    def end(self) -> None:
        limits = np.zeros((len(self._actions), max(1, len(self._streams))), np.int64)
        for stream, (mine, positions, ends) in enumerate(self._streams):
            limits[mine, stream] = ends.of_positions(positions)
        self.settle(lambda queries: (self._marks[queries], limits))


class _Numbering(Taker):
    def __init__(self, topics: TopicsByPosition, ends: Ends, stream: int, end: int) -> None:
        self._topics, self._ends, self._stream, self.reach = topics, ends, stream, Reach(position=end)

    def take(self, done: JudgedBatch, first: int) -> None:
        self._ends.add(done)
        moves = done.judged.moves
        self._topics.keep(moves, first + moves[:, 4], self._stream)

    def end(self) -> None:
        self._ends.end()


def joined_topics(parts: list[TopicPart], n: int, columns: int) -> TopicsAt:
    """Parts as one answer to n queries."""
    values, found = np.zeros((n, columns), np.float64), np.zeros(n, np.bool_)
    for part in parts:
        values[part.query], found[part.query] = part.found.values, part.found.found
    return TopicsAt(values, found)
