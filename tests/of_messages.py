"""The log ACTIONS as a topic has it: so many records together are a message, and have one offset."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from flows.events import EVENT_SCHEMA
from flows.kafka_messages import _arrow
from flows.log import LocalLog, LogBatch


class OfMessages:
    """See the module."""

    dense = False

    def __init__(self, log: LocalLog, size: int) -> None:
        self.log, self._size = log, size
        self.name, self.partitions = log.name, log.partitions

    def end_position(self, partition: int) -> int:
        return -(-self.log.end_position(partition) // self._size)

    def start_positions(self) -> list[int]:
        return [0] * self.partitions

    def read(self, partition: int, position: int, max_records: int, *, exact: bool = True) -> list[LogBatch]:
        stop = min(position + max_records, self.end_position(partition))
        if position >= stop:
            return []
        found = self.log.read(partition, position * self._size, (stop - position) * self._size)
        records = pa.RecordBatch.from_pylist([row for one in found for row in one.records.to_pylist()], EVENT_SCHEMA)
        return [LogBatch(partition, position, stop, records, position + np.arange(records.num_rows) // self._size)]


def records_of(value: bytes, timestamp: int) -> pa.RecordBatch | None:
    """The records of a message as whoever reads a topic gets them; None if it is no Arrow."""
    found = _arrow(value, timestamp)
    return None if found is None else found[0]
