"""What can still be read of an embedded log's damaged file: every batch whose seal is right, wherever SQLite can still get at it.

A page that is damaged hides what lies behind it from whoever scans in one direction, so the table and its index are scanned in both.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.errors import CorruptionError, DataDirectoryError
from flows.log import LedgerEntry, LocalLog, LogBatch

_BATCH = "SELECT partition, first_offset, end_offset, records, max_timestamp, crc, bytes FROM batches WHERE rowid = ?"
_TABLE = "SELECT rowid FROM batches NOT INDEXED ORDER BY rowid {0}"
_INDEX = "SELECT rowid, partition, end_offset FROM batches INDEXED BY batches_by_end ORDER BY partition {0}, end_offset {0}"
_GROUPS = "SELECT name, partition, position FROM groups ORDER BY name {0}, partition {0}"
_LEDGER = "SELECT key, done, total FROM ledger ORDER BY key {0}"


@dataclass(frozen=True, order=True)
class Sound:
    """A batch that is what was written."""

    partition: int
    first: int
    end: int
    row: int


class Salvage:
    """A damaged file, open. Nobody else may have it open (`flows.log_file.alone`).

    Attributes
    ----------
    partitions : int or None
        Of the log, if the file still says.
    sound : list of Sound
        By partition and offset.
    damaged : int
        Batches that are there, and can't be read or are not what was written.
    ends : dict of int to int
        Where each partition ended, by all that can still be read of it.
    whole : bool
        Nothing is wrong with the file, not even where no read looks.
    groups : dict of name to dict of partition to int
    ledger : list of LedgerEntry
    ledger_whole : bool
        No row of the ledger can be missing.
    """

    def __init__(self, path: Path, name: str, advance: Callable[[int], None] = lambda size: None) -> None:
        self._log = LocalLog(path, name, read_only=True)
        self.partitions: int | None = None
        self.sound: list[Sound] = []
        self.damaged = 0
        self.ends: dict[int, int] = {}
        self.whole = False
        self.groups: dict[str, dict[int, int]] = {}
        self.ledger: list[LedgerEntry] = []
        self.ledger_whole = False
        self._connection: sqlite3.Connection | None = None
        if path.exists():
            try:
                self._connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None)
            except sqlite3.Error as error:
                raise DataDirectoryError(f"log {path}: can't open it: {error}; check that it may be written") from error
            self._take(self._connection, advance)

    def _take(self, connection: sqlite3.Connection, advance: Callable[[int], None]) -> None:
        with suppress(sqlite3.Error, ValueError):
            self.partitions = int(connection.execute("SELECT value FROM meta WHERE key = 'partitions'").fetchone()[0])
        indexed = {row[0]: row[1:] for row in _both_ways(connection, _INDEX)}
        for number in sorted({row[0] for row in _both_ways(connection, _TABLE)} | set(indexed)):
            batch = self._read(number)
            if batch is None:
                self.damaged += 1
                # Of one that can't be read the index still says where it lay; of others it could only be wrong.
                partition, end = indexed.get(number, (None, None))
            else:
                advance(batch.records.nbytes)
                partition, end = batch.partition, batch.end_offset
                self.sound.append(Sound(partition, batch.first_offset, end, number))
            if type(partition) is int and type(end) is int:
                self.ends[partition] = max(end, self.ends.get(partition, 0))
        self.sound.sort()
        for name, partition, position in _both_ways(connection, _GROUPS):
            self.groups.setdefault(name, {})[partition] = position
        self.ledger = [LedgerEntry(*row) for row in dict.fromkeys(_both_ways(connection, _LEDGER))]
        self.ledger_whole = _scans(connection, _LEDGER.format("ASC"))
        with suppress(sqlite3.Error):
            recorded = dict(connection.execute("SELECT partition, end_offset FROM ends").fetchall())
            faults = connection.execute("PRAGMA integrity_check(1)").fetchall()
            self.whole = not self.damaged and faults == [("ok",)] and all(recorded.get(p, 0) == e for p, e in self.ends.items())

    def _read(self, number: int) -> LogBatch | None:
        if self._connection is None:
            return None
        with suppress(sqlite3.Error, CorruptionError):
            row = self._connection.execute(_BATCH, (number,)).fetchone()
            if row is not None and type(row[0]) is int:
                return self._log.decoded(row[0], row[1:])
        return None

    def read(self, sound: Sound) -> LogBatch:
        """A batch that was found sound."""
        batch = self._read(sound.row)
        if batch is None:
            raise CorruptionError(
                f"log {self._log.path}: offsets {sound.first} to {sound.end - 1} could be read a moment ago; is the disk failing?"
            )
        return batch

    def close(self) -> None:
        """Let go of the file; what its write-ahead log holds goes into it, if SQLite can."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()


def _both_ways(connection: sqlite3.Connection, query: str) -> Iterator[Any]:
    """Rows from both ends up to what can't be read."""
    for direction in ("ASC", "DESC"):
        try:
            yield from connection.execute(query.format(direction))
        except sqlite3.Error:
            continue
        return


def _scans(connection: sqlite3.Connection, query: str) -> bool:
    try:
        connection.execute(query).fetchall()
    except sqlite3.Error:
        return False
    return True
