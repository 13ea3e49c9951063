"""What entities say at a time, whatever holds their rows: task state, or Redis beside it.

One set of kernels finalises the rows of every store, so that all give the same answers. What a store holds may not reach back to a time; then the
kernels run over the log up to the position that the store reflects, and a store never answers from rows that are newer or fewer than that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from flows.features import TOPIC_STATS
from flows.kernels.reads import counters, group_bounds, newest, topic_statistics
from flows.kernels.rows import SEQUENCE_CODES, fold_sums, merge_rows
from flows.log import Log
from flows.outputs import ACTIONS, REVISITS
from flows.partition import partition_of
from flows.past import Past, PastUsers
from flows.settings import Settings
from flows.state import tables
from flows.state.meta import Meta
from flows.state.runs import Table
from flows.state.tables import LONGEST_WINDOW_MS


@dataclass(frozen=True)
class SequenceRows:
    """Action sequences of n users, newest first: user i's entries are offsets[i] to offsets[i + 1] of the other arrays."""

    offsets: np.ndarray
    pin_id: np.ndarray
    action: np.ndarray
    surface: np.ndarray
    event_time: np.ndarray
    duration_ms: np.ndarray
    found: np.ndarray
    as_of: int


@dataclass(frozen=True)
class CounterRows:
    """Counters of n entities: values int64[n, 24], in the declared order; found bool[n]."""

    values: np.ndarray
    found: np.ndarray
    as_of: int


@dataclass(frozen=True)
class TopicRows:
    """Statistics of n topics: values float64[n, 15], in the declared order; found bool[n]."""

    values: np.ndarray
    found: np.ndarray
    as_of: int


@dataclass(frozen=True)
class Tiles:
    """Folded tiles of one partition, int64[n, 4], and the names of their topics."""

    rows: np.ndarray
    names: dict[int, str]


