"""The archiver of one partition: takes what its log gives, leaves out what is archived, publishes segments.

Its position is in the segments' names alone. Killed anywhere, it leaves segments without a fault and maybe a draft, which the next one removes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.archive.archive import Archive, missing
from flows.archive.comparing import first_difference
from flows.archive.joined import refuse_beyond
from flows.archive.lock import locked
from flows.archive.names import DRAFT, partition_directory
from flows.archive.writing import SegmentWriter, pieces
from flows.errors import DataDirectoryError, LogError, RetentionError
from flows.log import Log, LogBatch

# Offsets before the first that isn't archived that are read again, and must be what was archived.
OVERLAP = 64


def begin(archives: Path, log: Log, partition: int, leave_gap: bool = False) -> int:
    """Where a partition's log must be read from, so that nothing is left out that the log has and the archive lacks.

    Parameters
    ----------
    leave_gap : bool
        Go on where the log begins, though that is beyond the archive's end.

    Raises
    ------
    RetentionError
        The log no longer has what comes next.
    LogError
        The log ends before its archive does.
    """
    archive = Archive(archives, log.name, log.partitions)
    archived, covered = archive.end(partition), archive.covered(partition)
    end, start = log.end_position(partition), log.start_positions()[partition]
    refuse_beyond(log.name, partition, end, archived, str(archives))
    if archived and start > archived and not leave_gap:
        raise RetentionError(
            f"log '{log.name}', partition {partition}: offsets {archived} to {start - 1} are lost: the archive ends at {archived}, and the log "
            f"begins at {start} by its retention; `tidemark archive run --leave-gap` archives what there is; to read what is lost stays an error"
        )
    first = next(iter(missing(covered, start, end)), (end, end))[0]
    known = [low for low, high in covered if low < first <= high]
    return max(start, first - OVERLAP, *known) if known else max(start, first)


class ArchiverTask:
    """Archives a partition; alone in its directory.

    Parameters
    ----------
    archives : Path
    log : str
    partition : int
    partitions : int
    max_delay_s : float or None
        Publish a segment that has been open for so long, however small; None: only when it is full, and at the end.

    Attributes
    ----------
    position : int
        Where what is published ends.
    reached : int
        Next offset to take.
    seen : None
        It judges no event times.
    refused : int
        0, for it judges nothing.

    Raises
    ------
    LockedError
        Another archives the partition.
    """

    seen: int | None = None
    refused: int = 0
    working_set_bytes: int = 0

    def __init__(self, archives: Path, log: str, partition: int, partitions: int, max_delay_s: float | None = None) -> None:
        self.partition = partition
        self._log, self._archives = log, archives
        self._directory = partition_directory(archives, log, partition)
        self._max_delay_s = max_delay_s
        self._writer: SegmentWriter | None = None
        self._since = 0.0
        self._archive = Archive(archives, log, partitions)
        self._lock: int | None = locked(self._directory)
        try:
            (self._directory / DRAFT).unlink(missing_ok=True)
            self._covered = self._archive.covered(partition)
        except OSError as error:
            self.abandon()
            raise DataDirectoryError(f"archive {self._directory}: can't write to it: {error.strerror}") from error
        except BaseException:
            self.abandon()
            raise
        self.position = self._archive.end(partition)
        self.reached = 0

    def apply(self, batches: Sequence[LogBatch], decoded: Any = None) -> int:
        """Take some batches, which go on where the last ones ended. Returns how many records of them were not archived yet.

        Raises
        ------
        LogError
            What is archived is not what the log holds.
        CorruptionError
            The segment that this must go on from is damaged.
        StorageFullError, DataDirectoryError
            A segment can't be written; what was published stays.
        """
        taken = 0
        for batch in batches:
            new = missing(self._covered, batch.first_offset, batch.end_offset)
            for low, high in missing(new, batch.first_offset, batch.end_offset):
                self._compare(batch.between(max(low, high - OVERLAP), high))
            for low, high in new:
                for piece in pieces(batch.between(low, high)):
                    self._add(piece)
                    taken += piece.records.num_rows
            self.reached = batch.end_offset
        return taken

    def catch_up(self, position: int) -> int:
        """Begin at a position: what lies before it is archived, or lost."""
        self.reached = position
        return 0

    def settled(self) -> bool:
        """Whether nothing waits for its time; publishes what has waited long enough."""
        if self._writer is None or self._max_delay_s is None:
            return True
        if time.monotonic() - self._since >= self._max_delay_s:
            self._publish()
        return self._writer is None

    def close(self) -> None:
        """Publish what there is, and let go of the partition."""
        try:
            if self._writer is not None:
                self._publish()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of the partition with nothing more published."""
        if self._writer is not None:
            self._writer.discard()
            self._writer = None
        self._archive.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _add(self, piece: LogBatch) -> None:
        if self._writer is not None and not self._writer.takes(piece):
            self._publish()
        if self._writer is None:
            self._writer = SegmentWriter(self._directory, self._log, self.partition, piece.first_offset)
            self._since = time.monotonic()
        self._writer.add(piece)
        if self._writer.full:
            self._publish()

    def _publish(self) -> None:
        if self._writer is not None:
            name = self._writer.publish()
            self.position = max(self.position, name.end)
            self._writer = None

    def _compare(self, batch: LogBatch) -> None:
        """Refuse to go on from what another log of this name has left."""
        archived, at = [], batch.first_offset
        while at < batch.end_offset:
            archived += self._archive.read(self.partition, at, batch.end_offset - at)
            if not archived or archived[-1].end_offset <= at:
                raise LogError(f"archive {self._directory}: a segment at offset {at} has gone while this was at work; run it again")
            at = archived[-1].end_offset
        differs = first_difference(archived, [batch])
        if differs is not None:
            raise LogError(
                f"log '{self._log}', partition {self.partition}: from offset {differs} on the archive in {self._archives} doesn't hold what the "
                "log holds: the log was made anew, or it is the archive of another; set `archive` to another directory, or move the old one away"
            )
