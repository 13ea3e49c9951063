"""Examples of all partitions as one sequence, by (ready_time, partition, offset): what an online learner reads.

The sequence is a function of the log alone. A record is handed on when no partition can bring an earlier one any more, and batches are cut on the
sequence by count, and by the times that it says; how much is read at once, and how often somebody looks, changes neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from flows.errors import CorruptionError
from flows.examples.joining import joined
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
    rows : ExampleRows
        n of them.
    partition : int32[n]
    offset : int64[n]
    positions : list of int
        Where each partition goes on behind these rows, and behind the heartbeats of times before the last one's: to begin there is to go on with
        the next row.
    """

    rows: ExampleRows
    partition: np.ndarray
    offset: np.ndarray
    positions: list[int]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(eq=False)
class _Partition:
    """What was read of a partition and not handed on; `watermark` is the latest time of a record that was read, `heartbeats` are as of `Stretch`."""

    once: Once
    watermark: int
    waiting: list[Stretch]
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
        Rows of each batch.
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
        self._merged: MergedBatch | None = None
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
        rows = slice(self._at, self._at + size)
        self._at = rows.stop
        partition, offset = self._merged.partition[rows], self._merged.offset[rows]
        for p in np.unique(partition).tolist():
            self._positions[p] = int(offset[partition == p][-1]) + 1
        # All of those have been read: the last row is handed on because each partition has reached its time.
        last = int(self._merged.rows.ready_time[self._at - 1])
        self._positions = [max(at, part.passed(last)) for at, part in zip(self._positions, self._parts, strict=True)]
        return MergedBatch(self._merged.rows.at(rows), partition, offset, list(self._positions))

    def _left(self) -> int:
        return len(self._merged) - self._at if self._merged is not None else 0

    def _whole(self) -> int:
        """How many rows the next batch has, by what is merged; 0 if more may belong to it."""
        n = min(self._left(), self._batch_rows)
        if self._merged is not None and n and self._span_ms is not None:
            times = self._merged.rows.ready_time[self._at : self._at + n]
            n = int(np.searchsorted(times, self._span_end(), "left"))
        return n if n == self._batch_rows or n < self._left() else 0

    def _passed(self) -> bool:
        """Whether no partition can bring more rows of the next batch's span; what they have brought is merged."""
        return self._span_ms is not None and self._left() > 0 and min(part.watermark for part in self._parts) >= self._span_end()

    def _span_end(self) -> int:
        assert self._merged is not None
        assert self._span_ms is not None
        return (int(self._merged.rows.ready_time[self._at]) // self._span_ms + 1) * self._span_ms

    def _append(self, taken: MergedBatch) -> None:
        if self._merged is not None and self._left():
            rest = np.arange(self._at, len(self._merged))
            partition = np.concatenate([self._merged.partition[rest], taken.partition])
            offset = np.concatenate([self._merged.offset[rest], taken.offset])
            taken = MergedBatch(joined([self._merged.rows.take(rest), taken.rows]), partition, offset, [])
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

    def _take(self, time: int, partition: int) -> MergedBatch | None:
        """The waiting rows up to (time, partition), in order; None if there are none."""
        found: list[tuple[int, ExampleRows, np.ndarray]] = []
        for p, part in enumerate(self._parts):
            while part.waiting:
                first = part.waiting[0]
                n = int(np.searchsorted(first.rows.ready_time, time, "right" if p <= partition else "left"))
                if n:
                    found.append((p, first.rows.take(np.arange(n)), first.offset[:n]))
                if n < len(first.rows):
                    if n:
                        rest = first.rows.take(np.arange(n, len(first.rows)))
                        part.waiting[0] = Stretch(rest, first.offset[n:], first.end, first.watermark, first.heartbeats)
                    break
                part.waiting.pop(0)
        if not found:
            return None
        rows = joined([rows for _, rows, _ in found])
        partitions = np.repeat(np.array([p for p, _, _ in found], np.int32), [len(rows) for _, rows, _ in found])
        offsets = np.concatenate([offset for _, _, offset in found])
        order = np.lexsort((offsets, partitions, rows.ready_time))
        return MergedBatch(rows.at(order), partitions[order], offsets[order], [])


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
