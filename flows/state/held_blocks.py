"""Blocks of a table's runs kept in memory, over all partitions: what a reader that serves asks for again and again.

A read of a hundred entities touches some blocks of every run of every partition. To fetch and unpack them from RocksDB each time is nearly all
that such a read costs; here they lie unpacked, and one compiled pass finds the rows. A block never changes and run IDs only grow, so nothing is
ever stale while the database is the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flows.kernels.finding import merged, spans_of
from flows.state.runs import BLOCK_ROWS, Run, RunReader, Table

_ROOM = 256
# So few slots hold what one request needs of a small database; a request that needs more than there are isn't answered here.
_LEAST_SLOTS = 64


@dataclass(frozen=True)
class Source:
    """A partition's runs, as of one commit.

    Attributes
    ----------
    database : str
        Names the database; another one has other runs of the same IDs.
    reader : RunReader
    runs : sequence of Run
    """

    database: str
    reader: RunReader
    runs: Sequence[Run]


class HeldBlocks:
    """See the module.

    Parameters
    ----------
    table : Table
    limit : int
        Bytes of blocks that are held, at most.
    block_rows : int
        Rows of a full block.
    """

    def __init__(self, table: Table, limit: int, block_rows: int = BLOCK_ROWS) -> None:
        self._table = table
        self._block_rows = block_rows
        count = max(_LEAST_SLOTS, limit // (block_rows * table.columns * 8))
        # Pages of it are taken from the system as they are first written.
        self._arena = np.empty((count, block_rows, table.columns), np.int64)
        self._lengths = np.zeros(count, np.int32)
        self._used = np.zeros(count, np.int64)
        self._filled = 0
        self._holds: list[tuple[str, int, int] | None] = [None] * count
        # Of a database and a run: where its blocks lie.
        self._slots: dict[tuple[str, int], np.ndarray] = {}
        self._tick = 0
        self._spans = np.empty((_ROOM, 3), np.int64)
        self._missing = np.empty(_ROOM, np.int64)
        self._sources: list[Source | None] = []
        self._flat: _Flat | None = None

    def follow(self, sources: Sequence[Source | None]) -> None:
        """What reads are of from now on.

        Parameters
        ----------
        sources : sequence of Source or None
            By partition.
        """
        wanted = {(s.database, run.id) for s in sources if s is not None for run in s.runs}
        for gone in set(self._slots) - wanted:
            for slot in self._slots.pop(gone).tolist():
                if slot >= 0:
                    self._holds[slot] = None
                    self._used[slot] = 0
        self._sources = list(sources)
        self._flat = None

    def rows_of(self, ids: np.ndarray, homes: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Rows of entities over all runs, sorted for each, not folded.

        Parameters
        ----------
        ids : int64[n]
            In any order.
        homes : int32[n]
            Partition of each.

        Returns
        -------
        rows : int64[m, columns]
            Entity by entity, in the order asked. No tuple but None where more blocks are needed than can be held.
        bounds : int64[n + 1]
            Where each entity's rows lie.
        """
        flat = self._flat = self._flat or self._flattened()
        self._tick += 1
        ends = np.empty(len(ids), np.int64)
        while True:
            found, lacking, total = spans_of(
                ids, homes, flat.runs_from, flat.blocks_from, flat.firsts, flat.slots, self._lengths, self._arena, self._tick, self._used,
                self._spans, ends, self._missing,
            )  # fmt: skip
            if lacking > len(self._missing):
                self._missing = np.empty(2 * lacking, np.int64)
            elif lacking:
                if not self._fetch(flat, np.unique(self._missing[:lacking])):
                    return None
            elif found > len(self._spans):
                self._spans = np.empty((2 * found, 3), np.int64)
            else:
                break
        rows, bounds = np.empty((total, self._table.columns), np.int64), np.empty(len(ids) + 1, np.int64)
        merged(self._spans, ends, self._arena, self._table.keys, rows, bounds)
        return rows, bounds

    def _flattened(self) -> _Flat:
        runs_from, blocks_from = [0], [0]
        firsts, slots, owners = [np.empty(0, np.int64)], [np.empty(0, np.int32)], list[tuple[Source, Run]]()
        for source in self._sources:
            for run in source.runs if source is not None else ():
                assert source is not None
                index = source.reader.index(run)
                held = self._slots.setdefault((source.database, run.id), np.full(len(index), -1, np.int32))
                firsts.append(index)
                slots.append(held)
                owners.append((source, run))
                blocks_from.append(blocks_from[-1] + len(index))
            runs_from.append(len(owners))
        return _Flat(
            np.array(runs_from, np.int64), np.array(blocks_from, np.int64), np.concatenate(firsts), np.concatenate(slots), owners,
        )  # fmt: skip

    def _fetch(self, flat: _Flat, blocks: np.ndarray) -> bool:
        """Take blocks into memory; False if there are more than there is room for beside those of this request."""
        slots = self._free(len(blocks))
        if slots is None:
            return False
        runs = np.searchsorted(flat.blocks_from, blocks, "right") - 1
        for number in np.unique(runs).tolist():
            source, run = flat.owners[number]
            mine = np.flatnonzero(runs == number)
            start = int(flat.blocks_from[number])
            numbers = (blocks[mine] - start).tolist()
            found = source.reader.packed(self._table, run, numbers)
            for block, slot, data in zip(numbers, slots[mine].tolist(), found, strict=True):
                rows = np.frombuffer(data, np.int64).reshape(-1, self._table.columns)
                self._arena[slot, : len(rows)] = rows
                self._lengths[slot] = len(rows)
                self._used[slot] = self._tick
                self._holds[slot] = (source.database, run.id, block)
                self._slots[source.database, run.id][block] = slot
                flat.slots[start + block] = slot
        return True

    def _free(self, wanted: int) -> np.ndarray | None:
        """Slots to be filled: never used ones, then those that were used longest ago; None if this request itself needs them."""
        count = len(self._used)
        fresh = np.arange(self._filled, min(count, self._filled + wanted))
        if len(fresh) < wanted:
            rest = wanted - len(fresh)
            old = np.flatnonzero(self._used[: self._filled] < self._tick)
            if len(old) < rest:
                return None
            old = old[np.argpartition(self._used[old], rest - 1)[:rest]]
            for slot in old.tolist():
                if (held := self._holds[slot]) is not None:
                    database, run, block = held
                    self._slots[database, run][block] = -1
                    self._holds[slot] = None
            # The flat copies know them still.
            if self._flat is not None:
                self._flat.slots[np.isin(self._flat.slots, old)] = -1
            fresh = np.concatenate([fresh, old])
        self._filled = min(count, self._filled + wanted)
        return fresh


@dataclass(frozen=True)
class _Flat:
    """Runs of all partitions, one after another: see `spans_of`."""

    runs_from: np.ndarray
    blocks_from: np.ndarray
    firsts: np.ndarray
    slots: np.ndarray
    owners: list[tuple[Source, Run]]
