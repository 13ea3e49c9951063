"""Which prefix of the logs a read reflects, whole: what goes with a served row, so that the same prefix can be read again.

A task's position alone doesn't say it. A user's row follows its ACTIONS partition up to a position, as corrections up to a number make it; a pin's
row follows, of each ACTIONS partition, so many of the changes that it put out. Log offsets of REVISITS are no part of it: the order in which origins
interleave there enters no state, and a REVISITS log that was made anew has another. Where user embeddings were at hand, it says which table of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

import numpy as np

from flows.answers import EntityReader
from flows.outputs import ACTIONS, REVISITS

_FORMAT = 1
# With the version and the number of a table of user embeddings behind all else.
_WITH_EMBEDDING = 2
_HEADER, _EMBEDDING = Struct("<qq"), Struct("<qq")


@dataclass(frozen=True, eq=False)
class Positions:
    """A prefix.

    Attributes
    ----------
    actions : int64[p]
        Next offset of each ACTIONS partition.
    corrected_to : int64[p]
        The newest correction that the rows of its users reflect.
    applied : int64[p, p]
        Row: partition of REVISITS; column: origin. How many of the origin's changes for that partition are applied, 0 for none.
    embedding : (int, int) or None
        Version and number of the table of user embeddings that was at hand; None: there was none.
    """

    actions: np.ndarray
    corrected_to: np.ndarray
    applied: np.ndarray
    embedding: tuple[int, int] | None = None

    @classmethod
    def of(cls, reader: EntityReader) -> Positions:
        """Of what a reader has caught up with."""
        partitions = reader.settings.partitions
        actions, corrected = np.zeros(partitions, np.int64), np.zeros(partitions, np.int64)
        applied = np.zeros((partitions, partitions), np.int64)
        for p in range(partitions):
            if (meta := reader.readable_meta(ACTIONS, p)) is not None:
                actions[p], corrected[p] = meta.position, meta.corrected_to
            if (meta := reader.readable_meta(REVISITS, p)) is not None:
                for origin, last in meta.applied.items():
                    applied[p, origin] = last + 1
        return cls(actions, corrected, applied)

    def to_bytes(self) -> bytes:
        """Equal prefixes are equal bytes."""
        header = np.array([_FORMAT, len(self.actions)], "<i8")
        packed = b"".join(part.astype("<i8").tobytes() for part in (header, self.actions, self.corrected_to, self.applied))
        return packed if self.embedding is None else with_embedding(packed, *self.embedding)

    @classmethod
    def from_bytes(cls, data: bytes) -> Positions | None:
        """Read them back; None if they are of another format, or none at all."""
        if not _is_one(data):
            return None
        numbers, embedding = np.frombuffer(data, "<i8").astype(np.int64), embedding_of(data)
        if embedding is not None:
            numbers = numbers[:-2]
        partitions = int(numbers[1])
        if (numbers < 0).any():
            return None
        actions, corrected, applied = np.split(numbers[2:], [partitions, 2 * partitions])
        return cls(actions, corrected, applied.reshape(partitions, partitions), embedding)


def _is_one(data: bytes) -> bool:
    """Whether some bytes have the form of a prefix."""
    if len(data) < 16:
        return False
    form, partitions = _HEADER.unpack_from(data)
    behind = {_FORMAT: 0, _WITH_EMBEDDING: _EMBEDDING.size}.get(form)
    return behind is not None and partitions >= 1 and len(data) == _HEADER.size + 8 * partitions * (2 + partitions) + behind


def embedding_of(packed: bytes) -> tuple[int, int] | None:
    """`Positions.embedding` of a packed prefix, without reading the rest of it; None also where it is none."""
    if not _is_one(packed) or _HEADER.unpack_from(packed)[0] != _WITH_EMBEDDING:
        return None
    version, table = _EMBEDDING.unpack_from(packed, len(packed) - _EMBEDDING.size)
    return (version, table) if min(version, table) >= 1 else None


def with_embedding(packed: bytes, version: int, table: int) -> bytes:
    """What `Positions.to_bytes` gave of a prefix without a table of user embeddings, with one."""
    return np.array([_WITH_EMBEDDING], "<i8").tobytes() + packed[8:] + np.array([version, table], "<i8").tobytes()
