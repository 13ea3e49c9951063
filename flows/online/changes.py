"""Which entities the records between two positions of a task may have changed, and what tells one log from another.

Whatever changes in a user's rows is caused by a record of that user, and in a pin's by a record of REVISITS for that pin; so the log names them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from flows.corrections.history import History
from flows.corrections.overlay import Overlay
from flows.decode import Decoder
from flows.errors import RetentionError
from flows.log import Log, LogBatch, read_before
from flows.open_log import log_exists, open_log
from flows.outputs import ACTIONS
from flows.settings import Settings
from flows.vocabulary import Vocabulary

MOST_CHANGED = 1 << 16
"""Entities that are written in one step, some 80 MB of sequences; where more have changed, the task is written anew, bit by bit."""


@dataclass(frozen=True, eq=False)
class Changed:
    """What records up to a position may have changed.

    Attributes
    ----------
    ids : int64[n]
        Entities: sorted, distinct.
    last : str or None
        `Changes.last_record` of that position.
    """

    ids: np.ndarray
    last: str | None


class Changes:
    """Reads the logs of the tasks.

    Parameters
    ----------
    settings, vocabulary
        As of the flows.
    """

    def __init__(self, settings: Settings, vocabulary: Vocabulary) -> None:
        self._settings = settings
        self._vocabulary = vocabulary
        self._logs: dict[str, Log] = {}
        self._decoders: dict[tuple[int, int], tuple[Decoder, Overlay | None]] = {}

    def close(self) -> None:
        """Close the logs."""
        for log in self._logs.values():
            log.close()
        self._logs = {}

    def last_record(self, flow: str, partition: int, position: int) -> str | None:
        """A digest of the record that lies before a position; None where that can't be told, as at a hole."""
        log = self._log(flow)
        if log is None or not position:
            return None if position else ""
        try:
            if log.end_position(partition) < position:
                return "the log ends before it"
            batches = read_before(log, position, partition, position - 1, 1)
        except RetentionError:
            return None
        return _last_of(batches[-1:], position)

    def end(self, flow: str, partition: int) -> int:
        """Where a log ends; 0 where there is none."""
        log = self._log(flow)
        return log.end_position(partition) if log is not None else 0

    def entities(self, flow: str, partition: int, since: int, until: int, corrected_to: int) -> Changed | None:
        """What records between two positions may have changed; None where these are more than MOST_CHANGED entities, or the log lacks records."""
        known, last = np.empty(0, np.int64), None
        try:
            for batches in self._batches(flow, partition, since, until):
                for ids in self._users(partition, batches, corrected_to) if flow == ACTIONS else _pins(batches):
                    known = np.union1d(known, ids)
                if len(known) > MOST_CHANGED:
                    return None
                last = _last_of(batches[-1:], until)
        except RetentionError:
            return None
        return Changed(known, last)

    def _users(self, partition: int, batches: list[LogBatch], corrected_to: int) -> Iterator[np.ndarray]:
        decoder, overlay = self._decoder(partition, corrected_to)
        columns = decoder.decode(*(batch.records for batch in batches))
        yield columns.user_id[~columns.bad]
        if overlay is not None:
            # A record that counts as another may be another user's.
            overlay.apply(columns, np.concatenate([batch.offsets_of_records() for batch in batches]))
            yield columns.user_id[~columns.bad]

    def _batches(self, flow: str, partition: int, since: int, until: int) -> Iterator[list[LogBatch]]:
        log, at = self._log(flow), since
        while at < until and log is not None:
            batches = read_before(log, until, partition, at, self._settings.batch_records)
            if not batches:
                raise RetentionError(f"log '{flow}', partition {partition}: offsets {at} to {until} can't be read")
            yield batches
            at = batches[-1].end_offset

    def _decoder(self, partition: int, corrected_to: int) -> tuple[Decoder, Overlay | None]:
        known = self._decoders.get((partition, corrected_to))
        if known is None:
            decoder = Decoder(self._vocabulary, (partition, self._settings.partitions))
            overlay = History.of(self._settings, partition).overlay(corrected_to, decoder) if corrected_to else None
            known = self._decoders[partition, corrected_to] = decoder, overlay
        return known

    def _log(self, name: str) -> Log | None:
        if name not in self._logs and log_exists(self._settings, name):
            self._logs[name] = open_log(self._settings, name, read_only=True)
        return self._logs.get(name)


def _pins(batches: list[LogBatch]) -> Iterator[np.ndarray]:
    yield np.concatenate([batch.records.column("pin_id").to_numpy() for batch in batches])


def _last_of(batches: list[LogBatch], position: int) -> str | None:
    """A digest of the record before a position, if that is the last one of some batches; None if none of theirs is."""
    if not batches or not batches[-1].records.num_rows:
        return None
    records, offset = batches[-1].records, int(batches[-1].offsets_of_records()[-1])
    if offset != position - 1:
        return None
    told = repr((offset, records.slice(records.num_rows - 1).to_pylist()))
    return hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
