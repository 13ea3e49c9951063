"""What came in: records of ACTIONS by arrival and action, and which of them were late or could not be taken.

What is counted is what producers sent: every well-formed record by its action, duplicates too, corrected as CORRECTIONS says. Whether a record is a
duplicate, late or ahead of its time follows from all before it; which are late and which were not taken is what LATE and DEADLETTERS say.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from flows.corrections.history import History
from flows.corrections.overlay import Overlay
from flows.decode import Decoder
from flows.decode_values import REASONS
from flows.log import Log, read_before
from flows.settings import Settings
from flows.trends.reading import Numbered, Progress, begin_of
from flows.trends.sums import Counting, Sums
from flows.vocabulary import Vocabulary

CODES = 128
"""Columns of actions, by code; the one behind them counts the records that are malformed or excluded."""
OTHER_REASON = "other"
LETTERS = (*REASONS, OTHER_REASON)
"""Columns of dead letters."""


class Actions:
    """Records of ACTIONS.

    Parameters
    ----------
    log : Log
        ACTIONS.
    counting : Counting

    Attributes
    ----------
    sums : Sums
        CODES columns, and one.
    generation : int
        The newest correction that counts.
    """

    def __init__(self, settings: Settings, vocabulary: Vocabulary, log: Log, counting: Counting) -> None:
        self.log, self._counting, self._batch = log, counting, settings.batch_records
        self.sums = Sums(CODES + 1, counting)
        histories = History.every(settings)
        self.generation = max((history.generation for history in histories), default=0)
        self._decoders = [Decoder(vocabulary, (partition, settings.partitions)) for partition in range(settings.partitions)]
        self._overlays: list[Overlay | None] = [
            history.overlay(history.generation, decoder) for history, decoder in zip(histories, self._decoders, strict=True)
        ]
        self._positions = begin_of(log, counting.first)
        self._arrived: list[int | None] = [None] * len(self._positions)

    @property
    def to_read(self) -> int:
        """Offsets that have not been read."""
        return sum(max(0, end - at) for at, end in zip(self._positions, self._ends(), strict=True))

    def read(self, progress: Progress = lambda records: None) -> None:
        """Count what has come since the last time."""
        for partition, end in enumerate(self._ends()):
            while (at := self._positions[partition]) < end and not self._past(partition):
                batches = read_before(self.log, end, partition, at, self._batch)
                if not batches:
                    break
                columns = self._decoders[partition].decode(*(batch.records for batch in batches))
                counted = np.ones(len(columns), np.bool_)
                if columns.heartbeats:
                    # They are bad without a fault: nobody sent an event.
                    counted = ~columns.bad
                    counted[list(columns.faults)] = True
                overlay = self._overlays[partition]
                if overlay is not None:
                    overlay.apply(columns, np.concatenate([batch.offsets_of_records() for batch in batches]))
                before = self._arrived[partition]
                arrival = np.maximum.accumulate(columns.timestamp)
                arrival = arrival if before is None else np.maximum(arrival, before)
                which = np.where(columns.bad, CODES, columns.action).astype(np.int64)
                self.sums.count(arrival[counted], which[counted])
                if len(arrival):
                    self._arrived[partition] = int(arrival[-1])
                self._positions[partition] = batches[-1].end_offset
                progress(batches[-1].end_offset - at)

    def _ends(self) -> list[int]:
        ends = self.log.end_positions()
        until = self._counting.until
        if until is None or not self.log.dense:
            # A message of Kafka may hold many records and has one time, that of the last of them or the broker's own: one that isn't before
            # `until` may hold what is. Where that ends, records say themselves.
            return ends
        return [min(end, self.log.position_for_time(partition, until)) for partition, end in enumerate(ends)]

    def _past(self, partition: int) -> bool:
        """Whether all that counts was read: arrival never runs back, so what lies behind is of later times."""
        until, arrived = self._counting.until, self._arrived[partition]
        return until is not None and arrived is not None and arrived >= until


class Outputs:
    """Records of LATE or DEADLETTERS by arrival of the record that caused them.

    Parameters
    ----------
    log : Log
    reasons : bool
        Whether it is DEADLETTERS: a column for each of LETTERS. Otherwise there is one column.
    """

    def __init__(self, log: Log, counting: Counting, reasons: bool) -> None:
        self.log, self._reasons = log, reasons
        self.sums = Sums(len(LETTERS) if reasons else 1, counting)
        self._records = Numbered(log, ["reason"] if reasons else [], begin_of(log, counting.first))

    @property
    def to_read(self) -> int:
        """Offsets that have not been read."""
        return self._records.to_read

    def read(self, progress: Progress = lambda records: None) -> None:
        """Count what has come since the last time."""
        for records in self._records.read(progress):
            times = records.column("timestamp").to_numpy()
            self.sums.count(times, _codes(records.column("reason")) if self._reasons else np.zeros(len(times), np.int64))


def _codes(reasons: pa.ChunkedArray) -> np.ndarray:
    """The column of LETTERS of each."""
    encoded = reasons.combine_chunks().dictionary_encode()
    known = {reason: i for i, reason in enumerate(LETTERS)}
    codes = np.array([known.get(reason, len(REASONS)) for reason in encoded.dictionary.to_pylist()], np.int64)
    return codes[encoded.indices.to_numpy(zero_copy_only=False)]
