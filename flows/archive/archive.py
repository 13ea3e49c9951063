"""The archive of one log: which offsets it covers, and reading them."""

from __future__ import annotations

import os
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from flows.archive.names import SegmentName, partition_directory
from flows.archive.segment import Segment
from flows.errors import CorruptionError, DataDirectoryError
from flows.log import READ_BYTES, LogBatch

Range = tuple[int, int]


class Archive:
    """The segments of a log. May be shared by threads; others may add segments meanwhile.

    Parameters
    ----------
    archives : Path
        Directory of all logs' archives.
    log : str
    partitions : int
    """

    def __init__(self, archives: Path, log: str, partitions: int) -> None:
        self.log = log
        self._partitions = [_Partition(partition_directory(archives, log, p), log, p) for p in range(partitions)]

    @staticmethod
    def exists(archives: Path, log: str) -> bool:
        """Whether anything of a log has been archived there."""
        return (archives / log).is_dir()

    def segments(self, partition: int) -> list[SegmentName]:
        """The segments of a partition as they are now, by offset.

        Raises
        ------
        CorruptionError
            Two of them hold the same offsets.
        """
        return self._partitions[partition].look()

    def covered(self, partition: int) -> list[Range]:
        """The offsets [start, end) that a partition's segments hold, as few ranges as possible."""
        out: list[Range] = []
        for segment in self.segments(partition):
            if out and out[-1][1] == segment.start:
                out[-1] = (out[-1][0], segment.end)
            else:
                out.append((segment.start, segment.end))
        return out

    def end(self, partition: int) -> int:
        """Where a partition's last segment ends; 0 without any."""
        return max((segment.end for segment in self.segments(partition)), default=0)

    def read(self, partition: int, position: int, max_records: int) -> list[LogBatch]:
        """Records from exactly `position` on, at most `max_records` of as many offsets (but never less than all of one offset).

        Contiguous, and ended by the end of what is covered; [] where `position` isn't covered.

        Raises
        ------
        CorruptionError
            A segment is damaged.
        """
        return self._partitions[partition].read(position, max_records)

    def position_for_time(self, partition: int, timestamp_ms: int, before: int) -> int | None:
        """The first offset below `before` whose record has a timestamp of at least `timestamp_ms`, None if there is none."""
        return self._partitions[partition].position_for_time(timestamp_ms, before)

    def close(self) -> None:
        """Let go of every file; a second call does nothing."""
        for partition in self._partitions:
            partition.close()


def missing(covered: list[Range], start: int, end: int) -> list[Range]:
    """What of [start, end) isn't covered."""
    out = []
    for low, high in covered:
        if start < min(low, end):
            out.append((start, min(low, end)))
        start = max(start, high)
    if start < end:
        out.append((start, end))
    return out


class _Partition:
    """One partition's segments; the one that was read last stays open, with what is left of its row group."""

    def __init__(self, directory: Path, log: str, partition: int) -> None:
        self._directory, self._log, self._partition = directory, log, partition
        self._lock = threading.Lock()
        self._known: list[SegmentName] = []
        self._open: Segment | None = None
        self._held: list[LogBatch] = []

    def look(self) -> list[SegmentName]:
        """Look what is there."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            names = []
        except OSError as error:
            raise DataDirectoryError(f"archive {self._directory}: can't be read: {error.strerror}") from error
        found = sorted(name for name in map(SegmentName.parse, names) if name is not None)
        for one, next_ in pairwise(found):
            if next_.start < one.end:
                raise CorruptionError(
                    f"archive {self._directory}: the segments {one} and {next_} hold the same offsets; keep the one that "
                    "`tidemark archive verify` finds sound, and move the other away"
                )
        self._known = found
        return found

    def read(self, position: int, max_records: int) -> list[LogBatch]:
        out: list[LogBatch] = []
        at, stop, size, left = position, position + max_records, 0, max_records
        with self._lock:
            while at < stop and left > 0 and size < READ_BYTES:
                if not (self._held and self._held[0].first_offset <= at < self._held[-1].end_offset):
                    segment = self._segment(at)
                    if segment is None:
                        break
                    self._held = segment.read(at)
                for batch in self._held:
                    if at < batch.end_offset and at < stop and left > 0:
                        part = _at_most(batch.between(at, stop), left)
                        out.append(part)
                        at = part.end_offset
                        left -= part.records.num_rows
                        size += part.records.nbytes
            if self._held and at >= self._held[-1].end_offset:
                self._held = []
        return out

    def _segment(self, position: int) -> Segment | None:
        """The segment that covers a position, open."""
        name = _covering(self._known, position) or _covering(self.look(), position)
        if name is None:
            return None
        if self._open is None or self._open.name != name:
            if self._open is not None:
                self._open.close()
                self._open = None
            self._open = Segment(self._directory, name, self._log, self._partition)
        return self._open

    def position_for_time(self, timestamp_ms: int, before: int) -> int | None:
        for name in self.look():
            if name.start >= before:
                break
            peeked = Segment(self._directory, name, self._log, self._partition, trusted=True)
            newest = peeked.info.newest
            peeked.close()
            if newest is None or newest < timestamp_ms:
                continue
            # What says that it has such a record is checked, and looked through.
            segment = Segment(self._directory, name, self._log, self._partition)
            try:
                found = _first_at(segment, timestamp_ms)
            finally:
                segment.close()
            if found is not None:
                return found if found < before else None
        return None

    def close(self) -> None:
        with self._lock:
            if self._open is not None:
                self._open.close()
            self._open, self._held = None, []


def _covering(names: list[SegmentName], position: int) -> SegmentName | None:
    low, high = 0, len(names)
    while low < high:
        middle = (low + high) // 2
        if names[middle].end <= position:
            low = middle + 1
        else:
            high = middle
    return names[low] if low < len(names) and names[low].start <= position else None


def _at_most(batch: LogBatch, records: int) -> LogBatch:
    """The beginning of a batch with at most so many records; all records of its first offset in any case."""
    if batch.records.num_rows <= records:
        return batch
    offsets = batch.offsets_of_records()
    return batch.between(batch.first_offset, max(int(offsets[records]), int(offsets[0]) + 1))


def _first_at(segment: Segment, timestamp_ms: int) -> int | None:
    """The first offset in a segment whose record has at least a timestamp."""
    at = segment.name.start
    while at < segment.name.end:
        for batch in segment.read(at):
            at = batch.end_offset
            names = batch.records.schema.names
            if not batch.records.num_rows or "timestamp" not in names or str(batch.records.schema.field("timestamp").type) != "int64":
                continue
            stamps = pc.fill_null(batch.records.column("timestamp"), -(2**63)).to_numpy(zero_copy_only=False)
            reached = np.flatnonzero(stamps >= timestamp_ms)
            if len(reached):
                return int(batch.offsets_of_records()[reached[0]])
    return None
