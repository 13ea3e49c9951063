"""What a task of the actions flow has put out to pins, by the log alone: its state may be what is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flows.errors import CorruptionError
from flows.kernels.rows import fold_sums, sort_rows
from flows.log import Log, read_before
from flows.outputs import REVISITS, take_next
from flows.state import tables

_READ_RECORDS = 262_144
_COLUMNS = ("user_id", "pin_id", "kind", "time", "weight")


def gone_out(log: Log, origin: int, numbers: Sequence[int]) -> np.ndarray | None:
    """The sum of the first records of a task: int64[n, 5], folded rows of tables.REVISITS, of users; None if the log has not got them all yet.

    Parameters
    ----------
    log : Log
        REVISITS, with its archive.
    origin : int
        Partition of the task.
    numbers : sequence of int
        How many, by partition of the log.

    Raises
    ------
    CorruptionError
        The log lacks some that lie before others.
    """
    parts = [np.empty((0, tables.REVISITS.columns), np.int64)]
    for destination, number in enumerate(numbers):
        applied: dict[int, int] = {}
        at, end = log.start_positions()[destination], log.end_position(destination)
        while at < end and applied.get(origin, -1) + 1 < number:
            batches = read_before(log, end, destination, at, _READ_RECORDS)
            if not batches:
                raise CorruptionError(f"log '{REVISITS}', partition {destination}, can't be read from offset {at} on")
            for batch in batches:
                records = batch.records.filter(np.equal(batch.records.column("origin").to_numpy(), origin))
                records = take_next(records, applied, f"log '{REVISITS}', partition {destination}")
                records = records.filter(np.less(records.column("sequence").to_numpy(), number))
                parts.append(np.column_stack([records.column(name).to_numpy().astype(np.int64) for name in _COLUMNS]))
            at = batches[-1].end_offset
        if applied.get(origin, -1) + 1 < number:
            return None
    rows = np.concatenate(parts)
    return fold_sums(sort_rows(np.ascontiguousarray(rows[rows[:, 4] != 0]), tables.REVISITS.keys), tables.REVISITS.keys)