class EntityReader:
    """Answers for entities of one data directory; where the rows come from is its subclass's matter.

    Parameters
    ----------
    settings : Settings
    progress : callable, optional
        Called with a number of log records whenever a read has to go through the log.
    """

    def __init__(self, settings: Settings, progress: Callable[[int], None] | None = None) -> None:
        self.settings = settings
        self.vocabulary = settings.load_vocabulary()
        self._past = Past(settings, self.vocabulary, self._actions, progress)

    # What a store adds ---------------------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Catch up with who writes."""
        raise NotImplementedError

    def close(self) -> None:
        """Release all that is open."""
        raise NotImplementedError

    def meta(self, flow: str, partition: int) -> Meta | None:
        """What a task's rows reflect, as of the last catch-up; None before its first commit.

        Raises
        ------
        StateError
            Its state is damaged, so that nothing can be said of its entities.
        """
        raise NotImplementedError

    @property
    def unreadable(self) -> Mapping[tuple[str, int], str]:
        """Tasks (flow and partition) whose state is damaged, and how: their entities can't be read, all others can."""
        return {}

    def rows_of(self, flow: str, table: Table, wanted: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Rows of entities (sorted, distinct), by partition: sorted, and whole as far as they go, folded or not."""
        raise NotImplementedError

    def tiles_of(self, partitions: Iterable[int], topics: list[str] | None) -> list[Tiles]:
        """Tiles of topics, or of all without any named; of more than those that are named, if that is easier."""
        raise NotImplementedError

    def _actions(self) -> Log:
        """The ACTIONS log, for times that the rows don't reach back to."""
        raise NotImplementedError

    # How far it is: of all tasks but those that are unreadable, of which no value can come ------------------------------------------

    def readable_meta(self, flow: str, partition: int) -> Meta | None:
        """What `meta` says; None too where the task is unreadable."""
        return None if (flow, partition) in self.unreadable else self.meta(flow, partition)

    def counts(self) -> dict[str, int]:
        """Records of ACTIONS by what became of them, over all partitions."""
        total: dict[str, int] = {}
        for p in range(self.settings.partitions):
            for name, n in (m.counts if (m := self.readable_meta(ACTIONS, p)) else {}).items():
                total[name] = total.get(name, 0) + n
        return dict(sorted(total.items()))

    def default_as_of(self) -> int | None:
        """Greatest accepted event_time over all partitions, None before the first event."""
        metas = [self.readable_meta(ACTIONS, p) for p in range(self.settings.partitions)]
        return max((m.watermark for m in metas if m is not None and m.watermark is not None), default=None)

    def positions(self) -> dict[str, list[int]]:
        """Position of every task that the rows reflect, by flow; 0 of one that none reflects."""
        return {
            flow: [m.position if (m := self.readable_meta(flow, p)) else 0 for p in range(self.settings.partitions)]
            for flow in (ACTIONS, REVISITS)
        }

    def user_position(self, user_id: int) -> dict[str, int]:
        """What a user's row reflects: its ACTIONS partition and position."""
        partition = int(partition_of(np.array([user_id], np.int64), self.settings.partitions)[0])
        meta = self.meta(ACTIONS, partition)
        return {"partition": partition, "position": meta.position if meta else 0}

    def pin_position(self, pin_id: int) -> dict[str, object]:
        """What a pin's row reflects: its REVISITS partition and, by origin, how many changes of it are applied."""
        partition = int(partition_of(np.array([pin_id], np.int64), self.settings.partitions)[0])
        meta = self.meta(REVISITS, partition)
        return {"partition": partition, "applied": {str(o): last + 1 for o, last in sorted(meta.applied.items())} if meta else {}}

    # Entities ------------------------------------------------------------------------------------------------------------------------

    def user_sequences(self, user_ids: np.ndarray, as_of: int | None = None) -> SequenceRows:
        """Action sequences of users, in the order asked."""
        time, ids = self._time(as_of), np.ascontiguousarray(user_ids, np.int64)

        def is_whole(rows: np.ndarray) -> bool:
            _, _, exact = newest(rows, group_bounds(rows[:, 0]), time)
            return bool(exact.all())

        held = self._held_rows(ACTIONS, tables.SEQUENCES, ids, None)
        if held is not None:
            rows, bounds = held
            index, offsets, exact = newest(rows, bounds, time)
        if held is None or not exact.all():
            rows, bounds = self._gather(
                ACTIONS, tables.SEQUENCES, ids, lambda meta: True, is_whole, lambda p, users: self._past_users(p, time, users).sequences
            )
            index, offsets, _ = newest(rows, bounds, time)
        taken = np.take(rows, index, axis=0)
        codes = taken[:, SEQUENCE_CODES]
        return SequenceRows(
            offsets, taken[:, 4], (codes & 0xFF).astype(np.int16), (codes >> 8 & 0xFF).astype(np.int16), taken[:, 1], taken[:, 5],
            np.diff(offsets) > 0, time,
        )  # fmt: skip

    def user_counters(self, user_ids: np.ndarray, as_of: int | None = None) -> CounterRows:
        """Revisit counters of users, in the order asked."""
        time = self._time(as_of)
        return self._counters(ACTIONS, user_ids, time, lambda p, ids: self._past_users(p, time, ids).revisits)

    def pin_counters(self, pin_ids: np.ndarray, as_of: int | None = None) -> CounterRows:
        """Revisit counters of pins, in the order asked."""
        time = self._time(as_of)
        return self._counters(REVISITS, pin_ids, time, lambda p, ids: self.past_pins(time, ids)[p])

    def topic_stats(self, topics: list[str], as_of: int | None = None) -> TopicRows:
        """Statistics of topics, in the order asked."""
        time = self._time(as_of)
        names, values = self._topics(time, topics)
        place = {name: i for i, name in enumerate(names)}
        found = np.array([t in place for t in topics], np.bool_)
        out = np.zeros((len(topics), len(TOPIC_STATS)), np.float64)
        for i, topic in enumerate(topics):
            if found[i]:
                out[i] = values[place[topic]]
        return TopicRows(out, found, time)

    def past_pins(self, as_of: int, pin_ids: np.ndarray | None) -> list[np.ndarray]:
        """Revisit rows of pins by running the kernels over the log."""
        # A pin's revisits may be of any user: of all tasks, or of none.
        actions, pins = ([self.meta(flow, p) for p in range(self.settings.partitions)] for flow in (ACTIONS, REVISITS))
        return self._past.pins([m.position if m else 0 for m in actions], [m.applied if m else {} for m in pins], as_of, pin_ids)

    # Inside --------------------------------------------------------------------------------------------------------------------------

    def _time(self, as_of: int | None) -> int:
        if as_of is not None:
            return as_of
        default = self.default_as_of()
        return default if default is not None else 0

    def _past_users(self, partition: int, as_of: int, user_ids: np.ndarray | None, every_label: bool = False) -> PastUsers:
        meta = self.meta(ACTIONS, partition)
        return self._past.users(partition, meta.position if meta else 0, as_of, user_ids, meta.corrected_to if meta else None, every_label)

    def _topics(self, as_of: int, topics: list[str] | None) -> tuple[list[str], np.ndarray]:
        """Topics with a save at or before `as_of`, by name, at least those that are named, and their statistics float64[n, 15]."""
        held, parts, names = list[int](), [np.empty((0, tables.TILES.columns), np.int64)], dict[int, str]()
        for partition in range(self.settings.partitions):
            meta = self.meta(ACTIONS, partition)
            if meta is None or meta.watermark is None:
                continue
            if reaches_all(meta, as_of):
                held.append(partition)
            else:
                past = self._past_users(partition, as_of, np.empty(0, np.int64))
                parts.append(past.tiles)
                names |= past.topics
        for tiles in self.tiles_of(held, topics):
            parts.append(tiles.rows)
            names |= tiles.names
        rows = fold_sums(merge_rows(parts, tables.TILES.keys), tables.TILES.keys)
        bounds = group_bounds(rows[:, 0])
        values = topic_statistics(rows, bounds, as_of)
        listed = [names[int(t)] for t in rows[bounds[:-1], 0]]
        order = sorted(range(len(listed)), key=lambda i: listed[i])
        return [listed[i] for i in order], values[order]

    def _counters(self, flow: str, ids: np.ndarray, time: int, past: Callable[[int, np.ndarray], np.ndarray]) -> CounterRows:
        ids = np.ascontiguousarray(ids, np.int64)
        held = self._held_rows(flow, tables.REVISITS, ids, time - LONGEST_WINDOW_MS)
        if held is None:
            held = self._gather(flow, tables.REVISITS, ids, lambda meta: reaches_counters(meta, time), lambda rows: True, past)
        values, found = counters(*held, time)
        return CounterRows(values, found, time)

    def _held_rows(self, flow: str, table: Table, ids: np.ndarray, expired_to: int | None) -> tuple[np.ndarray, np.ndarray] | None:
        """What `_gather` gives, of a store that can do it at once for all partitions; None where it can't, or none knows.

        Parameters
        ----------
        expired_to : int or None
            No row at or behind it may have expired.
        """
        return None

    def _gather(
        self,
        flow: str,
        table: Table,
        ids: np.ndarray,
        reaches: Callable[[Meta], bool],
        is_whole: Callable[[np.ndarray], bool],
        past: Callable[[int, np.ndarray], np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of entities, and where the rows of each one asked for lie: int64[n + 1] in the order asked."""
        ids = np.asarray(ids, np.int64)
        parts, starts, ends = [np.empty((0, table.columns), np.int64)], np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)
        total = 0
        homes = partition_of(ids, self.settings.partitions)
        wanted = {int(p): np.unique(ids[homes == p]) for p in np.unique(homes) if self.meta(flow, int(p)) is not None}
        held = self.rows_of(flow, table, {p: those for p, those in wanted.items() if (m := self.meta(flow, p)) is not None and reaches(m)})
        for partition, those in wanted.items():
            at = np.flatnonzero(homes == partition)
            rows = held.get(partition)
            if rows is None or not is_whole(rows):
                rows = past(partition, those)
            elif table is tables.REVISITS:
                rows = fold_sums(rows, table.keys)
            starts[at] = total + np.searchsorted(rows[:, 0], ids[at], "left")
            ends[at] = total + np.searchsorted(rows[:, 0], ids[at], "right")
            total += len(rows)
            parts.append(rows)
        lengths = ends - starts
        bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        take = np.repeat(starts - bounds[:-1], lengths) + np.arange(bounds[-1])
        return np.concatenate(parts)[take], bounds


def reaches_counters(meta: Meta, as_of: int) -> bool:
    """Whether no row that a window at a time needs has expired."""
    return as_of - LONGEST_WINDOW_MS >= meta.expired_to


def reaches_all(meta: Meta, as_of: int) -> bool:
    """The same of rows that say how things stand, and not when they came to be so: tiles, and whole partitions."""
    return meta.watermark is not None and as_of >= meta.watermark and reaches_counters(meta, as_of)
