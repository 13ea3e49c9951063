"""Two logs of one partition as one sequence, by (arrival, input, offset), up to the lower arrival of the two.

What comes out, and in which order, is a function of the two prefixes; how they are read, and in which stretches, enters nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from flows.decode_values import timestamps_of
from flows.errors import CorruptionError
from flows.kernels.layout import NEVER
from flows.log import Log, LogBatch, read_before


@dataclass
class Side:
    """One input: how far it is read, and what of that is not taken yet.

    Attributes
    ----------
    log : Log
    partition : int
    position : int
        Next offset to take.
    arrival : int
        Greatest timestamp before it, ms; -NEVER for none.
    most : int
        Records that one read gives at most.
    end : int or None
        Where it is read to; None: wherever it ends.
    closed : bool
        Nothing comes behind `end` that would go before what lies before it.
    """

    log: Log
    partition: int
    position: int
    arrival: int
    most: int
    end: int | None = None
    closed: bool = False
    batches: list[LogBatch] = field(default_factory=list)
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    offsets: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        self._read_to = self.position
        self._read_arrival = self.arrival

    @property
    def reached(self) -> int:
        """Whatever comes arrives at this time or later."""
        return int(NEVER) if self.closed and self.end is not None and self._read_to >= self.end else self._read_arrival

    def read(self) -> bool:
        """Read on; False if there is nothing."""
        end = self.log.end_position(self.partition) if self.end is None else self.end
        if self._read_to >= end:
            return False
        batches = read_before(self.log, end, self.partition, self._read_to, self.most)
        if not batches:
            raise CorruptionError(
                f"log '{self.log.name}', partition {self.partition}: records from offset {self._read_to} on are missing; restore the log"
            )
        self.batches += batches
        keys, offsets = [self.keys], [self.offsets]
        for batch in batches:
            of_records = batch.offsets_of_records()
            if not len(of_records):
                continue
            running = np.maximum(np.maximum.accumulate(timestamps_of(batch.records)), self._read_arrival)
            # Records of one offset are taken together, so they have one place: that of the last.
            keys.append(running if batch.offsets is None else running[np.searchsorted(of_records, of_records, "right") - 1])
            offsets.append(of_records)
            self._read_arrival = int(running[-1])
        self.keys, self.offsets = np.concatenate(keys), np.concatenate(offsets)
        self._read_to = batches[-1].end_offset
        return True

    def whole(self, n: int) -> int:
        """`n` records, and those of the last one's offset."""
        return int(np.searchsorted(self.offsets, self.offsets[n - 1], "right")) if n else 0

    def take(self, n: int) -> tuple[list[LogBatch], np.ndarray]:
        """Take away the first n records: as batches, and their places."""
        position = self._read_to if n == len(self.keys) else int(self.offsets[n])
        taken = [b.between(self.position, position) for b in self.batches if b.first_offset < position]
        self.batches = [b.between(position, b.end_offset) for b in self.batches if b.end_offset > position]
        keys = self.keys[:n]
        self.keys, self.offsets = self.keys[n:], self.offsets[n:]
        self.position = position
        if n:
            self.arrival = int(keys[-1])
        return [b for b in taken if b.records.num_rows], keys


@dataclass(frozen=True)
class Stretch:
    """Consecutive records of the merged sequence.

    Attributes
    ----------
    actions, served : list of LogBatch
    action_arrival, served_arrival : int64[n], int64[m]
        By which they are merged, ms: neither runs back.
    place : int64[m]
        How many of the actions go before each served record.
    before, after : (int, int)
        Positions in ACTIONS and SERVED.
    served_reached : int
        Arrival of the last served record up to there, ms; -NEVER for none.
    """

    actions: list[LogBatch]
    served: list[LogBatch]
    action_arrival: np.ndarray
    served_arrival: np.ndarray
    place: np.ndarray
    before: tuple[int, int]
    after: tuple[int, int]
    served_reached: int


class Merger:
    """The merged sequence of a partition's actions and what it was served, actions first where both arrive at once.

    Parameters
    ----------
    actions, served : Side
    """

    def __init__(self, actions: Side, served: Side) -> None:
        self._actions, self._served = actions, served

    def next(self, most: int) -> Stretch | None:
        """The next records, about `most` actions at most; None if no more can be taken as long as the logs are as they are."""
        while self._passing()[0] < most:
            # The one that is behind decides. Where it has no more, whatever the other has could come after what is still to come.
            behind = self._actions if self._actions.reached <= self._served.reached else self._served
            if sum(self._passing()) and behind.most <= len(behind.keys):
                break
            if not behind.read():
                break
        n, m = self._passing()
        n = self._actions.whole(min(n, most))
        if n < len(self._actions.keys):
            m = min(m, int(np.searchsorted(self._served.keys, self._actions.keys[n], "left")))
        before = (self._actions.position, self._served.position)
        if not n and not m:
            return None
        actions, action_arrival = self._actions.take(n)
        served, served_arrival = self._served.take(m)
        place = np.searchsorted(action_arrival, served_arrival, "right")
        after = (self._actions.position, self._served.position)
        return Stretch(actions, served, action_arrival, served_arrival, place, before, after, self._served.arrival)

    def _passing(self) -> tuple[int, int]:
        """How many of the records that are read have their place whatever is still to come."""
        n = int(np.searchsorted(self._actions.keys, self._served.reached, "right"))
        m = int(np.searchsorted(self._served.keys, self._actions.reached, "left"))
        return n, m
