"""Where backfilled examples go: the log EXAMPLES, a span in each append, with a ledger by which a stopped run is continued; or Parquet files.

A log that holds other examples is left as it is: of two makers of the same examples a reader would learn twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from flows.directories import sync, translated
from flows.errors import DataDirectoryError, InputError
from flows.examples.files import METADATA, file_of, writer_of
from flows.examples.handover import rows_key, until_entries
from flows.examples.record import EXAMPLES
from flows.examples.rows import ExampleRows, batch_of
from flows.log import LedgerEntry, Log
from flows.open_log import log_exists, open_log
from flows.outputs import ACTIONS
from flows.settings import Settings

ORIGIN = -1
"""No task's partition: what is backfilled is numbered apart from what a flow puts out."""
# Stored together: at most 2.8 kB a record, so below what a log keeps in one piece, with no more of the users' features than these records need.
_PIECE = 4_096
_GROUP = 16_384


class ExamplesLog:
    """The log EXAMPLES as a backfill's target.

    Parameters
    ----------
    settings : Settings
    options : dict
        What, besides the log, decides the result: another backfill's examples are not continued.

    Raises
    ------
    DataDirectoryError
        It holds examples that are not this backfill's.
    """

    def __init__(self, settings: Settings, options: dict[str, Any]) -> None:
        self._settings = settings
        self._key = "backfill:" + hashlib.blake2b(json.dumps(options, sort_keys=True).encode(), digest_size=8).hexdigest()
        self._log: Log | None = open_log(settings, EXAMPLES) if log_exists(settings, EXAMPLES) else None
        try:
            self.begun = self._log is not None and self._log.ledger_entry(self._end_key(ACTIONS, 0)) is not None
            self._refuse_others()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release all files."""
        if self._log is not None:
            self._log.close()

    def ends(self, name: str, now: Sequence[int]) -> list[int]:
        """How far a log is read: as it was when this backfill began, or else as it is now."""
        return [self._done(self._end_key(name, p)) for p in range(len(now))] if self.begun else list(now)

    def begin(self, ends: Mapping[str, Sequence[int]], rows: Sequence[int], until: Sequence[int]) -> list[int]:
        """Begin, or go on: how many records of each partition are there already.

        Parameters
        ----------
        ends : mapping of str to sequence of int
            How far each log is read.
        rows, until : sequence of int
            How many records each partition gets, and when the last one became known, ms.
        """
        if self._log is None:
            self._log = open_log(self._settings, EXAMPLES, create=True)
        if not self.begun:
            entries = [LedgerEntry(self._end_key(name, p), end) for name in ends for p, end in enumerate(ends[name])]
            counts = [LedgerEntry(rows_key(p), 0, count) for p, count in enumerate(rows)]
            self._log.append([], ledger=[*entries, *counts, *until_entries(until)])
        self._totals, self._at = list(rows), [self._done(rows_key(p)) for p in range(len(rows))]
        return list(self._at)

    def put(self, span: Sequence[tuple[int, ExampleRows]]) -> None:
        """Append a span, all or nothing."""
        assert self._log is not None
        batches, ledger = [], []
        for partition, rows in span:
            at = self._at[partition]
            batches += [
                (partition, batch_of(rows.take(np.arange(low, min(low + _PIECE, len(rows)))), 0, ORIGIN, at + low))
                for low in range(0, len(rows), _PIECE)
            ]
            ledger.append(LedgerEntry(rows_key(partition), at + len(rows), self._totals[partition], previous=at))
        self._log.append(batches, ledger=ledger)
        for partition, rows in span:
            self._at[partition] += len(rows)

    def _refuse_others(self) -> None:
        if self._log is None or self.begun:
            return
        held = sum(self._log.end_positions())
        if held:
            raise DataDirectoryError(
                f"log '{EXAMPLES}' of {self._settings.data} holds {held:,} records that another run has made, with other options or from what was "
                "served; write files instead (--out DIR), or take the log and its archive away if nothing learns from them"
            )

    def _end_key(self, name: str, partition: int) -> str:
        return f"{self._key}:{partition}:{name}"

    def _done(self, key: str) -> int:
        entry = self._log.ledger_entry(key) if self._log is not None else None
        return entry.done if entry is not None else 0


class ExampleFiles:
    """A directory of Parquet files, one for each partition; made by `whole_directory`."""

    def __init__(self, directory: Path, partitions: int, about: dict[str, Any]) -> None:
        self._at = [0] * partitions
        metadata = {METADATA: json.dumps(about, sort_keys=True)}
        self._writers: list[pq.ParquetWriter] = [writer_of(directory / file_of(p), metadata) for p in range(partitions)]

    def put(self, span: Sequence[tuple[int, ExampleRows]]) -> None:
        """Write a span."""
        for partition, rows in span:
            for low in range(0, len(rows), _GROUP):
                piece = rows.take(np.arange(low, min(low + _GROUP, len(rows))))
                self._writers[partition].write_batch(batch_of(piece, 0, ORIGIN, self._at[partition] + low))
            self._at[partition] += len(rows)

    def close(self) -> None:
        """Write what ends each file."""
        for writer in self._writers:
            writer.close()


@contextmanager
def whole_directory(out: Path) -> Iterator[Path]:
    """A directory to write into, which gets the name `out` when all is in it; until then, and after an error, there is none.

    Raises
    ------
    InputError
        Something is there, or it can't be made.
    StorageFullError
    """
    out = out.absolute()
    if out.exists() or out.is_symlink():
        raise InputError(f"--out {out} is there already; name a directory that is not, it is made whole")
    if not out.parent.is_dir():
        raise InputError(f"can't make {out}: there is no folder {out.parent}; make it, or give another")
    draft = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with translated(f"--out {out}"):
            draft.mkdir()
            yield draft
            for path in draft.iterdir():
                sync(path)
            sync(draft)
            draft.rename(out)
            sync(out.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
