"""Counters of pins: what all ACTIONS partitions put out about them, gathered over a whole round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from flows.corrections.history import GoneOut, History
from flows.errors import CorruptionError
from flows.kernels.gathering import REVISIT_COLUMNS, indexes, numbered, places, revisit_keys, table_of
from flows.kernels.points import Revisits
from flows.kernels.tracks import Tracks
from flows.outputs import REVISITS
from flows.partition import partition_of
from flows.point_in_time.asked import Asked, PinsAt
from flows.point_in_time.collecting import Collector, Pass, Reach, Taker
from flows.point_in_time.gathered import Gathered, Room
from flows.point_in_time.prefixes import ChangeCounts
from flows.positions import Positions
from flows.state.actions_task import JudgedBatch

# Queries that are answered together, or a few more.
_BLOCK = 1 << 17
_EMITTED = ("pin_id", "user_id", "time", "kind", "weight")


@dataclass(frozen=True, eq=False)
class PinPart:
    """Answers to some queries: which ones, int64[k], and a row for each."""

    query: np.ndarray
    found: PinsAt


class _Pins(Collector):
    """Queries of pins whose prefixes are all of one kind.

    Parameters
    ----------
    asked : Asked
    queries : int64[n]
        Which of those that are asked.
    answer : callable
        Given each part of the answer as it is there.
    """

    def __init__(self, asked: Asked, queries: np.ndarray, answer: Callable[[PinPart], None]) -> None:
        self._asked_ids, self._asked_times = np.asarray(asked.entity, np.int64), asked.times()
        self._queries, self._answer = queries, answer

    def pending(self) -> bool:
        return len(self._queries) > 0

    def begin(self) -> None:
        ids = self._asked_ids[self._queries]
        self.distinct, self._entity = np.unique(ids, return_inverse=True)
        self.table = table_of(self.distinct)
        self.room, self.rows = Room(len(self.distinct)), Gathered(len(REVISIT_COLUMNS))

    def keep(self, changes: np.ndarray, order: np.ndarray, stream: int) -> None:
        """Changes, int64[m, 5 or more] as the kernel says them, with the order of each in its stream."""
        pin, user, time, kind, weight = changes.T[:5]
        entity = indexes(self.table, np.ascontiguousarray(pin))
        rows = np.column_stack([entity, user, revisit_keys(time, kind), order, places(stream, weight)])
        self.rows.add(rows[(entity >= 0) & (entity < self.room.below)])
        self.room.make(self.rows)

    def settle(self, limits_of: Callable[[np.ndarray], list[tuple[np.ndarray, np.ndarray, np.ndarray]]]) -> None:
        """Answer all queries of pins whose rows were kept; what `limits_of` gives of some queries: parts, and the mark and limits of each."""
        now = np.flatnonzero(self._entity < self.room.below)
        revisits, entity, queries = Revisits(self.rows.take(), len(self.distinct)), self._entity[now], self._queries[now]
        for part, mark, limits in limits_of(queries):
            for some in _blocks(entity[part]):
                chosen = part[some]
                tracks = Tracks(entity[chosen], self._asked_times[queries[chosen]], mark[some], limits)
                self._answer(PinPart(queries[chosen], PinsAt(*revisits.at(tracks))))
        self._queries = self._queries[self._entity >= self.room.below]


def _blocks(entity: np.ndarray) -> Iterator[np.ndarray]:
    """Queries in parts, each ascending; all of an entity in one, so that its rows are looked at once."""
    order = np.argsort(entity, kind="stable")
    begin = 0
    while begin < len(order):
        end = int(np.searchsorted(entity[order], entity[order[min(begin + _BLOCK, len(order)) - 1]], "right"))
        yield np.sort(order[begin:end])
        begin = end


class PinsArrived(_Pins):
    """By what had arrived: one stream, in which a change has the order of its arrival."""

    def __init__(self, asked: Asked, queries: np.ndarray, answer: Callable[[PinPart], None]) -> None:
        super().__init__(asked, queries, answer)
        self._arrivals = asked.arrivals()

    def numbers(self, partition: int, history: History) -> set[int]:
        return {history.generation}

    def taker(self, of: Pass) -> Taker | None:
        return _Arriving(self)

    def end(self) -> None:
        self.settle(lambda queries: [(np.arange(len(queries)), np.arange(len(queries)), self._arrivals[queries][:, None] + 1)])

    @property
    def newest(self) -> int:
        """The latest arrival that a query takes."""
        return int(self._arrivals[self._queries].max())


class _Arriving(Taker):
    def __init__(self, pins: PinsArrived) -> None:
        self._pins, self.reach = pins, Reach(arrival=pins.newest)

    def take(self, done: JudgedBatch, first: int) -> None:
        changes = done.judged.changes
        self._pins.keep(changes, done.arrival[changes[:, 5]], 0)

    def end(self) -> None:
        """Nothing is left to do."""


@dataclass
class _Origin:
    """What prefixes hold of one ACTIONS partition, by prefix and partition of REVISITS.

    Attributes
    ----------
    number, position, left : int64[m, partitions]
        The changes as correction `number` makes them, before `position`, and `left` more.
    emitted : list
        (prefix, partition, changes int64[k, 5]) that a correction put out, as far as it had come.
    """

    number: np.ndarray
    position: np.ndarray
    left: np.ndarray
    emitted: list[tuple[int, int, np.ndarray]] = field(default_factory=list)


class PinsByPosition(_Pins):
    """By how many changes of each origin were applied: a stream for each origin and correction, in which a change has its number.

    Parameters
    ----------
    beyond : callable, optional
        Given prefixes (which of `asked.positions`) under which more changes of pins of a partition were applied than the log leads to, and the
        partition: what is answered there says nothing. Without it that is an error.
    """

    def __init__(
        self,
        asked: Asked,
        queries: np.ndarray,
        histories: Sequence[History],
        partitions: int,
        answer: Callable[[PinPart], None],
        beyond: Callable[[np.ndarray, int], None] | None = None,
    ) -> None:
        super().__init__(asked, queries, answer)
        self._beyond = beyond
        self._positions: Sequence[Positions] = asked.positions
        self._marks = asked.marks()
        self.partitions = partitions
        self._homes = partition_of(self._asked_ids, partitions)
        self.applied = np.array([p.applied for p in self._positions], np.int64)  # [m, partition, origin]
        self.origins = [self._origin(origin, history) for origin, history in enumerate(histories)]

    def _origin(self, origin: int, history: History) -> _Origin:
        applied = self.applied[:, :, origin]
        found = _Origin(np.zeros_like(applied), np.zeros_like(applied), applied.copy())
        if any(c.made.position is not None for c in history.corrections):
            known: dict[tuple[int, int], GoneOut] = {}
            for m in range(len(applied)):
                for partition in range(self.partitions):
                    count = int(applied[m, partition])
                    if (partition, count) not in known:
                        known[partition, count] = history.gone_out(REVISITS, partition, count)
                    span = known[partition, count]
                    found.number[m, partition], found.position[m, partition] = span.corrected_to, span.position
                    found.left[m, partition] = span.left
                    if len(span.emitted):
                        changes = np.column_stack([span.emitted.column(name).to_numpy().astype(np.int64) for name in _EMITTED])
                        # Those of weight 0 only mark where a correction begins and ends.
                        found.emitted.append((m, partition, changes[changes[:, 4] != 0]))
        return found

    def begin(self) -> None:
        super().begin()
        self._streams: list[tuple[int, int, ChangeCounts]] = []
        self._whole: list[tuple[int, int]] = []  # of what corrections put out: (prefix, partition), a stream each

    def numbers(self, partition: int, history: History) -> set[int]:
        return {int(number) for number in np.unique(self.origins[partition].number)} if len(self._positions) else set()

    def taker(self, of: Pass) -> Taker | None:
        origin = self.origins[of.partition]
        mine = origin.number == of.corrected_to
        if not mine.any():
            return None
        counts = ChangeCounts(origin.position[mine], self.partitions)
        self._streams.append((of.partition, of.corrected_to, counts))
        end = max(int(p.actions[of.partition]) for p in self._positions)
        return _Numbering(self, counts, len(self._streams) - 1, max(end, int(origin.position[mine].max())))

    def end(self) -> None:
        for origin in self.origins:
            for m, partition, changes in origin.emitted:
                self.keep(changes, np.zeros(len(changes), np.int64), len(self._streams) + len(self._whole))
                self._whole.append((m, partition))
        self.settle(self._limits_of)

    def _limits_of(self, queries: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """By partition of REVISITS, for of each one other changes lie in a prefix."""
        homes = self._homes[queries]
        return [(part := np.flatnonzero(homes == home), self._marks[queries[part]], self._limits(int(home))) for home in np.unique(homes)]

    def _limits(self, home: int) -> np.ndarray:
        limits = np.zeros((len(self._positions), len(self._streams) + len(self._whole)), np.int64)
        for stream, (partition, number, counts) in enumerate(self._streams):
            origin = self.origins[partition]
            mine = origin.number[:, home] == number
            limits[mine, stream] = counts.before(origin.position[mine, home], home) + origin.left[mine, home]
            beyond = np.flatnonzero(limits[:, stream] > counts.now[home])
            if len(beyond) and self._beyond is not None:
                self._beyond(beyond, home)
            elif len(beyond):
                raise CorruptionError(
                    f"log 'actions', partition {partition}, leads to {counts.now[home]} changes of pins of partition {home}, and "
                    f"{limits[:, stream].max()} were applied where a row was served: the log has lost records, or the positions are of another "
                    "data directory"
                )
        for k, (m, partition) in enumerate(self._whole):
            if partition == home:
                limits[m, len(self._streams) + k] = 1
        return limits


class _Numbering(Taker):
    def __init__(self, pins: PinsByPosition, counts: ChangeCounts, stream: int, end: int) -> None:
        self._pins, self._counts, self._stream = pins, counts, stream
        self.reach = Reach(position=end)

    def take(self, done: JudgedBatch, first: int) -> None:
        changes = done.judged.changes
        homes = partition_of(np.ascontiguousarray(changes[:, 0]), self._pins.partitions)
        if len(done.offsets):
            self._counts.add(done.offsets[changes[:, 5]], homes, int(done.offsets[-1]))
        self._pins.keep(changes, numbered(homes, self._counts.now), self._stream)

    def end(self) -> None:
        self._counts.end()


def joined_pins(parts: list[PinPart], n: int, columns: int) -> PinsAt:
    """Parts as one answer to n queries."""
    values, found = np.zeros((n, columns), np.int64), np.zeros(n, np.bool_)
    for part in parts:
        values[part.query], found[part.query] = part.found.values, part.found.found
    return PinsAt(values, found)
