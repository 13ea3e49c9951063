"""Which prefix of the logs a read reflects, whole: what goes with a served row, so that the same prefix can be read again.

A task's position alone doesn't say it. A user's row follows its ACTIONS partition up to a position, as corrections up to a number make it; a pin's
row follows, of each ACTIONS partition, so many of the changes that it put out. Log offsets of REVISITS are no part of it: the order in which origins
interleave there enters no state, and a REVISITS log that was made anew has another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flows.answers import EntityReader
from flows.outputs import ACTIONS, REVISITS

_FORMAT = 1


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
    """

    actions: np.ndarray
    corrected_to: np.ndarray
    applied: np.ndarray

    @classmethod
    def of(cls, reader: EntityReader) -> Positions:
        """Of what a reader has caught up with."""
        partitions = reader.settings.partitions
        actions, corrected = np.zeros(partitions, np.int64), np.zeros(partitions, np.int64)
        applied = np.zeros((partitions, partitions), np.int64)
        for p in range(partitions):
            if (meta := reader.meta(ACTIONS, p)) is not None:
                actions[p], corrected[p] = meta.position, meta.corrected_to
            if (meta := reader.meta(REVISITS, p)) is not None:
                for origin, last in meta.applied.items():
                    applied[p, origin] = last + 1
        return cls(actions, corrected, applied)

    def to_bytes(self) -> bytes:
        """Equal prefixes are equal bytes."""
        header = np.array([_FORMAT, len(self.actions)], "<i8")
        return b"".join(part.astype("<i8").tobytes() for part in (header, self.actions, self.corrected_to, self.applied))

    @classmethod
    def from_bytes(cls, data: bytes) -> Positions | None:
        """Read them back; None if they are of another format, or none at all."""
        if len(data) < 16 or len(data) % 8:
            return None
        numbers = np.frombuffer(data, "<i8").astype(np.int64)
        form, partitions = int(numbers[0]), int(numbers[1])
        if form != _FORMAT or partitions < 1 or len(numbers) != 2 + partitions * (2 + partitions) or (numbers < 0).any():
            return None
        actions, corrected, applied = np.split(numbers[2:], [partitions, 2 * partitions])
        return cls(actions, corrected, applied.reshape(partitions, partitions))
