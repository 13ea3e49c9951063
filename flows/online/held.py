"""What Redis holds: one hash for each task, with all its entities' rows and the mark of what they reflect.

One hash, for Redis replaces, renames, evicts and reads a key as one: a reader sees rows and mark of the same moment or neither,
and one that was lost takes its mark with it, so that nobody takes what is left for the whole.

======= ======================= ============================================================================================
field   of                      value (`flows.kernels.packing`)
======= ======================= ============================================================================================
m       the task                the mark, as JSON
s + ID  a user                  newest 128 engagements, oldest first: event_time, codes, pin_id, duration_ms
r + ID  a user or a pin         revisits that state had when the entity last changed: other, kind, time, weight
t + ID  a topic                 tiles of the partition: kind, hour, weight; the ID is the hash of its name
======= ======================= ============================================================================================

An ID is 8 bytes, big-endian. Event IDs and offsets aren't held: they give sequences their order, which the rows have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import orjson

from flows.errors import OnlineStoreError
from flows.kernels.packing import pack_rows, unpack_rows
from flows.kernels.reads import group_bounds
from flows.kernels.rows import CUT, SEQUENCE_CODES
from flows.settings import Settings
from flows.state import tables
from flows.state.meta import Meta
from flows.state.runs import Table

FORMAT = 1
MARK = b"m"
# Of each table: what begins its fields, and the columns that are held; the first, the entity, is in the field's name.
_HELD = {
    tables.SEQUENCES.name: (b"s", [1, SEQUENCE_CODES, 4, 5]),
    tables.REVISITS.name: (b"r", [1, 2, 3, 4]),
    tables.TILES.name: (b"t", [1, 2, 3]),
}

Pairs = list[bytes]
"""Fields, each followed by its value."""


@dataclass(frozen=True)
class Mark:
    """What the rows of a task in Redis reflect.

    Attributes
    ----------
    fingerprint, partitions
        Of the data directory.
    corrected_to, position, watermark, applied, expired_to
        As of `flows.state.meta.Meta`.
    first, last : str
        Digests of the log's first record and of the one before `position`, by which another log is told from this one; empty if there is none.
    """

    fingerprint: str
    partitions: int
    corrected_to: int
    position: int
    watermark: int | None
    applied: dict[int, int]
    expired_to: int
    first: str
    last: str
    format: int = FORMAT

    @classmethod
    def of(cls, meta: Meta, partitions: int, first: str, last: str) -> Mark:
        """Of a task's commit."""
        return cls(
            meta.fingerprint, partitions, meta.corrected_to, meta.position, meta.watermark, meta.applied, meta.expired_to, first, last
        )

    def to_bytes(self) -> bytes:
        """As it is held; equal marks are equal bytes."""
        applied = dict(sorted(self.applied.items()))
        return orjson.dumps({**self.__dict__, "applied": applied}, option=orjson.OPT_NON_STR_KEYS)

    @classmethod
    def from_bytes(cls, data: bytes) -> Mark | None:
        """Read a mark; None if it is of another format, or none at all."""
        try:
            content = orjson.loads(data)
            if content["format"] != FORMAT:
                return None
            return cls(**{**content, "applied": {int(origin): last for origin, last in content["applied"].items()}})
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    def meta(self, flow: str, partition: int) -> Meta:
        """The same as the readers of task state have it."""
        kept = {name: getattr(self, name) for name in ("fingerprint", "corrected_to", "position", "watermark", "applied", "expired_to")}
        return dataclasses.replace(Meta(flow, partition, ""), **kept)


def key_of(settings: Settings, flow: str, partition: int) -> str:
    """The key of a task's hash."""
    return f"{settings.online_prefix}{flow}/{partition:04d}"


def fields_of(table: Table, ids: np.ndarray) -> list[bytes]:
    """Fields of entities."""
    prefix, _ = _HELD[table.name]
    data = np.asarray(ids, np.int64).astype(">i8").tobytes()
    return [prefix + data[i : i + 8] for i in range(0, len(data), 8)]


def pairs_of(table: Table, rows: np.ndarray) -> Pairs:
    """Folded rows of whole entities, sorted, as fields and values."""
    _, columns = _HELD[table.name]
    bounds = group_bounds(rows[:, 0])
    kept = rows[:, columns]
    if table is tables.SEQUENCES:
        # Action, surface and whether older ones were cut off; behind them lies the offset.
        kept[:, 1] &= CUT | (CUT - 1)
    pairs: Pairs = [b""] * (2 * (len(bounds) - 1))
    pairs[::2] = fields_of(table, rows[bounds[:-1], 0])
    pairs[1::2] = pack_rows(kept, bounds)
    return pairs


def rows_in(table: Table, ids: np.ndarray, values: Sequence[bytes | None], where: str) -> np.ndarray:
    """Rows of entities, from their values in Redis; none of those without one.

    Parameters
    ----------
    ids : int64[n]
        Sorted, distinct.
    values : sequence of bytes or None
        n values.
    where : str
        For the message.

    Raises
    ------
    OnlineStoreError
        A value is not what was written.
    """
    _, columns = _HELD[table.name]
    there = np.array([value is not None for value in values], np.bool_)
    unpacked = unpack_rows([value for value in values if value is not None], len(columns))
    if unpacked is None:
        raise OnlineStoreError(f"{where}: a value is not what was written; delete the key, and `tidemark online sync` writes it again")
    packed, bounds = unpacked
    rows = np.zeros((len(packed), table.columns), np.int64)
    rows[:, 0] = np.repeat(ids[there], np.diff(bounds))
    rows[:, columns] = packed
    return rows
