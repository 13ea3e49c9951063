"""What flows put out, besides state: the records of REVISITS, LATE and DEADLETTERS, and how a reader applies each once.

Every record carries the task it comes from (generation, origin) and its place (sequence) among that origin's records for the partition it
lies in, contiguous from 0. Delivery is at least once and in order; a reader applies only the next of each origin, so the effect is exactly once.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import pyarrow as pa

from flows.errors import CorruptionError
from flows.examples.record import EXAMPLES

ACTIONS, REVISITS, LATE, DEADLETTERS, CORRECTIONS = "actions", "revisits", "late", "deadletters", "corrections"
SERVED, EMBEDDINGS = "served", "embeddings"
LOGS = (ACTIONS, REVISITS, LATE, DEADLETTERS, CORRECTIONS, SERVED, EXAMPLES, EMBEDDINGS)
Records = TypeVar("Records", pa.RecordBatch, pa.Table)
OUTPUTS = (REVISITS, LATE, DEADLETTERS)
"""What the tasks of a run put out: it follows from the other logs."""
NUMBERED = (*OUTPUTS, EXAMPLES)
"""Logs whose records carry their origin and their number."""
REMADE = (*OUTPUTS, EMBEDDINGS)
"""What is put out again where its log has lost it: EMBEDDINGS by the learner, from EXAMPLES and a base."""

_ORIGIN = [
    pa.field("generation", pa.int32()),
    pa.field("origin", pa.int32()),  # partition of the task that put it out
    pa.field("sequence", pa.int64()),
    pa.field("timestamp", pa.int64()),  # arrival of the record that caused it, ms
]
REVISIT_SCHEMA = pa.schema(
    [
        *_ORIGIN,
        pa.field("pin_id", pa.int64()),
        pa.field("user_id", pa.int64()),
        pa.field("time", pa.int64()),  # of the revisit, ms
        pa.field("kind", pa.int8()),  # bit 0: 1 click, 0 impression; bit 1: the save was on related_pins
        pa.field("weight", pa.int8()),  # +1 credited, -1 taken back
    ]
)
LATE_SCHEMA = pa.schema(
    [
        *_ORIGIN,
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("user_id", pa.int64()),
        pa.field("event_id", pa.int64()),
        pa.field("pin_id", pa.int64()),
        pa.field("action", pa.string()),
        pa.field("event_time", pa.int64()),
        pa.field("lateness_ms", pa.int64()),  # how far behind the watermark
    ]
)
DEADLETTER_SCHEMA = pa.schema(
    [
        *_ORIGIN,
        pa.field("log", pa.string()),
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("raw", pa.binary()),  # the record as JSON, or as it was if it isn't JSON: what is kept of it, from its start
        pa.field("size", pa.int64()),  # bytes of the whole record
    ]
)


def take_next(records: Records, applied: dict[int, int], where: str) -> Records:
    """The records that come next of their origins; repeats are left out.

    Parameters
    ----------
    records : RecordBatch or Table
        Records of one partition, in offset order, with columns origin and sequence.
    applied : dict of int to int
        Origin → the last sequence number applied; moved on to what is returned.
    where : str
        Log and partition, for the message.

    Raises
    ------
    CorruptionError
        A sequence number is missing: records of that origin were lost.
    """
    if not records.num_rows:
        # Maybe of no columns: offsets without records, as behind each transaction of Kafka.
        return records
    origins = records.column("origin").to_numpy()
    sequences = records.column("sequence").to_numpy()
    keep = np.zeros(len(origins), np.bool_)
    for origin in np.unique(origins):
        at = np.flatnonzero(origins == origin)
        last = applied.get(int(origin), -1)
        # Repeats may lie between: what counts is each record that raises the greatest number so far.
        reached = np.maximum.accumulate(np.concatenate([[last], sequences[at]]))
        new = sequences[at] > reached[:-1]
        expected = last + 1 + np.arange(int(new.sum()))
        if not np.array_equal(sequences[at][new], expected):
            missing = int(expected[sequences[at][new] != expected][0])
            raise CorruptionError(
                f"{where}: record {missing} of origin {origin} is missing; restore the log, or rebuild the task that wrote it"
            )
        keep[at[new]] = True
        applied[int(origin)] = int(reached[-1])
    return records if keep.all() else records.filter(pa.array(keep))
