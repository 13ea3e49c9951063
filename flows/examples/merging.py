"""Examples of all partitions as one sequence, by (ready_time, partition, offset): what an online learner reads.

Records of one offset, as a message of Kafka holds many, go together, at the time of the last one: a position can't lie between them. The
sequence is a function of the log alone. A record is handed on when no partition can bring an earlier one any more, and batches are cut on the
sequence by count, and by the times that it says; how much is read at once, and how often somebody looks, changes neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from flows.errors import CorruptionError
from flows.examples.picked import Picked
from flows.examples.record import EXAMPLES
from flows.examples.rows import ExampleRows
from flows.examples.store import READ_RECORDS, Examples, Fingerprints, Once, Stretch

_NOTHING_YET = -(2**62)
_ENDED = 2**62


@dataclass(frozen=True, eq=False)
class MergedBatch:
    """Consecutive rows of the sequence.

    Attributes
    ----------
    picked : Picked
        n of them, out of what was read.
    partition : int32[n]
    offset, ready_time : int64[n]
        ``ready_time`` is that of the last row with the same offset.
    positions : list of int
        Where each partition goes on behind these rows, and behind the heartbeats of times before the last one's: to begin there is to go on with
        the next row.
    """

    picked: Picked
    partition: np.ndarray
    offset: np.ndarray
    ready_time: np.ndarray
    positions: list[int]

    def __len__(self) -> int:
        return len(self.picked)

    @cached_property
    def rows(self) -> ExampleRows:
        """The same, copied."""
        return self.picked.rows()


@dataclass(frozen=True, eq=False)
class _Sequence:
    """Rows whose turn has come: `row` of `sources[source]`, which are stretches with their partition; `first` of their offset, or not."""

    sources: list[tuple[int, Stretch]]
    source: np.ndarray
    row: np.ndarray
    ready_time: np.ndarray
    first: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    def part(self, low: int, high: int | None = None) -> _Sequence:
        """Some neighbours, with the sources that they are of."""
        source = self.source[low:high]
        used = np.bincount(source, minlength=len(self.sources)) > 0
        sources = [one for one, there in zip(self.sources, used.tolist(), strict=True) if there]
        return _Sequence(sources, (np.cumsum(used) - 1)[source], self.row[low:high], self.ready_time[low:high], self.first[low:high])

    def followed_by(self, other: _Sequence) -> _Sequence:
        source = np.concatenate([self.source, other.source + len(self.sources)])
        row, ready_time = np.concatenate([self.row, other.row]), np.concatenate([self.ready_time, other.ready_time])
        return _Sequence([*self.sources, *other.sources], source, row, ready_time, np.concatenate([self.first, other.first]))

    def batch(self, positions: list[int]) -> MergedBatch:
        """All of it, where those before it ended at `positions`."""
        # Of each source the rows follow one another, so they lie between the first and the last one.
        low, high = np.full((2, len(self.sources)), -1)
        high[self.source] = self.row + 1
        low[self.source[::-1]] = self.row[::-1]
        sizes = high - low
        index = (np.cumsum(sizes) - sizes - low)[self.source] + self.row
        spans = list(zip(self.sources, low.tolist(), high.tolist(), strict=True))
        positions = list(positions)
        offset = np.concatenate([stretch.offset[first:behind] for (_, stretch), first, behind in spans])[index]
        for (partition, stretch), _, behind in spans:
            positions[partition] = max(positions[partition], int(stretch.offset[behind - 1]) + 1)
        partitions = np.array([partition for partition, _ in self.sources], np.int32)[self.source]
        picked = Picked([(stretch.rows, first, behind) for (_, stretch), first, behind in spans], index)
        return MergedBatch(picked, partitions, offset, self.ready_time, positions)


@dataclass(eq=False)
class _Partition:
    """What was read of a partition and not handed on; `watermark` is the latest time of a record that was read, `heartbeats` are as of `Stretch`.

    Of the first stretch that waits, `taken` rows have been handed on.
    """

    once: Once
    watermark: int
    waiting: list[Stretch]
    taken: int = 0
    heartbeats: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))

    def passed(self, time: int) -> int:
        """Where what follows the heartbeats before a time begins, 0 if there are none; they are not remembered any more."""
        n = int(np.searchsorted(self.heartbeats[:, 0], time, "left"))
        behind = int(self.heartbeats[n - 1, 1]) + 1 if n else 0
        self.heartbeats = self.heartbeats[n:]
        return behind


class Merged:
    """See the module.

    Parameters
    ----------
    examples : Examples
    positions : sequence of int
        Where each partition begins: 0, or what a batch's `positions` said.
    batch_rows : int
        Rows of each batch; less, or more, by as much as it takes to end where an offset does.
    span_ms : int, optional
        A batch's rows became known in one span of so many ms, counted from 1970: then it may be smaller, and nobody waits until few make many.
    fingerprint : str or Fingerprints, optional
        As of `flows.examples.store.final_rows`.
    read_records : int
        Records decoded together. Never changes a result.
    """

    def __init__(
        self,
        examples: Examples,
        positions: Sequence[int],
        batch_rows: int,
        fingerprint: str | Fingerprints | None = None,
        read_records: int = READ_RECORDS,
        span_ms: int | None = None,
    ) -> None:
        self._batch_rows, self._span_ms, self._checked = batch_rows, span_ms, Fingerprints.of(fingerprint)
        self._parts = [
            _Partition(Once(examples, p, position, read_records), _time_before(examples, p, position), [])
            for p, position in enumerate(positions)
        ]
        self._positions = list(positions)
        # Rows whose turn has come, and how many of them were handed on.
        self._merged: _Sequence | None = None
        self._at = 0

    def next(self, ended: bool = False) -> MergedBatch | None:
        """The next batch; None if what is there makes none yet.

        Parameters
        ----------
        ended : bool
            No record will follow those that are there now: all are handed on, and the last batch may be smaller.
        """
        while not (size := self._whole()):
            if not self._advance(ended):
                size = self._left() if ended or self._passed() else 0
                break
        if not size:
            return None
        assert self._merged is not None
        found = self._merged.part(self._at, self._at + size)
        self._at += size
        # All of those have been read: the last row is handed on because each partition has reached its time.
        last = int(found.ready_time[-1])
        batch = found.batch(self._positions)
        self._positions = [max(at, part.passed(last)) for at, part in zip(batch.positions, self._parts, strict=True)]
        return replace(batch, positions=list(self._positions))

    def _left(self) -> int:
        return len(self._merged) - self._at if self._merged is not None else 0

    def _whole(self) -> int:
        """How many rows the next batch has, by what is merged; 0 if more may belong to it."""
        left = self._left()
        n = min(left, self._batch_rows)
        if self._merged is None or not n:
            return 0
        if n < left:
            # Rows of one offset have come together. Those of one that has more than a batch's are a batch of their own.
            first = self._merged.first[self._at :]
            ends = np.flatnonzero(first[1 : n + 1])
            n = int(ends[-1]) + 1 if len(ends) else next(iter((np.flatnonzero(first[n + 1 :]) + n + 1).tolist()), left)
        if self._span_ms is not None:
            times = self._merged.ready_time[self._at : self._at + n]
            n = int(np.searchsorted(times, self._span_end(), "left"))
        return n if n >= self._batch_rows or n < left else 0

    def _passed(self) -> bool:
        """Whether no partition can bring more rows of the next batch's span; what they have brought is merged."""
        return self._span_ms is not None and self._left() > 0 and min(part.watermark for part in self._parts) >= self._span_end()

    def _span_end(self) -> int:
        assert self._merged is not None
        assert self._span_ms is not None
        return (int(self._merged.ready_time[self._at]) // self._span_ms + 1) * self._span_ms

    def _append(self, taken: _Sequence) -> None:
        if self._merged is not None and self._left():
            taken = self._merged.part(self._at).followed_by(taken)
        self._merged, self._at = taken, 0

    def _advance(self, ended: bool) -> bool:
        """Take more rows into the sequence, or read more so that it can be; whether either was done."""
        bounds = [(part.watermark, p) for p, part in enumerate(self._parts)]
        while bounds:
            bound = min(bounds)
            taken = self._take(*bound)
            if taken is not None:
                self._append(taken)
                return True
            if bound[0] == _ENDED:
                return False
            # Nothing lies before what this one may still bring.
            part = self._parts[bound[1]]
            stretch = part.once.read()
            if stretch is not None:
                self._checked.check(stretch.rows, bound[1])
                _refuse_running_back(stretch, part.watermark, bound[1])
                # What is repeated is of times that have passed.
                part.watermark = max(part.watermark, stretch.watermark)
                part.waiting.append(stretch)
                part.heartbeats = np.concatenate([part.heartbeats, stretch.heartbeats])
                return True
            if not ended:
                return False
            bounds[bound[1]] = (_ENDED, bound[1])
        return False

    def _take(self, time: int, partition: int) -> _Sequence | None:
        """The waiting rows up to (time, partition), in order; None if there are none."""
        sources, rows, times, firsts = [], [], [], []
        for p, part in enumerate(self._parts):
            while part.waiting:
                first, low = part.waiting[0], part.taken
                high = int(np.searchsorted(first.time, time, "right" if p <= partition else "left"))
                if high > low:
                    sources.append((p, first))
                    rows.append(np.arange(low, high))
                    times.append(first.time[low:high])
                    firsts.append(np.diff(first.offset[low:high], prepend=-1) != 0)
                    part.taken = high
                if high < len(first.rows):
                    break
                part.waiting.pop(0)
                part.taken = 0
        if not sources:
            return None
        # By partition and offset they are in order already.
        source, row, ready_time = np.repeat(np.arange(len(rows)), [len(one) for one in rows]), np.concatenate(rows), np.concatenate(times)
        order = np.argsort(ready_time, kind="stable")
        return _Sequence(sources, source[order], row[order], ready_time[order], np.concatenate(firsts)[order])


def _refuse_running_back(stretch: Stretch, before: int, partition: int) -> None:
    times = stretch.rows.ready_time
    if len(times) and (times[0] < before or (np.diff(times) < 0).any()):
        raise CorruptionError(
            f"log '{EXAMPLES}', partition {partition}: before offset {stretch.end} an example became known before the one ahead of it; two makers of "
            "examples have written there, backfill into files instead (--out)"
        )


def _time_before(examples: Examples, partition: int, position: int) -> int:
    """The time of the last record before a position: none that follows is earlier."""
    if position == 0 or not examples.dense:
        # Of a log with holes it is told by the next record; until then nothing passes.
        return _NOTHING_YET
    last = examples.read(partition, position - 1, 1)
    return int(last[0].records.column("timestamp")[0].as_py())
