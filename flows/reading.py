"""Reads of features from task state where it holds all that is needed, else from the log: what exports, and what serves without Redis.

Values and the position that they reflect are taken under one catch-up with the writer. A reader never writes and never blocks a writer. While the
state of a task is damaged its entities can't be read, and all others can.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flows.answers import EntityReader, Tiles, reaches_all, reaches_counters
from flows.errors import StateError
from flows.kernels.rows import fold_groups
from flows.log import Log
from flows.open_log import open_log
from flows.outputs import ACTIONS, REVISITS
from flows.partition import partition_of
from flows.past import labels_at
from flows.settings import Settings
from flows.state import tables
from flows.state.actions_task import merged_labels, resumed, state_fingerprint, topics_in
from flows.state.database import check_current
from flows.state.held_blocks import HeldBlocks, Source
from flows.state.meta import Meta
from flows.state.runs import Table
from flows.state.task import task_path
from flows.state.view import TaskView
from flows.state.watch import Watch
from flows.told_positions import gone, told_positions

# Seconds: how old it may be what tasks have told their logs.
_ASK_S = 1.0


@dataclass(frozen=True)
class UserSlice:
    """Folded rows of some users of one partition, in user order: what an export is made of."""

    sequences: np.ndarray
    revisits: np.ndarray


class FeatureReader(EntityReader):
    """Reads one data directory.

    Parameters
    ----------
    settings : Settings
    progress : callable, optional
        Called with a number of log records whenever a read has to go through the log.
    cache_mb : int, optional
        MiB of state kept in memory; `read_cache_mb` by default.

    Raises
    ------
    DataDirectoryError
        There is no log.
    OtherFingerprintError
        State was made under other features or settings.
    """

    def __init__(self, settings: Settings, progress: Callable[[int], None] | None = None, cache_mb: int | None = None) -> None:
        super().__init__(settings, progress)
        # Brokers may be away: what state answers needs none.
        self._log = None if settings.kafka and settings.state.is_dir() else open_log(settings, ACTIONS, read_only=True)
        self._fingerprint = state_fingerprint(settings, self.vocabulary)
        self._views: dict[tuple[str, int], TaskView] = {}
        self._unreadable: dict[tuple[str, int], str] = {}
        self._absent: set[tuple[str, int]] = set()
        self._paths = {flow: [task_path(settings, flow, p) for p in range(settings.partitions)] for flow in (ACTIONS, REVISITS)}
        self.places = 0
        """How often another data directory, or log, was found in the place."""
        self._place: dict[Path, tuple[int, int] | None] = dict.fromkeys(
            [settings.state] if settings.kafka else [settings.state, settings.logs / f"{ACTIONS}.db"]
        )
        self._watch = Watch()
        self._behind: set[Hashable] = set()
        room = (settings.read_cache_mb if cache_mb is None else cache_mb) << 20
        self._held = {
            (ACTIONS, tables.SEQUENCES): HeldBlocks(tables.SEQUENCES, room // 2),
            (ACTIONS, tables.REVISITS): HeldBlocks(tables.REVISITS, room // 4),
            (REVISITS, tables.REVISITS): HeldBlocks(tables.REVISITS, room // 4),
        }
        # How far tasks have come, by what they have told their logs; asked where one has no database.
        self._reached: dict[tuple[str, int], int] = {}
        self._asked = -_ASK_S
        # Flows of which a task has been looked at again since they last followed it.
        self._moved = {ACTIONS, REVISITS}
        # The latest time before which rows of a task of a flow may have expired.
        self._expired_to: dict[str, int] = {}
        try:
            self.refresh()
        except BaseException:
            # Whoever serves opens a reader again and again until one can be.
            self.close()
            raise

    def refresh(self) -> None:
        """Catch up with the writers; with those of another data directory or log, where one has been put in the place."""
        self._look_at_place()
        # REVISITS first: what it has applied was committed by ACTIONS before, so the positions seen after it cover it; so what has changed of
        # ACTIONS is asked for behind that, too.
        for flow in (REVISITS, ACTIONS):
            # What is left of an attempt that failed is looked at again.
            self._behind |= self._watch.changed()
            for partition, path in enumerate(self._paths[flow]):
                task = flow, partition
                try:
                    if not self._caught_up(task, path):
                        continue
                    self._unreadable.pop(task, None)
                except StateError as error:
                    # Looked at again once something has changed there, as when it is put back.
                    self._behind.discard(task)
                    if self._unreadable.get(task) == str(error):
                        continue
                    self._unreadable[task] = str(error)
                    if (view := self._views.pop(task, None)) is not None:
                        view.close()
                self._moved.add(flow)
                self._behind.discard(task)

    def _look_at_place(self) -> None:
        """Begin anew where another directory or log lies in the place: what is open of the old one says nothing of it."""
        for path, known in self._place.items():
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            self._place[path] = now = found.st_dev, found.st_ino
            if known is not None and now != known:
                self._let_go()
                self._log, self._watch, self.places = None, Watch(), self.places + 1
                self._moved, self._asked = {ACTIONS, REVISITS}, -_ASK_S

    def _let_go(self) -> None:
        self._watch.close()
        for view in self._views.values():
            view.close()
        if self._log is not None:
            self._log.close()
        for known in (self._views, self._unreadable, self._absent, self._behind, self._reached):
            known.clear()

    def _caught_up(self, task: tuple[str, int], path: Path) -> bool:
        """Have the view of a task catch up; False if nothing has happened to it.

        Raises
        ------
        OtherFingerprintError
        StateError
            It is damaged.
        """
        view = self._views.get(task)
        if view is None:
            if not (path / "CURRENT").exists():
                # Nothing there can be watched: what comes is looked at when it is there.
                self._absent.add(task)
                self._check_never_made(task, path)
                return self._unreadable.pop(task, None) is not None
            if task in self._unreadable and task not in self._behind and task not in self._absent:
                return False
            self._absent.discard(task)
            # Before it is read, or what is written meanwhile would never be told.
            self._watch.add(task, path)
            # Until it has been found to be of these features: a view that was refused is refused again.
            self._behind.add(task)
            view = self._views[task] = TaskView(path)
        elif task in self._behind:
            view.refresh()
        else:
            return False
        if view.meta is not None:
            view.meta.check_fingerprint(self._fingerprint, path)
        else:
            self._check_never_made(task, path)
        return True

    def _check_never_made(self, task: tuple[str, int], path: Path) -> None:
        """Whether a task without a database, or without a commit in it, has none yet.

        Raises
        ------
        StateError
            It had one.
        """
        check_current(path)
        if time.monotonic() - self._asked > _ASK_S:
            self._reached = told_positions(self.settings, {flow: flow for flow in self._paths})
            self._asked = time.monotonic()
        if at := self._reached.get(task, 0):
            raise StateError(gone(self.settings, *task, at))

    def close(self) -> None:
        """Release all files."""
        self._let_go()

    def __enter__(self) -> FeatureReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What is held --------------------------------------------------------------------------------------------------------------------

    @property
    def unreadable(self) -> Mapping[tuple[str, int], str]:
        """Tasks whose state is damaged, and how."""
        return self._unreadable

    def meta(self, flow: str, partition: int) -> Meta | None:
        """The meta record of a task, None before its first commit."""
        return self._view(flow, partition)[1]

    def rows_of(self, flow: str, table: Table, wanted: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Rows of entities (sorted, distinct), by partition: sorted, not folded."""
        found = {}
        for partition, ids in wanted.items():
            view, meta = self._view(flow, partition)
            if view is not None and meta is not None:
                found[partition] = view.runs.rows_of(table, meta.manifest.get(table.name, []), ids)
        return found

    def _held_rows(self, flow: str, table: Table, ids: np.ndarray, expired_to: int | None) -> tuple[np.ndarray, np.ndarray] | None:
        """Out of what is held in memory, if all of it can be."""
        homes = partition_of(ids, self.settings.partitions)
        if self._unreadable:
            for partition in np.unique(homes).tolist():
                self._view(flow, partition)
        try:
            held = self._follow(flow, table)
            if expired_to is not None and self._expired_to[flow] > expired_to:
                return None
            found = held.rows_of(ids, homes)
        except StateError:
            # What is damaged may be of a task that nobody asks for: task by task it shows.
            return None
        if found is None or table is not tables.REVISITS:
            return found
        return fold_groups(*found, table.keys)

    def _follow(self, flow: str, table: Table) -> HeldBlocks:
        """What is held of a table, where its tasks are now."""
        if flow in self._moved:
            for (of, each), held in self._held.items():
                if of == flow:
                    held.follow([self._source(flow, p, each) for p in range(self.settings.partitions)])
            metas = [self.readable_meta(flow, p) for p in range(self.settings.partitions)]
            self._expired_to[flow] = max((meta.expired_to for meta in metas if meta is not None), default=-(2**62))
            self._moved.discard(flow)
        return self._held[flow, table]

    def _source(self, flow: str, partition: int, table: Table) -> Source | None:
        if (flow, partition) in self._unreadable:
            return None
        view, meta = self._view(flow, partition)
        return Source(view.database, view.runs, meta.manifest.get(table.name, [])) if view is not None and meta is not None else None

    def scan(self, flow: str, table: Table, partition: int) -> Iterator[np.ndarray]:
        """Folded rows of all entities of a partition, in order, in slices of whole entities."""
        view, meta = self._view(flow, partition)
        if view is not None and meta is not None:
            yield from view.runs.scan(table, meta.manifest.get(table.name, []))

    def tiles_of(self, partitions: Iterable[int], topics: list[str] | None) -> list[Tiles]:
        """Tiles of all topics, whichever are asked for: they lie together."""
        found = []
        for partition in partitions:
            view, _ = self._view(ACTIONS, partition)
            if view is not None:
                parts = [np.empty((0, tables.TILES.columns), np.int64), *self.scan(ACTIONS, tables.TILES, partition)]
                found.append(Tiles(np.concatenate(parts), topics_in(view)))
        return found

    # Whole partitions, for exports -------------------------------------------------------------------------------------------------

    def all_topics(self, as_of: int) -> tuple[list[str], np.ndarray]:
        """Every topic with a save at or before `as_of`, by name, and its statistics float64[n, 15]."""
        return self._topics(as_of, None)

    def user_slices(self, partition: int, as_of: int) -> Iterator[UserSlice]:
        """Rows of all users of a partition, in slices of whole users."""
        meta = self.meta(ACTIONS, partition)
        if meta is None or meta.watermark is None:
            return
        if reaches_all(meta, as_of):
            sequences = np.concatenate([np.empty((0, 6), np.int64), *self.scan(ACTIONS, tables.SEQUENCES, partition)])
            revisits = np.concatenate([np.empty((0, 5), np.int64), *self.scan(ACTIONS, tables.REVISITS, partition)])
            yield UserSlice(sequences, revisits)
        else:
            past = self._past_users(partition, as_of, None)
            yield UserSlice(past.sequences, past.revisits)

    def pin_rows(self, as_of: int) -> Iterator[np.ndarray]:
        """Revisit rows of all pins, one array for each partition of REVISITS."""
        metas = [self.meta(REVISITS, p) for p in range(self.settings.partitions)]
        if all(m is None or reaches_counters(m, as_of) for m in metas):
            for partition, meta in enumerate(metas):
                if meta is not None:
                    yield np.concatenate([np.empty((0, 5), np.int64), *self.scan(REVISITS, tables.REVISITS, partition)])
        else:
            yield from self.past_pins(as_of, None)

    def labels(self, partition: int, as_of: int) -> tuple[np.ndarray, int | None]:
        """Label rows of a partition's saves at a time, and the watermark that decides which are matured."""
        view, meta = self._view(ACTIONS, partition)
        if view is None or meta is None or meta.watermark is None:
            return np.empty((0, tables.LABELS.columns), np.int64), None
        if as_of < meta.watermark:
            past = self._past_users(partition, as_of, np.empty(0, np.int64), every_label=True)
            return past.labels, past.watermark
        judge = resumed(self.settings, self.vocabulary, view, meta, self._actions())
        saved = view.runs.scan(tables.LABELS, meta.manifest.get(tables.LABELS.name, []))
        return labels_at(merged_labels(saved, judge.working_set), as_of), meta.watermark

    # Inside ------------------------------------------------------------------------------------------------------------------------

    def _view(self, flow: str, partition: int) -> tuple[TaskView | None, Meta | None]:
        if (why := self._unreadable.get((flow, partition))) is not None:
            raise StateError(why)
        view = self._views.get((flow, partition))
        return view, view.meta if view is not None else None

    def _actions(self) -> Log:
        """The ACTIONS log."""
        if self._log is None:
            self._log = open_log(self.settings, ACTIONS, read_only=True)
        return self._log
