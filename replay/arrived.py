"""What of the tasks' output has come to its logs: nothing would ever put out again what a task takes for published and no log has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from flows.log import Log
from flows.state.outbox import Kept, held
from flows.state.store import Meta

_READ_RECORDS = 65_536


class Arrived:
    """Reads logs of output, each partition on from where it was read last.

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
        self._at: dict[tuple[str, int], int] = {}
        self._next: dict[tuple[str, int], Counter[int]] = {}

    def missing(self, kept: Kept, meta: Meta) -> Iterator[str]:
        """What a task has put out and its logs lack, in words.

        Raises
        ------
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
                there = self._arrived(name, destination)[meta.partition] if put_out > 0 else 0
                if there < put_out:
                    yield f"has put out {put_out} records to log {name}/{destination}, which has {there} of them"

    def _arrived(self, name: str, partition: int) -> Counter[int]:
        """By origin, the number behind the last one that is there."""
        key = (name, partition)
        found = self._next.setdefault(key, Counter())
        if (log := self._logs.get(name)) is None:
            return found
        at, end = self._at.get(key, log.start_positions()[partition]), log.end_position(partition)
        while at < end and (batches := log.read(partition, at, _READ_RECORDS)):
            for batch in batches:
                origins, sequences = (batch.records.column(column).to_numpy() for column in ("origin", "sequence"))
                for origin in np.unique(origins).tolist():
                    found[origin] = max(found[origin], int(sequences[origins == origin].max()) + 1)
            at = batches[-1].end_offset
        self._at[key] = at
        return found
