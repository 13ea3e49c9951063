"""Reads of features: from task state where it holds all that is needed, else from the log. Everything that serves or exports goes through here.

Values and the position that they reflect are taken under one catch-up with the writer. A reader never writes and never blocks a writer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from flows.errors import DataDirectoryError
from flows.features import PIN_COUNTERS, TOPIC_STATS
from flows.kernels.reads import counters, group_bounds, newest, topic_statistics
from flows.kernels.rows import SEQUENCE_CODES, merge_rows
from flows.log import Log
from flows.open_log import open_log
from flows.outputs import ACTIONS, REVISITS
from flows.partition import partition_of
from flows.past import Past, PastUsers, labels_at
from flows.settings import Settings
from flows.state import tables
from flows.state.actions_task import merged_labels, resumed, state_fingerprint
from flows.state.store import Meta, TaskView
from flows.state.tables import LONGEST_WINDOW_MS
from flows.state.task import task_path


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
class UserSlice:
    """Folded rows of some users of one partition, in user order: what an export is made of."""

    sequences: np.ndarray
    revisits: np.ndarray


class FeatureReader:
    """Reads one data directory.

    Parameters
    ----------
    settings : Settings
    progress : callable, optional
        Called with a number of log records whenever a read has to go through the log.

    Raises
    ------
    DataDirectoryError
        There is no log, or state was made under other features or settings.
    """

    def __init__(self, settings: Settings, progress: Callable[[int], None] | None = None) -> None:
        self.settings = settings
        self.vocabulary = settings.load_vocabulary()
        # Brokers may be away: what state answers needs none.
        self._log = None if settings.kafka and settings.state.is_dir() else open_log(settings, ACTIONS, read_only=True)
        self._fingerprint = state_fingerprint(settings, self.vocabulary)
        self._past = Past(settings, self.vocabulary, self._actions, progress)
        self._views: dict[tuple[str, int], TaskView] = {}
        self.refresh()

    def refresh(self) -> None:
        """Catch up with the writers."""
        # REVISITS first: what it has applied was committed by ACTIONS before, so the positions seen after it cover it.
        for flow in (REVISITS, ACTIONS):
            for partition in range(self.settings.partitions):
                view = self._views.get((flow, partition))
                path = task_path(self.settings, flow, partition)
                if view is not None:
                    view.refresh()
                elif (path / "CURRENT").exists():
                    view = self._views[flow, partition] = TaskView(path)
                if view is not None and view.meta is not None and view.meta.fingerprint != self._fingerprint:
                    raise DataDirectoryError(
                        f"state {path} was made under other features or settings (fingerprint {view.meta.fingerprint}, now {self._fingerprint}); "
                        "read it with the settings that it was made with"
                    )

    def close(self) -> None:
        """Release all files."""
        for view in self._views.values():
            view.close()
        self._views.clear()
        if self._log is not None:
            self._log.close()

    def __enter__(self) -> FeatureReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Positions ---------------------------------------------------------------------------------------------------------------------

    def default_as_of(self) -> int | None:
        """Greatest accepted event_time over all partitions, None before the first event."""
        marks = [m.watermark for p in range(self.settings.partitions) if (m := self._meta(ACTIONS, p)) and m.watermark is not None]
        return max(marks, default=None)

    def positions(self) -> dict[str, list[int]]:
        """Committed position of every task, by flow."""
        return {
            flow: [m.position if (m := self._meta(flow, p)) else 0 for p in range(self.settings.partitions)] for flow in (ACTIONS, REVISITS)
        }

    def user_position(self, user_id: int) -> dict[str, int]:
        """What a user's row reflects: its ACTIONS partition and position."""
        partition = int(partition_of(np.array([user_id], np.int64), self.settings.partitions)[0])
        meta = self._meta(ACTIONS, partition)
        return {"partition": partition, "position": meta.position if meta else 0}

    def pin_position(self, pin_id: int) -> dict[str, object]:
        """What a pin's row reflects: its REVISITS partition and, by origin, how many changes of it are applied."""
        partition = int(partition_of(np.array([pin_id], np.int64), self.settings.partitions)[0])
        meta = self._meta(REVISITS, partition)
        return {"partition": partition, "applied": {str(o): last + 1 for o, last in sorted(meta.applied.items())} if meta else {}}

    def meta(self, flow: str, partition: int) -> Meta | None:
        """The meta record of a task, None before its first commit."""
        return self._meta(flow, partition)

    def counts(self) -> dict[str, int]:
        """Records of ACTIONS by what became of them, over all partitions."""
        total: dict[str, int] = {}
        for p in range(self.settings.partitions):
            for name, n in (m.counts if (m := self._meta(ACTIONS, p)) else {}).items():
                total[name] = total.get(name, 0) + n
        return dict(sorted(total.items()))

    # Entities ----------------------------------------------------------------------------------------------------------------------

    def user_sequences(self, user_ids: np.ndarray, as_of: int | None = None) -> SequenceRows:
        """Action sequences of users, in the order asked."""
        time = self._time(as_of)

        def from_state(view: TaskView, meta: Meta, ids: np.ndarray) -> np.ndarray | None:
            rows = view.runs.rows_of(tables.SEQUENCES, meta.manifest.get(tables.SEQUENCES.name, []), ids)
            _, _, exact = newest(rows, group_bounds(rows[:, 0]), time)
            return rows if exact.all() else None

        rows, bounds = self._gather(
            ACTIONS, user_ids, tables.SEQUENCES.columns, from_state, lambda p, ids: self._past_users(p, time, ids).sequences
        )
        index, offsets, _ = newest(rows, bounds, time)
        taken = rows[index]
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
        names, values = self.all_topics(time)
        place = {name: i for i, name in enumerate(names)}
        found = np.array([t in place for t in topics], np.bool_)
        out = np.zeros((len(topics), len(TOPIC_STATS)), np.float64)
        for i, topic in enumerate(topics):
            if found[i]:
                out[i] = values[place[topic]]
        return TopicRows(out, found, time)

    # Whole partitions, for exports -------------------------------------------------------------------------------------------------

    def all_topics(self, as_of: int) -> tuple[list[str], np.ndarray]:
        """Every topic with a save at or before `as_of`, by name, and its statistics float64[n, 15]."""
        parts, names = [np.empty((0, tables.TILES.columns), np.int64)], dict[int, str]()
        for partition in range(self.settings.partitions):
            view, meta = self._view(ACTIONS, partition)
            if view is None or meta is None or meta.watermark is None:
                continue
            if as_of >= meta.watermark and as_of - LONGEST_WINDOW_MS >= meta.expired_to:
                parts += view.runs.scan(tables.TILES, meta.manifest.get(tables.TILES.name, []))
                names |= {int.from_bytes(k[1:], "big", signed=True): v.decode() for k, v in view.prefixed(b"T")}
            else:
                past = self._past_users(partition, as_of, np.empty(0, np.int64))
                parts.append(past.tiles)
                names |= past.topics
        rows = merge_rows(parts, tables.TILES.keys)
        if tables.TILES.fold is not None:
            rows = tables.TILES.fold(rows)
        bounds = group_bounds(rows[:, 0])
        values = topic_statistics(rows, bounds, as_of)
        listed = [names[int(t)] for t in rows[bounds[:-1], 0]]
        order = sorted(range(len(listed)), key=lambda i: listed[i])
        return [listed[i] for i in order], values[order]

    def user_slices(self, partition: int, as_of: int) -> Iterator[UserSlice]:
        """Rows of all users of a partition, in slices of whole users."""
        view, meta = self._view(ACTIONS, partition)
        if view is None or meta is None or meta.watermark is None:
            return
        if as_of >= meta.watermark and as_of - LONGEST_WINDOW_MS >= meta.expired_to:
            sequences = np.concatenate(
                [np.empty((0, 6), np.int64), *view.runs.scan(tables.SEQUENCES, meta.manifest.get(tables.SEQUENCES.name, []))]
            )
            revisits = np.concatenate(
                [np.empty((0, 5), np.int64), *view.runs.scan(tables.REVISITS, meta.manifest.get(tables.REVISITS.name, []))]
            )
            yield UserSlice(sequences, revisits)
        else:
            past = self._past_users(partition, as_of, None)
            yield UserSlice(past.sequences, past.revisits)

    def pin_rows(self, as_of: int) -> Iterator[np.ndarray]:
        """Revisit rows of all pins, one array for each partition of REVISITS."""
        metas = [self._meta(REVISITS, p) for p in range(self.settings.partitions)]
        if all(m is None or as_of - LONGEST_WINDOW_MS >= m.expired_to for m in metas):
            for partition in range(self.settings.partitions):
                view, meta = self._view(REVISITS, partition)
                if view is not None and meta is not None:
                    scanned = view.runs.scan(tables.REVISITS, meta.manifest.get(tables.REVISITS.name, []))
                    yield np.concatenate([np.empty((0, 5), np.int64), *scanned])
        else:
            yield from self.past_pins(as_of, None)

    def labels(self, partition: int, as_of: int) -> tuple[np.ndarray, int | None]:
        """Label rows of a partition's saves at a time, and the watermark that decides which are matured."""
        view, meta = self._view(ACTIONS, partition)
        if view is None or meta is None or meta.watermark is None:
            return np.empty((0, tables.LABELS.columns), np.int64), None
        if as_of < meta.watermark:
            past = self._past_users(partition, as_of, np.empty(0, np.int64))
            return past.labels, past.watermark
        judge = resumed(self.settings, self.vocabulary, view, meta, self._actions())
        saved = view.runs.scan(tables.LABELS, meta.manifest.get(tables.LABELS.name, []))
        return labels_at(merged_labels(saved, judge.working_set), as_of), meta.watermark

    def past_pins(self, as_of: int, pin_ids: np.ndarray | None) -> list[np.ndarray]:
        """Revisit rows of pins by running the kernels over the log."""
        metas = [self._meta(REVISITS, p) for p in range(self.settings.partitions)]
        return self._past.pins(self.positions()[ACTIONS], [m.applied if m else {} for m in metas], as_of, pin_ids)

    # Inside ------------------------------------------------------------------------------------------------------------------------

    def _time(self, as_of: int | None) -> int:
        if as_of is not None:
            return as_of
        default = self.default_as_of()
        return default if default is not None else 0

    def _view(self, flow: str, partition: int) -> tuple[TaskView | None, Meta | None]:
        view = self._views.get((flow, partition))
        return view, view.meta if view is not None else None

    def _meta(self, flow: str, partition: int) -> Meta | None:
        return self._view(flow, partition)[1]

    def _actions(self) -> Log:
        """The ACTIONS log."""
        if self._log is None:
            self._log = open_log(self.settings, ACTIONS, read_only=True)
        return self._log

    def _past_users(self, partition: int, as_of: int, user_ids: np.ndarray | None) -> PastUsers:
        meta = self._meta(ACTIONS, partition)
        return self._past.users(partition, meta.position if meta else 0, as_of, user_ids, meta.corrected_to if meta else None)

    def _counters(self, flow: str, ids: np.ndarray, time: int, past: Callable[[int, np.ndarray], np.ndarray]) -> CounterRows:
        def from_state(view: TaskView, meta: Meta, wanted: np.ndarray) -> np.ndarray | None:
            if time - LONGEST_WINDOW_MS < meta.expired_to:
                return None
            rows = view.runs.rows_of(tables.REVISITS, meta.manifest.get(tables.REVISITS.name, []), wanted)
            return tables.REVISITS.fold(rows) if tables.REVISITS.fold is not None else rows

        rows, bounds = self._gather(flow, ids, tables.REVISITS.columns, from_state, past)
        values, found = counters(rows, bounds, time) if len(ids) else (np.zeros((0, len(PIN_COUNTERS)), np.int64), np.zeros(0, np.bool_))
        return CounterRows(values, found, time)

    def _gather(
        self,
        flow: str,
        ids: np.ndarray,
        columns: int,
        from_state: Callable[[TaskView, Meta, np.ndarray], np.ndarray | None],
        past: Callable[[int, np.ndarray], np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of entities, and where the rows of each one asked for lie: int64[n + 1] in the order asked."""
        ids = np.asarray(ids, np.int64)
        parts, starts, ends = [np.empty((0, columns), np.int64)], np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)
        total = 0
        homes = partition_of(ids, self.settings.partitions)
        for partition in np.unique(homes):
            view, meta = self._view(flow, int(partition))
            if view is None or meta is None:
                continue
            at = np.flatnonzero(homes == partition)
            wanted = np.unique(ids[at])
            rows = from_state(view, meta, wanted)
            if rows is None:
                rows = past(int(partition), wanted)
            starts[at] = total + np.searchsorted(rows[:, 0], ids[at], "left")
            ends[at] = total + np.searchsorted(rows[:, 0], ids[at], "right")
            total += len(rows)
            parts.append(rows)
        lengths = ends - starts
        bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        take = np.repeat(starts - bounds[:-1], lengths) + np.arange(bounds[-1])
        return np.concatenate(parts)[take], bounds
