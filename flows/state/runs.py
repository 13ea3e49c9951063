"""Tables of sorted rows inside a task's RocksDB: a log-structured merge of column blocks.

Each commit adds one sorted run per table with what it changed: one sequential put per block, no read, no key per event. Every `FANOUT` runs
of a level become one run of the next, folded, entity range by entity range so that memory stays bounded. RocksDB gives atomicity, the write-ahead
log and snapshots; run IDs only grow, so its own compaction has nothing to rewrite. This module never decides *when* something is durable: it fills
write batches that the task commits together with its position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rocksdict import WriteBatch

from flows.errors import StateError
from flows.kernels.rows import merge_rows, sort_rows

FANOUT = 8
BLOCK_ROWS = 1024
_INDEX = 0xFFFFFFFF
PREFIX = b"R"
# Rows that a merge holds in memory at a time, about 25 MB of the widest table.
SLICE_ROWS = 1 << 19


@dataclass(frozen=True)
class Table:
    """What a table's rows are and how they fold.

    Parameters
    ----------
    name : str
    columns : int
        int64 columns of a row.
    keys : int
        How many of them, from the first, sort it.
    fold : callable or None
        Sorted rows → folded rows; must commute with merging.
    """

    name: str
    columns: int
    keys: int
    fold: Callable[[np.ndarray], np.ndarray] | None


@dataclass(frozen=True)
class Run:
    """One sorted run: its ID, level and number of rows."""

    id: int
    level: int
    rows: int


Manifest = dict[str, list[Run]]


class RunReader:
    """Reads rows of runs from a database, the writer's own or a secondary's.

    Parameters
    ----------
    db : rocksdict.Rdict
    """

    def __init__(self, db: Any) -> None:
        self._db = db
        self._where = db.path()
        self._indexes: dict[int, np.ndarray] = {}

    def forget_except(self, runs: set[int]) -> None:
        """Drop cached indexes of runs that are no more."""
        for gone in set(self._indexes) - runs:
            del self._indexes[gone]

    def _found(self, keys: list[bytes]) -> list[Any]:
        try:
            return self._db.get(keys)
        except Exception as error:
            raise StateError(f"state {self._where}: {error}; put the task back with `tidemark replay restore`") from error

    def index(self, run: Run) -> np.ndarray:
        """First entity of each block."""
        cached = self._indexes.get(run.id)
        if cached is None:
            data = self._found([_key(run.id, _INDEX)])[0]
            if data is None:
                raise StateError(
                    f"state {self._where}: the index of run {run.id} is missing; put the task back with `tidemark replay restore`"
                )
            cached = self._indexes[run.id] = np.frombuffer(data, np.int64)
        return cached

    def blocks(self, table: Table, run: Run, first: int, last: int) -> np.ndarray:
        """Rows of blocks first to last, both included."""
        found = self.packed(table, run, range(first, last + 1))
        return np.frombuffer(b"".join(found) if len(found) > 1 else found[0], np.int64).reshape(-1, table.columns)

    def packed(self, table: Table, run: Run, blocks: Iterable[int]) -> list[bytes]:
        """Blocks as they are stored: rows of int64, one after another."""
        found = self._found([_key(run.id, block) for block in blocks])
        if any(data is None for data in found):
            raise StateError(
                f"state {self._where}: a block of run {run.id} of table {table.name} is missing; put the task back with `tidemark replay restore`"
            )
        return found

    def rows_between(self, table: Table, run: Run, low: int | None, high: int | None) -> np.ndarray:
        """Rows with low ≤ entity < high; None is unbounded."""
        index = self.index(run)
        first = 0 if low is None else max(int(np.searchsorted(index, low, "left")) - 1, 0)
        last = len(index) - 1 if high is None else int(np.searchsorted(index, high, "left")) - 1
        if last < first:
            return np.empty((0, table.columns), np.int64)
        rows = self.blocks(table, run, first, last)
        start = 0 if low is None else np.searchsorted(rows[:, 0], low, "left")
        end = len(rows) if high is None else np.searchsorted(rows[:, 0], high, "left")
        return rows[start:end]

    def rows_of(self, table: Table, runs: Sequence[Run], entities: np.ndarray) -> np.ndarray:
        """Sorted rows of the given entities (sorted, distinct) over all runs, not folded."""
        parts = [np.empty((0, table.columns), np.int64)]
        for run in runs:
            index = self.index(run)
            first = np.maximum(np.searchsorted(index, entities, "left") - 1, 0)
            last = np.searchsorted(index, entities, "right") - 1
            lengths = np.maximum(last + 1 - first, 0)
            wanted = np.unique(np.repeat(first - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())).tolist()
            if not wanted:
                continue
            rows = np.frombuffer(b"".join(self.packed(table, run, wanted)), np.int64).reshape(-1, table.columns)
            # Blocks of a run follow each other in order, so what was read is sorted, with whole stretches left out.
            starts, ends = np.searchsorted(rows[:, 0], entities, "left"), np.searchsorted(rows[:, 0], entities, "right")
            lengths = ends - starts
            if lengths.any():
                take = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths) + np.arange(lengths.sum())
                parts.append(rows[take])
        return merge_rows(parts, table.keys)

    def scan(self, table: Table, runs: Sequence[Run], slice_rows: int = SLICE_ROWS) -> Iterator[np.ndarray]:
        """All rows, folded, in entity order, in slices that hold whole entities."""
        if not runs:
            return
        largest = max(runs, key=lambda r: r.rows)
        step = max(1, slice_rows // (BLOCK_ROWS * len(runs)))
        cuts = [int(c) for c in np.unique(self.index(largest)[step::step])]
        for low, high in zip([None, *cuts], [*cuts, None], strict=True):
            rows = merge_rows([self.rows_between(table, run, low, high) for run in runs], table.keys)
            if table.fold is not None:
                rows = table.fold(rows)
            if len(rows):
                yield rows


class Runs(RunReader):
    """The writer: adds runs and merges them.

    Parameters
    ----------
    db : rocksdict.Rdict
    tables : sequence of Table
    manifest : dict of table name to its runs
    next_id : int
        Least run ID never used.
    """

    def __init__(self, db: Any, tables: Sequence[Table], manifest: Manifest, next_id: int) -> None:
        super().__init__(db)
        self.tables = {table.name: table for table in tables}
        self.manifest: Manifest = {table.name: list(manifest.get(table.name, [])) for table in tables}
        self.next_id = next_id

    def release(self) -> None:
        """Let go of the database, or it can't close."""
        self.__dict__.pop("_db", None)

    def add(self, batch: WriteBatch, name: str, rows: np.ndarray) -> None:
        """Put unsorted rows as a new run of level 0 into a write batch."""
        if len(rows):
            table = self.tables[name]
            rows = sort_rows(rows, table.keys)
            writer = _RunWriter(batch, self.next_id)
            writer.add(table.fold(rows) if table.fold is not None else rows)
            self._finish(writer, name, 0)

    def due(self) -> str | None:
        """A table with a level that is full, if there is one."""
        return next((name for name, runs in self.manifest.items() if _full_level(runs) is not None), None)

    def merge(self, name: str, batch: WriteBatch, expire: Callable[[np.ndarray], np.ndarray] | None = None) -> None:
        """Merge a table's fullest level into the next; the caller writes the batch with the new manifest.

        Parameters
        ----------
        expire : callable, optional
            Folded rows → rows that any read may still need.
        """
        level = _full_level(self.manifest[name])
        if level is not None:
            self._merge([run for run in self.manifest[name] if run.level == level], name, level + 1, batch, expire)

    def merge_all(self, name: str, batch: WriteBatch, expire: Callable[[np.ndarray], np.ndarray]) -> None:
        """Merge all runs of a table into one; else as `merge`."""
        if len(self.manifest[name]) > 1:
            self._merge(self.manifest[name], name, max(run.level for run in self.manifest[name]), batch, expire)

    def _merge(
        self, merged: list[Run], name: str, level: int, batch: WriteBatch, expire: Callable[[np.ndarray], np.ndarray] | None
    ) -> None:
        writer = _RunWriter(batch, self.next_id)
        for rows in self.scan(self.tables[name], merged):
            writer.add(expire(rows) if expire is not None else rows)
        self.manifest[name] = [run for run in self.manifest[name] if run not in merged]
        self._finish(writer, name, level)
        for run in merged:
            batch.delete_range(_key(run.id, 0), _key(run.id + 1, 0))
            self._indexes.pop(run.id, None)

    def _finish(self, writer: _RunWriter, name: str, level: int) -> None:
        rows = writer.finish()
        if rows:
            self.manifest[name].append(Run(self.next_id, level, rows))
        self.next_id += 1


class _RunWriter:
    """Cuts sorted rows into blocks and puts them, then the index."""

    def __init__(self, batch: WriteBatch, run: int) -> None:
        self._batch, self._run = batch, run
        self._first: list[np.ndarray] = []
        self._blocks = 0
        self._rows = 0

    def add(self, rows: np.ndarray) -> None:
        if not len(rows):
            return
        rows = np.ascontiguousarray(rows)
        self._first.append(rows[::BLOCK_ROWS, 0].copy())
        for start in range(0, len(rows), BLOCK_ROWS):
            self._batch.put(_key(self._run, self._blocks), rows[start : start + BLOCK_ROWS].tobytes())
            self._blocks += 1
        self._rows += len(rows)

    def finish(self) -> int:
        if self._rows:
            self._batch.put(_key(self._run, _INDEX), np.concatenate(self._first).tobytes())
        return self._rows


def _full_level(runs: Sequence[Run]) -> int | None:
    levels = [run.level for run in runs]
    return next((level for level in sorted(set(levels)) if levels.count(level) >= FANOUT), None)


def _key(run: int, block: int) -> bytes:
    return PREFIX + run.to_bytes(8, "big") + block.to_bytes(4, "big")
