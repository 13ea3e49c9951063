"""Where a period lies in logs, and the records of numbered logs (LATE, DEADLETTERS, EXAMPLES), each once, from anywhere on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from flows.log import Log, read_before
from flows.outputs import take_next

READ_RECORDS = 16_384
_LAST_RECORDS = 64
Progress = Callable[[int], None]


def begin_of(log: Log, first: int | None) -> list[int]:
    """Of each partition, a position before which no record is of a time or later (ms); without one, where the log begins."""
    starts = log.start_positions()
    if first is None:
        return starts
    return [max(start, log.position_for_time(partition, first)) for partition, start in enumerate(starts)]


def last_time(log: Log, at: int) -> int | None:
    """The latest time up to `at` of the last records of a log, ms, as they say it themselves; None if none says one."""
    found = None
    for partition, (start, end) in enumerate(zip(log.start_positions(), log.end_positions(), strict=True)):
        begin = max(start, end - _LAST_RECORDS)
        for batch in read_before(log, end, partition, begin, _LAST_RECORDS) if begin < end else ():
            times = batch.records.column("timestamp").drop_null().to_numpy(zero_copy_only=False)
            found = max([*([found] if found is not None else []), *times[times <= at].tolist()], default=None)
    return found


class Numbered:
    """Some columns of a numbered log.

    A task that was killed may have put records out again; by their numbers they are passed over. Where reading begins in the middle, what comes first
    of an origin may be such a repeat: then it says a time before the one that was looked for, so whoever counts by time passes over it too.

    Parameters
    ----------
    log : Log
    columns : sequence of str
        Beside origin, sequence and timestamp.
    begins : sequence of int
        Position of each partition.
    """

    def __init__(self, log: Log, columns: Sequence[str], begins: Sequence[int]) -> None:
        self._log, self._columns = log, ["origin", "sequence", "timestamp", *columns]
        self._positions = list(begins)
        self._from_middle = [begin > 0 for begin in begins]
        self._applied: list[dict[int, int]] = [{} for _ in begins]

    @property
    def to_read(self) -> int:
        """Offsets that have not been read."""
        return sum(max(0, end - at) for at, end in zip(self._positions, self._log.end_positions(), strict=True))

    def read(self, progress: Progress = lambda records: None) -> Iterator[pa.Table]:
        """What has come since the last time, up to where the log ends now.

        Raises
        ------
        CorruptionError
            Records are missing.
        """
        for partition, end in enumerate(self._log.end_positions()):
            while (at := self._positions[partition]) < end:
                batches = read_before(self._log, end, partition, at, READ_RECORDS)
                if not batches:
                    break
                yield self._once(partition, [batch.records.select(self._columns) for batch in batches])
                self._positions[partition] = batches[-1].end_offset
                progress(batches[-1].end_offset - at)

    def _once(self, partition: int, batches: list[pa.RecordBatch]) -> pa.Table:
        records = pa.Table.from_batches([batch.replace_schema_metadata(None) for batch in batches])
        applied = self._applied[partition]
        if self._from_middle[partition]:
            origins, first = np.unique(records.column("origin").to_numpy(), return_index=True)
            sequences = records.column("sequence").to_numpy()
            for origin, at in zip(origins.tolist(), first.tolist(), strict=True):
                applied.setdefault(origin, int(sequences[at]) - 1)
        return take_next(records, applied, f"log '{self._log.name}', partition {partition}")
