"""What of the tasks' output has come to its logs: nothing would ever put out again what a task takes for published and no log has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from flows.errors import CorruptionError
from flows.log import Log, LogBatch, read_before
from flows.state.meta import Meta
from flows.state.outbox import Kept, held

_READ_RECORDS = 65_536


class DamagedLogError(CorruptionError):
    """A log is damaged, so nobody can say what has come to it.

    Attributes
    ----------
    log : str
    """

    def __init__(self, message: str, log: str) -> None:
        super().__init__(message)
        self.log = log


class Arrived:
    """Reads logs of output, from their ends backwards, as far as is needed.

    Parameters
    ----------
    logs : mapping of name to Log
        With their archives.
    unreadable : collection of str
        Logs that can't be opened: of those nothing is said.
    """

    def __init__(self, logs: Mapping[str, Log], unreadable: Collection[str] = ()) -> None:
        self._logs = logs
        self._unreadable = unreadable
        self._read: dict[tuple[str, int], _Read] = {}

    def missing(self, kept: Kept, meta: Meta) -> Iterator[str]:
        """What a task has put out and its logs lack, in words.

        Raises
        ------
        DamagedLogError
        TidemarkError
            A log can't be read.
        """
        waiting: Counter[tuple[str, int]] = Counter()
        for _, name, destination, records in held(kept, list(meta.sequences)):
            waiting[name, destination] += records.num_rows
        for name, numbers in meta.sequences.items():
            if name in self._unreadable:
                continue
            for destination, number in enumerate(numbers):
                put_out = number - waiting[name, destination]
                there = self._arrived(name, destination, meta.partition, put_out)
                if there < put_out:
                    yield f"has put out {put_out} records to log {name}/{destination}, which has {there} of them"

    def _arrived(self, name: str, partition: int, origin: int, wanted: int) -> int:
        """The number behind the last record of a task that is there, or one of at least `wanted`."""
        if (log := self._logs.get(name)) is None or not wanted:
            return 0
        if (read := self._read.get((name, partition))) is None:
            read = self._read[name, partition] = _Read(log, partition)
        try:
            return read.upto(origin, wanted)
        except CorruptionError as error:
            raise DamagedLogError(str(error), name) from error


class _Read:
    """One partition of a log, and what has been read of it."""

    def __init__(self, log: Log, partition: int) -> None:
        self._log = log
        self._partition = partition
        self._first = self._end = log.end_position(partition)
        self._next: Counter[int] = Counter()

    def upto(self, origin: int, wanted: int) -> int:
        """See `Arrived._arrived`. After a restore a task repeats records: the last one in the log need not be its newest."""
        while self._next[origin] < wanted and (batches := self._behind() or self._before()):
            for batch in batches:
                origins, sequences = (batch.records.column(column).to_numpy() for column in ("origin", "sequence"))
                for each in np.unique(origins).tolist():
                    self._next[each] = max(self._next[each], int(sequences[origins == each].max()) + 1)
        return self._next[origin]

    def _behind(self) -> list[LogBatch]:
        """What has been appended since."""
        batches = self._log.read(self._partition, self._end, _READ_RECORDS)
        self._end = batches[-1].end_offset if batches else self._end
        return batches

    def _before(self) -> list[LogBatch]:
        """The stretch before what has been read; nothing at the log's beginning."""
        start = self._log.start_positions()[self._partition]
        batches: list[LogBatch] = []
        while not batches and self._first > start:
            end, self._first = self._first, max(start, self._first - _READ_RECORDS)
            at = self._first
            while at < end and (found := read_before(self._log, end, self._partition, at, _READ_RECORDS)):
                batches += found
                at = found[-1].end_offset
        return batches
