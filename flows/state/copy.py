"""A task's database made of keys and values at once, as a restore and a rebuild have them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rocksdict import IngestExternalFileOptions, Rdict, SstFileWriter, WriteBatch

from flows.directories import make_directory, translated
from flows.state import anchor
from flows.state.anchor import ANCHOR, SEAL_BYTES
from flows.state.database import state_errors, task_options

# Of a write batch that makes a copy: what is held of it.
_BATCH_BYTES = 16 << 20
_TABLE_BYTES = 64 << 20


def write_state(path: Path, pairs: Iterable[tuple[bytes, bytes]]) -> None:
    """Make a task's database of keys and values, as `TaskView.items` gave them, durably.

    Parameters
    ----------
    path : Path
        A directory that isn't there yet.

    Raises
    ------
    StorageFullError, DataDirectoryError
        It can't be written: that says nothing of what was to be written.
    """
    with translated(f"can't make {path}"):
        make_directory(path.absolute())
    with state_errors(path, new=True):
        db = Rdict(str(path), task_options())
        tables = _Tables(path)
        try:
            batch, size = WriteBatch(raw_mode=True), 0
            for key, value in pairs:
                if key == ANCHOR:
                    mark = value[:SEAL_BYTES]
                    anchor.save(path, mark, [memoryview(value)[SEAL_BYTES:]])
                    batch.put(ANCHOR, mark)
                    continue
                if tables.take(key, value):
                    continue
                batch.put(key, value)
                size += len(value)
                if size >= _BATCH_BYTES:
                    db.write(batch)
                    batch, size = WriteBatch(raw_mode=True), 0
            tables.move_to(db)
            db.write(batch)
            db.flush_wal(True)
        finally:
            db.cancel_all_background(True)


class _Tables:
    """Keys that come in order, written into tables at once: through the write-ahead log they would be written three times, the last time at a start.

    Parameters
    ----------
    path : Path
        Directory of the database that is to have them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: list[str] = []
        self._writer: SstFileWriter | None = None
        self._last: bytes | None = None

    def take(self, key: bytes, value: bytes) -> bool:
        """Write a pair, if its key lies behind those that were taken."""
        if self._last is not None and key <= self._last:
            return False
        if self._writer is not None and self._writer.file_size() >= _TABLE_BYTES:
            self._end()
        if self._writer is None:
            self._files.append(str(self._path / f"made-{len(self._files)}.sst"))
            self._writer = SstFileWriter(task_options())
            self._writer.open(self._files[-1])
        self._writer[key] = value
        self._last = key
        return True

    def move_to(self, db: Rdict) -> None:
        """Give a database, which must be empty, what was taken."""
        self._end()
        if self._files:
            options = IngestExternalFileOptions()
            options.set_move_files(True)
            db.ingest_external_file(self._files, options)

    def _end(self) -> None:
        if self._writer is not None:
            # Syncs the file.
            self._writer.finish()
            self._writer = None
