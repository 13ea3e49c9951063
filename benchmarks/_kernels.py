"""The kernels alone: the same compiled functions as the tasks', over columns that are decoded already, with state in memory.

No log, no decoding, no RocksDB, no outbox, no Bytewax: what is left is the least that the features cost, and so the bound for the engine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _measure, _outcome, _stream
from flows.features import SEQUENCE_LENGTH
from flows.kernels.layout import CHANGE_COLUMNS, LABEL_COLUMNS
from flows.kernels.rows import merge_rows, sort_rows
from flows.partition import partition_of
from flows.settings import Settings
from flows.state import tables
from flows.state.actions_task import Judge, JudgedBatch
from flows.state.runs import FANOUT, Table

_PIN_ROW = [CHANGE_COLUMNS.index(name) for name in ("pin_id", "user_id", "kind", "time", "weight")]


class Levels:
    """Sorted runs of one table in memory, merged as the tasks' are: a full level becomes one run of the next."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._levels: list[list[np.ndarray]] = []

    def add(self, rows: np.ndarray, expired_before: int) -> None:
        """A new run."""
        if len(rows):
            self._put(0, self._folded(sort_rows(rows, self.table.keys)), expired_before)

    def rows(self) -> np.ndarray:
        """All rows, folded."""
        runs = [run for level in self._levels for run in level]
        return self._folded(merge_rows(runs, self.table.keys)) if runs else np.empty((0, self.table.columns), np.int64)

    @property
    def bytes(self) -> int:
        """What the runs take."""
        return sum(run.nbytes for level in self._levels for run in level)

    def _folded(self, rows: np.ndarray) -> np.ndarray:
        return self.table.fold(rows) if self.table.fold is not None else rows

    def _put(self, level: int, run: np.ndarray, expired_before: int) -> None:
        if level == len(self._levels):
            self._levels.append([])
        self._levels[level].append(run)
        if len(self._levels[level]) >= FANOUT:
            merged = self._folded(merge_rows(self._levels[level], self.table.keys))
            self._levels[level] = []
            self._put(level + 1, tables.unexpired(self.table, merged, expired_before), expired_before)


class Contestant:
    """See the module. `prepare` loads the input; each `run` starts from nothing."""

    def __init__(self, settings: Settings, scratch: Path) -> None:
        self._settings = settings
        self._vocabulary = settings.load_vocabulary()
        self._input = _stream.stretches(settings)
        self.events = sum(len(stretch.columns) for stretch in self._input)
        self._judges: dict[int, Judge] = {}
        self._users: dict[int, dict[str, Levels]] = {}
        self._pins: list[Levels] = []

    def run(self) -> dict[str, Any]:
        """Everything once; returns seconds and the bytes of state."""
        self._judges, self._users = {}, {}
        clock = _measure.Clock()
        changes = [self._actions(stretch) for stretch in self._input]
        self._revisits(np.concatenate(changes))
        taken = clock.read()
        held = [levels for of_partition in self._users.values() for levels in of_partition.values()] + self._pins
        working = sum(len(judge.working_set.to_bytes()) for judge in self._judges.values())
        return {**taken, "state_bytes": sum(levels.bytes for levels in held) + working}

    def _actions(self, stretch: _stream.Stretch) -> np.ndarray:
        c, partition = stretch.columns, stretch.partition
        if partition not in self._judges:
            self._judges[partition] = Judge(self._settings, self._vocabulary, partition)
            self._users[partition] = {table.name: Levels(table) for table in tables.ACTIONS_TABLES}
        judge, levels = self._judges[partition], self._users[partition]
        judged = judge.working_set.judge(c.event_id, c.user_id, c.pin_id, c.event_time, c.role, c.surface, c.topic, c.timestamp, c.bad)
        done = JudgedBatch(c, judged, stretch.offsets, None)
        expired = tables.expiry(self._settings, judge.working_set.watermark or 0)
        for table, rows in (
            (tables.SEQUENCES, done.sequence_rows(judge.impression)),
            (tables.REVISITS, done.revisit_rows()),
            (tables.LABELS, judged.labels),
            (tables.TILES, judged.tiles),
        ):
            levels[table.name].add(rows, expired)
        return judged.changes

    def _revisits(self, changes: np.ndarray) -> None:
        self._pins = [Levels(tables.REVISITS) for _ in range(self._settings.partitions)]
        homes = partition_of(np.ascontiguousarray(changes[:, 0]), self._settings.partitions)
        expired = tables.expiry(self._settings, int(changes[:, 2].max(initial=0)))
        for partition, levels in enumerate(self._pins):
            rows = changes[homes == partition][:, _PIN_ROW]
            for at in range(0, len(rows), self._settings.batch_records):
                levels.add(rows[at : at + self._settings.batch_records], expired)

    def outcome(self) -> _outcome.Outcome:
        """What the last run led to, at the newest event."""
        as_of = max(judge.working_set.watermark or 0 for judge in self._judges.values())
        users = [self._users[p] for p in sorted(self._users)]
        entries = np.concatenate([levels[tables.SEQUENCES.name].rows() for levels in users])
        user, event_time, event_id, codes, pin, duration = sort_rows(entries, tables.SEQUENCES.keys).T
        sequence = np.column_stack([user, event_time, event_id, pin, codes & 0xFF, codes >> 8 & 0xFF, duration])
        saves = [levels[tables.LABELS.name].rows() for levels in users] + [
            judge.working_set.open_labels() for judge in self._judges.values()
        ]
        wanted = [LABEL_COLUMNS.index(name) for name in ("user_id", "pin_id", "save_time", "surface", "first_impression", "first_click")]
        return {
            "sequences": _outcome.ranked(sequence, SEQUENCE_LENGTH),
            "users": _outcome.counted(np.concatenate([levels[tables.REVISITS.name].rows() for levels in users]), as_of),
            "pins": _outcome.counted(np.concatenate([levels.rows() for levels in self._pins]), as_of),
            "labels": _outcome.labelled(np.concatenate(saves)[:, wanted]),
        }
