"""The records of EMBEDDINGS: a delta's rows, each a record, and one that closes it with their number and digest.

All lie in partition 0, for they are one order. Rows are sorted by table and ID, so that equal changes are equal bytes. A delta without the record
that closes it is none, and no reader ever shows a part of one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import pyarrow as pa

from flows.errors import CorruptionError
from online_model.registry.errors import DraftError
from online_model.registry.snapshots import Point

PARTITION = 0
TABLES = ("user", "pin")
"""In the order of their codes."""
NO_TIME = -1
# A batch is one value of the log: readers of topics take no list column beyond 8 MiB.
_BATCH_BYTES = 4 << 20


class Kind(IntEnum):
    """What a record says."""

    ROW = 0  # an ID's row, as it is now
    DELETED = 1  # an ID has no row any more: it gets the default row
    CLOSED = 2  # the delta is whole


EMBEDDING_SCHEMA = pa.schema(
    [
        pa.field("timestamp", pa.int64()),  # arrival time of the newest example that the delta reflects, ms
        pa.field("base", pa.int64()),
        pa.field("delta", pa.int64()),  # from 1 on, without gaps
        pa.field("row", pa.int64()),  # place among the delta's rows; of the record that closes it: how many there are
        pa.field("kind", pa.int8()),
        pa.field("table", pa.int8()),  # place in TABLES; -1 in the record that closes it
        pa.field("id", pa.int64()),
        pa.field("weights", pa.list_(pa.float32())),  # null without a row
        # The record that closes it alone:
        pa.field("positions", pa.list_(pa.int64())),  # next offset of each partition of EXAMPLES
        pa.field("newest_event_time", pa.int64()),  # of the examples that it reflects, ms; -1: none
        pa.field("previous", pa.binary()),  # digest of the delta before; of the base's manifest before the first
        pa.field("digest", pa.binary()),  # of this delta, `previous` included
    ]
)


@dataclass(frozen=True, eq=False)
class Rows:
    """Changed rows, sorted by table and ID, each once.

    Attributes
    ----------
    table : int8[n]
        Place in TABLES.
    ids : int64[n]
    deleted : bool[n]
    weights : float32[n, d]
        0 where deleted.
    """

    table: np.ndarray
    ids: np.ndarray
    deleted: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, changed: Mapping[str, tuple[np.ndarray, np.ndarray]], deleted: Mapping[str, np.ndarray], dimension: int) -> Rows:
        """Sort what tables say has changed.

        Parameters
        ----------
        changed : mapping of str to (int64[n], float32[n, d])
            By table, IDs and their rows as they are now.
        deleted : mapping of str to int64[n]
            By table, IDs that have no row any more.
        dimension : int
            d.

        Raises
        ------
        DraftError
            An ID is there twice, a row has another length, or a weight is no number.
        """
        tables, ids, gone, weights = [], [], [], []
        for code, table in enumerate(TABLES):
            some, rows = changed.get(table, (np.empty(0, np.int64), np.empty((0, dimension), np.float32)))
            lost = np.asarray(deleted.get(table, np.empty(0, np.int64)), np.int64)
            some, rows = np.asarray(some, np.int64), np.asarray(rows, np.float32)
            if rows.shape != (len(some), dimension):
                raise DraftError(f"a delta's rows of table {table} are {rows.shape}, and should be {(len(some), dimension)}")
            both = np.concatenate([some, lost])
            if len(np.unique(both)) != len(both):
                raise DraftError(f"a delta has an ID of table {table} twice")
            order = np.argsort(both, kind="stable")
            tables.append(np.full(len(both), code, np.int8))
            ids.append(both[order])
            gone.append(order >= len(some))
            weights.append(np.concatenate([rows, np.zeros((len(lost), dimension), np.float32)])[order])
        out = cls(np.concatenate(tables), np.concatenate(ids), np.concatenate(gone), np.concatenate(weights))
        if not np.isfinite(out.weights).all():
            raise DraftError("some weights of a delta are no numbers (nan or infinite): the learner must not put them out; roll it back")
        return out

    def of_table(self, table: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """IDs int64[n], rows float32[n, d] and deleted IDs int64[m] of one table."""
        mine = self.table == TABLES.index(table)
        there = mine & ~self.deleted
        return self.ids[there], self.weights[there], self.ids[mine & self.deleted]


@dataclass(frozen=True)
class Closing:
    """What closes a delta.

    Attributes
    ----------
    base, delta : int
    rows : int
    positions : tuple of int
        Next offset of each partition of EXAMPLES: what lies before is learned.
    newest_event_time : int
        ms; -1: nothing is learned.
    ready_time : int
        Greatest arrival time of what is learned, ms; -1: nothing.
    previous, digest : str
        16 bytes each, in hex.
    position : int
        The offset of EMBEDDINGS behind it.
    """

    base: int
    delta: int
    rows: int
    positions: tuple[int, ...]
    newest_event_time: int
    ready_time: int
    previous: str
    digest: str
    position: int = -1

    def point(self) -> Point:
        """As a snapshot keeps it."""
        return Point(self.base, self.delta, self.digest, self.position, self.positions, self.newest_event_time)


@dataclass(frozen=True, eq=False)
class Delta:
    """A whole delta."""

    closing: Closing
    rows: Rows


def closing_of(
    base: int, delta: int, rows: Rows, positions: tuple[int, ...], newest_event_time: int, ready_time: int, previous: str
) -> Closing:
    """What closes a delta of some rows; its position is not known yet."""
    digest = digest_of(base, delta, rows, positions, newest_event_time, ready_time, previous)
    return Closing(base, delta, len(rows), positions, newest_event_time, ready_time, previous, digest)


def digest_of(base: int, delta: int, rows: Rows, positions: tuple[int, ...], newest_event_time: int, ready_time: int, previous: str) -> str:
    """BLAKE2b of everything that a delta says, and of the digest of the one before: so each names all before it."""
    digest = hashlib.blake2b(digest_size=16)
    # A row that is gone has no length.
    there = rows.weights[~rows.deleted]
    dimension = there.shape[1] if len(there) else 0
    numbers = (base, delta, len(rows), dimension, newest_event_time, ready_time, len(positions), *positions)
    digest.update(bytes.fromhex(previous) + np.array(numbers, "<i8").tobytes())
    for column, dtype in ((rows.table, "i1"), (rows.ids, "<i8"), (rows.deleted, "u1"), (there, "<f4")):
        digest.update(np.ascontiguousarray(column, dtype).tobytes())
    return digest.hexdigest()


def batches_of(rows: Rows, closing: Closing) -> list[pa.RecordBatch]:
    """A delta as it is appended: its rows in batches of a few MiB, and behind them what closes it."""
    n, dimension = rows.weights.shape
    step = max(1, _BATCH_BYTES // (4 * dimension + 64)) if dimension else max(1, n)
    return [_rows_batch(rows, closing, start, min(n, start + step)) for start in range(0, n, step)] + [_closing_batch(closing)]


def _rows_batch(rows: Rows, closing: Closing, start: int, stop: int) -> pa.RecordBatch:
    n, dimension = stop - start, rows.weights.shape[1]
    deleted = rows.deleted[start:stop]
    lengths = np.where(deleted, 0, dimension)
    bounds = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    weights = pa.ListArray.from_arrays(bounds, pa.array(rows.weights[start:stop][~deleted].reshape(-1)), mask=pa.array(deleted))
    columns = {
        "row": pa.array(np.arange(start, stop)),
        "kind": pa.array(np.where(deleted, Kind.DELETED, Kind.ROW).astype(np.int8)),
        "table": pa.array(rows.table[start:stop]),
        "id": pa.array(rows.ids[start:stop]),
        "weights": weights,
        "newest_event_time": pa.array(np.full(n, NO_TIME)),
    }
    return _batch(columns, closing, n)


def _closing_batch(closing: Closing) -> pa.RecordBatch:
    columns = {
        "row": pa.array([closing.rows]),
        "kind": pa.array([int(Kind.CLOSED)], pa.int8()),
        "table": pa.array([-1], pa.int8()),
        "id": pa.array([0]),
        "positions": pa.array([list(closing.positions)], pa.list_(pa.int64())),
        "newest_event_time": pa.array([closing.newest_event_time]),
        "previous": pa.array([bytes.fromhex(closing.previous)], pa.binary()),
        "digest": pa.array([bytes.fromhex(closing.digest)], pa.binary()),
    }
    return _batch(columns, closing, 1)


def _batch(columns: dict[str, pa.Array], closing: Closing, n: int) -> pa.RecordBatch:
    columns |= {
        "timestamp": pa.array(np.full(n, closing.ready_time)),
        "base": pa.array(np.full(n, closing.base)),
        "delta": pa.array(np.full(n, closing.delta)),
    }
    arrays = [columns[f.name] if f.name in columns else pa.nulls(n, f.type) for f in EMBEDDING_SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=EMBEDDING_SCHEMA)


def check_schema(records: pa.RecordBatch, where: str) -> None:
    """Refuse what is no record of EMBEDDINGS.

    Raises
    ------
    CorruptionError
    """
    if records.schema.names != EMBEDDING_SCHEMA.names or records.schema.types != EMBEDDING_SCHEMA.types:
        raise CorruptionError(f"{where}: holds records that are none of EMBEDDINGS'; find out what else has written there")


def plain(records: pa.RecordBatch, name: str) -> np.ndarray:
    """A column of numbers."""
    return np.asarray(records.column(name).to_numpy(zero_copy_only=False))


def closing_at(records: pa.RecordBatch, i: int, position: int) -> Closing:
    """What record i says, which closes a delta; `position` lies behind it."""
    one = records.slice(i, 1).to_pylist()[0]
    return Closing(
        one["base"],
        one["delta"],
        one["row"],
        tuple(one["positions"] or ()),
        one["newest_event_time"],
        one["timestamp"],
        (one["previous"] or b"").hex(),
        (one["digest"] or b"").hex(),
        position,
    )


def rows_at(records: pa.RecordBatch) -> Rows | None:
    """Records of one delta's rows; None if they are not sorted, or their weights don't make rows of one length."""
    deleted = plain(records, "kind") == Kind.DELETED
    column = records.column("weights")
    lengths = np.diff(np.asarray(column.offsets))
    there = lengths[~deleted]
    if (lengths[deleted] != 0).any() or (there != (there[0] if len(there) else 0)).any():
        return None
    dimension = int(there[0]) if len(there) else 0
    weights = np.zeros((len(deleted), dimension), np.float32)
    weights[~deleted] = np.asarray(column.flatten()).reshape(len(there), dimension)
    table, ids = plain(records, "table"), plain(records, "id")
    ascends = (table[1:] > table[:-1]) | ((table[1:] == table[:-1]) & (ids[1:] > ids[:-1]))
    return Rows(table, ids, deleted, weights) if ascends.all() else None
