"""The records of SERVED that a question is about: by time of the request, and of these a sample; stretch by stretch, so that memory is bounded.

The same question of the same log gives the same records, whatever the stretches are. Nothing here looks at values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from flows.errors import DataDirectoryError, SettingsError
from flows.log import Log, LogBatch, read_before
from flows.open_log import log_exists, open_log
from flows.outputs import SERVED
from flows.served_rows import ServedRows, rows_of
from flows.settings import Settings

_READ_RECORDS = 16_384
# Of a stretch: what is recomputed at once.
STRETCH_RECORDS = 131_072
STRETCH_BYTES = 192 << 20


@dataclass(frozen=True)
class Question:
    """Which records.

    Attributes
    ----------
    first, until : int or None
        Time of the request, ms: from the first on, before the second.
    sample : int, float or None
        So many of them, or this share; all without it.
    seed : int
        Of the sample.
    """

    first: int | None = None
    until: int | None = None
    sample: int | float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.first is not None and self.until is not None and self.first >= self.until:
            raise SettingsError(f"a period from {self.first} to {self.until} (ms) holds nothing: it must end after it begins")


def open_served(settings: Settings) -> Log:
    """The SERVED log, with its archive.

    Raises
    ------
    DataDirectoryError
        There is none.
    """
    if not log_exists(settings, SERVED):
        raise DataDirectoryError(
            f"nothing has been served from {settings.data}: there is no log '{SERVED}' in {settings.logs}; `tidemark serve` makes one"
        )
    return open_log(settings, SERVED, read_only=True)


class Chosen:
    """The records of a question.

    Parameters
    ----------
    log : Log
        SERVED.
    question : Question
    since : sequence of int, optional
        Of each partition, the offset before which all was looked at: what lies behind it is taken, whenever it comes.

    Attributes
    ----------
    ends : list of int
        Where the log ended: `since` of the next time.
    """

    def __init__(self, log: Log, question: Question, since: Sequence[int] | None = None) -> None:
        self._log = log
        self._question = question
        starts = log.start_positions()
        # To the end, whatever the last time asked for: a server whose log was away, or full, puts rows there hours after they were served.
        self.ends = log.end_positions()
        if since is not None:
            starts = [max(both) for both in zip(starts, since, strict=True)]
        elif question.first is not None:
            starts = [max(start, log.position_for_time(p, question.first)) for p, start in enumerate(starts)]
        self._spans = [(start, max(start, end)) for start, end in zip(starts, self.ends, strict=True)]
        self._most: np.uint64 | None = None
        if isinstance(question.sample, float):
            self._most = np.uint64(min(int(question.sample * 2**64), 2**64 - 1))

    @property
    def to_read(self) -> int:
        """Offsets that are read once, about how many records."""
        passes = 2 if isinstance(self._question.sample, int) else 1
        return passes * sum(end - start for start, end in self._spans)

    def stretches(self, progress: Callable[[int], None] = lambda records: None) -> Iterator[ServedRows]:
        """The records as columns, in stretches.

        Parameters
        ----------
        progress : callable
            Called with the number of offsets just read.
        """
        if isinstance(self._question.sample, int):
            self._most = self._threshold(self._question.sample, progress)
        held: list[pa.RecordBatch] = []
        records = size = 0
        for batch in self._batches(progress):
            chosen = batch.records.filter(pa.array(self._wanted(batch)))
            if not chosen.num_rows:
                continue
            held.append(chosen)
            records += chosen.num_rows
            size += chosen.nbytes
            if records >= STRETCH_RECORDS or size >= STRETCH_BYTES:
                yield rows_of(held, self._where)
                held, records, size = [], 0, 0
        if held:
            yield rows_of(held, self._where)

    @property
    def _where(self) -> str:
        return f"log '{self._log.name}'"

    def _batches(self, progress: Callable[[int], None]) -> Iterator[LogBatch]:
        for partition, (at, end) in enumerate(self._spans):
            while at < end:
                batches = read_before(self._log, end, partition, at, _READ_RECORDS)
                if not batches:
                    break
                yield from batches
                progress(batches[-1].end_offset - at)
                at = batches[-1].end_offset

    def _within(self, batch: LogBatch) -> np.ndarray:
        time = batch.records.column("timestamp").to_numpy(zero_copy_only=False)
        first, until = self._question.first, self._question.until
        inside = np.ones(len(time), np.bool_)
        if "request_id" in batch.records.schema.names:
            # Not heartbeats: nothing was served there.
            inside &= batch.records.column("request_id").is_valid().to_numpy(zero_copy_only=False)
        if first is not None:
            inside &= time >= first
        if until is not None:
            inside &= time < until
        return inside

    def _wanted(self, batch: LogBatch) -> np.ndarray:
        inside = self._within(batch)
        return inside if self._most is None else inside & (self._drawn(batch) <= self._most)

    def _drawn(self, batch: LogBatch) -> np.ndarray:
        """A number of each record, by its place and the seed alone: uint64[n]."""
        seed = (self._question.seed * 0x9E3779B97F4A7C15 + batch.partition * 0xD1B54A32D192ED03) % 2**64
        x = batch.offsets_of_records().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))

    def _threshold(self, size: int, progress: Callable[[int], None]) -> np.uint64:
        """The greatest number of the `size` records that have the least."""
        least = np.empty(0, np.uint64)
        for batch in self._batches(progress):
            least = np.concatenate([least, self._drawn(batch)[self._within(batch)]])
            if len(least) > 2 * size + _READ_RECORDS:
                least = np.partition(least, size - 1)[:size]
        if len(least) > size:
            least = np.partition(least, size - 1)[:size]
        return np.uint64(least.max()) if len(least) else np.uint64(0)
