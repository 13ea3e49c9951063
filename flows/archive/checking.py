"""What the archive covers, and whether it is sound."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from flows.archive.archive import Archive, Range, missing
from flows.archive.comparing import first_difference
from flows.archive.joined import refuse_beyond
from flows.archive.names import DRAFT, SegmentName, partition_directory
from flows.archive.segment import Segment
from flows.errors import TidemarkError
from flows.log import Log, LogBatch, read_before
from flows.settings import Settings

_READ_RECORDS = 65_536


@dataclass(frozen=True)
class Coverage:
    """What the archive has of a partition, beside its log.

    Attributes
    ----------
    start, end : int
        Where its first segment begins and its last one ends.
    segments, bytes : int
    missing : list of (int, int)
        Offsets [from, to) below the log's end that neither has, after the first that either has.
    lag : int
        Offsets that the log has and the archive lacks.
    live_start, live_end : int
    """

    log: str
    partition: int
    start: int
    end: int
    segments: int
    bytes: int
    missing: list[Range]
    lag: int
    live_start: int
    live_end: int


def coverage(settings: Settings, log: Log, partition: int) -> Coverage:
    """What the archive covers of a partition."""
    archive = Archive(settings.archives, log.name, log.partitions)
    names, covered = archive.segments(partition), archive.covered(partition)
    start, end = covered[0][0] if covered else 0, covered[-1][1] if covered else 0
    live_start, live_end = log.start_positions()[partition], log.end_position(partition)
    directory = partition_directory(settings.archives, log.name, partition)
    size = sum((directory / str(name)).stat().st_size for name in names)
    lost = missing(covered, min(start, live_start), live_start) if covered else []
    lag = sum(high - low for low, high in missing(covered, live_start, live_end))
    return Coverage(log.name, partition, start, end, len(names), size, lost, lag, live_start, live_end)


def stored_bytes(settings: Settings, log: str) -> int:
    """What a log's archive takes on the disk."""
    return sum(path.stat().st_size for path in (settings.archives / log).glob("*/*") if path.is_file())


@dataclass(frozen=True)
class Found:
    """What was found of a partition: how much was looked at since the last of these, and a problem, if there is one."""

    records: int = 0
    bytes: int = 0
    segments: int = 0
    compared: int = 0
    problem: str | None = None


def verify(settings: Settings, log: Log, partition: int, compare: bool = False) -> Iterator[Found]:
    """Read every segment of a partition whole: checksums, names, that records decode and lie at ascending offsets within; what is missing.

    Parameters
    ----------
    log : Log
        The live one.
    compare : bool
        Read what the live log still has, too, and compare record by record.
    """
    directory = partition_directory(settings.archives, log.name, partition)
    where = f"log '{log.name}', partition {partition}"
    for entry in sorted(os.listdir(directory)) if directory.is_dir() else []:
        if SegmentName.parse(entry) is None and entry != DRAFT:
            yield Found(problem=f"{where}: {directory / entry} is no segment's name; put its right name back, or move it away")
    try:
        told = coverage(settings, log, partition)
        refuse_beyond(log.name, partition, told.live_end, told.end, str(settings.archives))
    except TidemarkError as error:
        yield Found(problem=str(error))
        return
    for low, high in told.missing:
        yield Found(
            problem=f"{where}: offsets {low} to {high - 1} are missing, and the log no longer has them; put their segments back from a copy"
        )
    for low, high in missing(
        Archive(settings.archives, log.name, log.partitions).covered(partition), max(told.start, told.live_start), told.end
    ):
        yield Found(
            problem=f"{where}: offsets {low} to {high - 1} are missing; the log still has them: `tidemark archive run` archives them anew"
        )
    for name in Archive(settings.archives, log.name, log.partitions).segments(partition):
        try:
            yield _read_whole(Segment(directory, name, log.name, partition))
            if compare and name.end > told.live_start:
                yield _compared(Segment(directory, name, log.name, partition), log, max(name.start, told.live_start), where)
        except TidemarkError as error:
            yield Found(problem=str(error))


def _read_whole(segment: Segment) -> Found:
    records, at = 0, segment.name.start
    try:
        for batch in _batches(segment):
            offsets = batch.offsets_of_records()
            inside = not len(offsets) or (
                offsets[0] >= batch.first_offset and offsets[-1] < batch.end_offset and bool((np.diff(offsets) >= 0).all())
            )
            if batch.first_offset != at or batch.end_offset <= at or len(offsets) != batch.records.num_rows or not inside:
                return Found(problem=f"archive segment {segment.path} is damaged: its offsets from {at} on are out of order")
            at = batch.end_offset
            records += batch.records.num_rows
        if at != segment.name.end or records != segment.info.records:
            return Found(problem=f"archive segment {segment.path} is damaged: it holds {records} records, not {segment.info.records}")
        return Found(records=records, bytes=segment.path.stat().st_size, segments=1)
    finally:
        segment.close()


def _compared(segment: Segment, log: Log, start: int, where: str) -> Found:
    counted = [0]

    def live() -> Iterator[LogBatch]:
        at = start
        while at < segment.name.end:
            # Where offsets have holes a read of so many records would go on past the segment's end.
            batches = read_before(log, segment.name.end, segment.info.partition, at, _READ_RECORDS)
            if not batches:
                return
            for batch in batches:
                counted[0] += batch.records.num_rows
                yield batch
            at = batches[-1].end_offset

    try:
        differs = first_difference(_batches(segment), live())
    finally:
        segment.close()
    if differs is None:
        return Found(compared=counted[0])
    return Found(
        problem=f"{where}: from offset {differs} on, {segment.path} is not what the log holds: one of the two is another log's, or damaged"
    )


def _batches(segment: Segment) -> Iterator[LogBatch]:
    at = segment.name.start
    while at < segment.name.end:
        for batch in segment.read(at):
            yield batch
            at = batch.end_offset
