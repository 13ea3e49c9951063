"""Which deltas of a base the log holds, read from its end backwards: what a learner goes on behind, and whether a snapshot is of these deltas.

What the log says decides, never what somebody remembers of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from flows.log import Log, LogBatch, read_before
from online_model.deltas.record import PARTITION, Closing, Kind, check_schema, closing_at, plain
from online_model.registry.snapshots import Point

_FIRST_RECORDS, _MOST_RECORDS = 4_096, 262_144


def closings(log: Log, base: int, before: int | None = None, since: int = 0) -> Iterator[Closing]:
    """What closes the deltas of a base, the last first.

    Parameters
    ----------
    before, since : int
        Only those that lie before the one offset and not before the other.
    """
    high = log.end_position(PARTITION) if before is None else before
    low_end = max(since, log.start_positions()[PARTITION])
    size = _FIRST_RECORDS
    while high > low_end:
        low = max(low_end, high - size)
        found: list[Closing] = []
        at = low
        while at < high:
            batches = read_before(log, high, PARTITION, at, high - at)
            if not batches:
                break
            for batch in batches:
                found += closings_in(batch, base, log.name)
            at = batches[-1].end_offset
        yield from (one for one in reversed(found) if low < one.position <= high)
        high, size = low, min(size * 4, _MOST_RECORDS)


def closings_in(batch: LogBatch, base: int, name: str) -> list[Closing]:
    """What closes the deltas of a base among some records, in order."""
    if not batch.records.num_rows:
        # Offsets without records, as behind each transaction of Kafka.
        return []
    check_schema(batch.records, f"log '{name}', partition {batch.partition}, from offset {batch.first_offset}")
    mine = np.flatnonzero((plain(batch.records, "kind") == Kind.CLOSED) & (plain(batch.records, "base") == base)).tolist()
    offsets = batch.offsets_of_records() if mine else np.empty(0, np.int64)
    return [closing_at(batch.records, i, int(offsets[i]) + 1) for i in mine]


def last_closing(log: Log, base: int, before: int | None = None, since: int = 0) -> Closing | None:
    """What closes the last delta of a base; None if there is none."""
    return next(closings(log, base, before, since), None)


def holds(log: Log, point: Point) -> bool:
    """Whether a delta is one of those that the log holds, as far as the log can say.

    Where retention has taken all of it, the next delta will say whether it follows it.
    """
    start = log.start_positions()[PARTITION]
    if point.position > log.end_position(PARTITION) or point.position < start:
        return False
    if point.position == start:
        return True
    last = last_closing(log, point.base, before=point.position, since=point.position - 1)
    return last is not None and (last.delta, last.digest) == (point.delta, point.digest)
