"""A task's own RocksDB: everything that a task knows, moved from one position to the next by atomic, synced write batches.

The meta record says which position the state reflects, which runs are live, and how far the outbox has counted; nothing is true that it does
not say. A reader opens the same files as a secondary and sees whole commits only.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from rocksdict import AccessType, DBCompressionType, IngestExternalFileOptions, Options, Rdict, SstFileWriter, WriteBatch

from flows.directories import make_directory, translated
from flows.errors import MAKE_ANEW, CorruptionError, DataDirectoryError, LockedError, StateError, StorageFullError, TidemarkError
from flows.state import scratch
from flows.state.runs import Manifest, Run, RunReader, Runs, Table
from flows.state.task_lock import TaskLock

# Longer than a writer takes to open a task.
_PATIENCE_S = 10.0
# Of a write batch that makes a copy: what is held of it.
_BATCH_BYTES = 16 << 20
_TABLE_BYTES = 64 << 20
# 3: corrections (`generation`, `corrected_to`, `fold_all`). State of format 2 reflects none, and is one of format 3 from its next commit on.
FORMAT = 3
READABLE = (2, FORMAT)
_META = b"meta"


@dataclass
class Meta:
    """What a task's state is, as of its last commit.

    Attributes
    ----------
    flow, partition : str, int
        The task.
    fingerprint : str
        Of the features and settings that the state was made under.
    generation : int
        The correction that the outbox follows.
    corrected_to : int
        The correction that the state reflects; ahead of `generation` where nothing goes out (see flows.corrections.history).
    position : int
        Next offset to read of the task's input partition.
    watermark : int or None
        Greatest event time applied, ms.
    sequences : dict of log name to list of int
        Next sequence number of the outbox, by destination partition.
    applied : dict of origin to int
        Last sequence number applied, of tasks that read another task's output.
    inputs : dict of log name to [position, arrival]
        Of each further input: next offset, and the greatest timestamp before it, ms.
    anchor, anchor_sequences, anchor_inputs
        Position, `sequences` and `inputs` that the saved working set reflects.
    expired_to : int
        Revisits whose hour ended at or before this may be gone, ms.
    fold_all : bool
        All runs of each table are to become one: rows that take others back must meet them before these expire.
    counts : dict
        Records by what became of them.
    """

    flow: str
    partition: int
    fingerprint: str
    format: int = FORMAT
    generation: int = 0
    corrected_to: int = 0
    position: int = 0
    watermark: int | None = None
    sequences: dict[str, list[int]] = field(default_factory=dict)
    applied: dict[int, int] = field(default_factory=dict)
    anchor: int = 0
    anchor_sequences: dict[str, list[int]] = field(default_factory=dict)
    inputs: dict[str, list[int]] = field(default_factory=dict)
    anchor_inputs: dict[str, list[int]] = field(default_factory=dict)
    expired_to: int = -(2**62)
    fold_all: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    manifest: Manifest = field(default_factory=dict)
    next_run: int = 0

    def to_json(self) -> bytes:
        """The meta record."""
        content = {**self.__dict__, "manifest": {name: [[r.id, r.level, r.rows] for r in runs] for name, runs in self.manifest.items()}}
        if not self.inputs:
            # Of most tasks; what they write can be read by who doesn't know these.
            del content["inputs"], content["anchor_inputs"]
        return orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS)

    @classmethod
    def from_json(cls, data: bytes, path: Path) -> Meta:
        """Read a meta record, as of this format; refuse one that can't be."""
        try:
            content = orjson.loads(data)
            if content.get("format") not in READABLE:
                raise DataDirectoryError(
                    f"state {path} has format {content.get('format')}; this Tidemark reads format {FORMAT}: "
                    f"`tidemark replay restore --all` makes it anew from the log; if features have changed as well, {MAKE_ANEW}"
                )
            content["format"] = FORMAT
            content["manifest"] = {name: [Run(*r) for r in runs] for name, runs in content["manifest"].items()}
            content["applied"] = {int(origin): last for origin, last in content["applied"].items()}
            return cls(**content)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StateError(
                f"state {path}: its meta record can't be read ({error!r}); put the task back with `tidemark replay restore`"
            ) from error


class TaskStore:
    """The writer's side; one process at a time.

    Parameters
    ----------
    path : Path
        Directory of the RocksDB; made if it isn't there.
    flow, partition : str, int
    fingerprint : str
    tables : sequence of Table

    Raises
    ------
    LockedError
        Another process has the task.
    DataDirectoryError
        The state was made under another fingerprint or by another format.
    StateError
        The state is damaged.
    """

    def __init__(self, path: Path, flow: str, partition: int, fingerprint: str, tables: Sequence[Table]) -> None:
        self.path = path
        self.runs: Runs = None  # type: ignore[assignment]
        # Before anything is made: where somebody is about to put a database, there must be none.
        self._lock = TaskLock(path)
        try:
            with translated(f"can't make {path}"):
                make_directory(path.absolute())
            with _translated(path):
                self._db = Rdict(str(path), _options())
            data = self.get(_META)
            self.meta = Meta.from_json(data, path) if data is not None else Meta(flow, partition, fingerprint)
            if self.meta.fingerprint != fingerprint:
                raise DataDirectoryError(
                    f"state {path} was made under other features or settings (fingerprint {self.meta.fingerprint}, now {fingerprint}); "
                    f"put the settings back, or {MAKE_ANEW}"
                )
            self.runs = Runs(self._db, tables, self.meta.manifest, self.meta.next_run)
        except BaseException:
            self.close()
            raise

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None if there is none."""
        with _translated(self.path):
            return self._db.get(key)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The values of keys, in their order: quickest if they are sorted."""
        with _translated(self.path):
            return list(self._db.get(keys)) if keys else []

    def prefixed(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Keys that begin with a prefix, with their values, in order."""
        with _translated(self.path):
            return _prefixed(self._db, prefix)

    def batch(self) -> WriteBatch:
        """An empty write batch."""
        return WriteBatch(raw_mode=True)

    def commit(self, batch: WriteBatch) -> None:
        """Write a batch together with the meta record, synced: all or nothing."""
        self.write(batch)
        self.sync()

    def write(self, batch: WriteBatch) -> None:
        """Write a batch together with the meta record: all or nothing, and nothing of it before what was written earlier, whatever fails."""
        self.meta.manifest = self.runs.manifest
        self.meta.next_run = self.runs.next_id
        batch.put(_META, self.meta.to_json())
        with _translated(self.path):
            self._db.write(batch)

    def sync(self) -> None:
        """Make all that has been written durable; in any thread. Here Python's lock is let go of while the disk works."""
        with _translated(self.path):
            self._db.flush_wal(True)

    def close(self) -> None:
        """Release the task. What was committed is in the write-ahead log, synced; nothing needs to be flushed."""
        if self.runs is not None:
            self.runs.release()
        db = self.__dict__.pop("_db", None)
        if db is not None:
            # Or letting go of it would write out memory tables, 25 ms a task, which a start after a kill does as well.
            db.cancel_all_background(True)
        # Only when RocksDB has let go of its files.
        del db
        self._lock.release()


class TaskView:
    """The reader's side: a RocksDB secondary that follows the writer, or stands where it stopped.

    Values and position are consistent between two calls of `refresh`.

    Attributes
    ----------
    meta : Meta or None
        Of the commit where it stands; another object after each that it follows.
    database : str
        Names the database that lies there: one that is put in its place, as by a restore, is another, though its runs may have the same IDs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._scratch = scratch.take()
        # At the latest when the process ends: a reader that serves is never closed.
        self._remove_scratch = weakref.finalize(self, shutil.rmtree, self._scratch, True)
        self._opened: _Sizes | None = None
        try:
            self._catch_up()
        except BaseException:
            self._remove_scratch()
            raise
        self._load()

    def refresh(self) -> None:
        """Catch up with the writer."""
        # RocksDB's own catch-up costs 2 ms even where nothing is new; the sizes of the files that it would read tell for a hundredth of that.
        if _sizes(self.path) != self._seen:
            self._catch_up()
            self._load()

    def _catch_up(self) -> None:
        """Read what is new: of the log as it grows; else all anew, until nothing moves meanwhile.

        RocksDB's secondary follows a growing log without a fault. Where the writer moves rows from its log into a table, or opens the task again, it
        may miss rows for good, or see what is newer than its own last position, so then the view is opened anew (some 5 ms, each 16 MiB of commits).
        """
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            # Taken before the files are read: what is written in between is read again at the next refresh.
            before = _sizes(self.path)
            try:
                with _translated(self.path):
                    if self._opened == _layout(before):
                        self._db.try_catch_up_with_primary()
                    else:
                        self._open()
                        self._opened = _layout(before)
            except DataDirectoryError:
                # A writer that opens the task takes files away under us.
                if time.monotonic() > deadline or _sizes(self.path) == before:
                    raise
                continue
            if _layout(_sizes(self.path)) == _layout(before):
                self._seen = before
                return

    def _open(self) -> None:
        self.__dict__.pop("runs", None)
        self.__dict__.pop("_db", None)
        self._db = Rdict(str(self.path), _options(create=False), access_type=AccessType.secondary(self._scratch))
        self.runs = RunReader(self._db)
        self.database = _name_of(self.path)

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None if there is none."""
        with _translated(self.path):
            return self._db.get(key)

    def prefixed(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Keys that begin with a prefix, with their values, in order."""
        with _translated(self.path):
            return _prefixed(self._db, prefix)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys with their values, in order: the state of one commit, whole, until the next `refresh`."""
        with _translated(self.path):
            yield from _pairs(self._db)

    def close(self) -> None:
        """Release the files of this view; one that could not be opened anew has none."""
        if (db := self.__dict__.pop("_db", None)) is not None:
            db.close()
        self._remove_scratch()

    def _load(self) -> None:
        data = self.get(_META)
        self.meta = Meta.from_json(data, self.path) if data is not None else None
        self.runs.forget_except({run.id for runs in (self.meta.manifest if self.meta else {}).values() for run in runs})


def check_files(path: Path, advance: Callable[[int], None]) -> None:
    """Read everything in a task's database, whether or not a writer is at work.

    A view makes do with an older commit where a file is missing; here that is an error.

    Parameters
    ----------
    advance : callable
        Called with bytes, as they are read.

    Raises
    ------
    CorruptionError, DataDirectoryError
        A file is missing, or its checksum is wrong.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        before = _sizes(path)
        try:
            with _translated(path):
                for _, value in _pairs(Rdict(str(path), _options(create=False), access_type=AccessType.read_only())):
                    advance(len(value))
            return
        except (CorruptionError, DataDirectoryError):
            # A writer takes files away under us.
            if time.monotonic() > deadline or _sizes(path) == before:
                raise


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
    with _translated(path, new=True):
        db = Rdict(str(path), _options())
        tables = _Tables(path)
        try:
            batch, size = WriteBatch(raw_mode=True), 0
            for key, value in pairs:
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
            self._writer = SstFileWriter(_options())
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


_Sizes = list[tuple[str, int]]
"""Logs and manifests with their sizes, and CURRENT, which names the manifest, with a mark of the file itself."""


def _sizes(path: Path) -> _Sizes:
    sizes = []
    with _translated(path), os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if name.endswith(".log") or name.startswith("MANIFEST") or name == "CURRENT":
                # The writer may have deleted it this moment; that it is missing shows that there is something new.
                try:
                    found = entry.stat()
                except FileNotFoundError:
                    continue
                sizes.append((name, found.st_size if name != "CURRENT" else found.st_mtime_ns ^ found.st_ino))
        return sorted(sizes)


def _layout(sizes: _Sizes) -> _Sizes:
    """What changes when rows move from a log into a table, or a writer opens the task: which logs there are, and the manifest."""
    return [(name, 0 if name.endswith(".log") else size) for name, size in sizes]


def _name_of(path: Path) -> str:
    # By RocksDB, and by the file that says so: a copy that is put back by hand says the same. A number of a file may come again, with another time.
    file = path / "IDENTITY"
    try:
        found = file.stat()
        return f"{file.read_text()}/{path.stat().st_ino}/{found.st_ino}/{found.st_ctime_ns}"
    except (OSError, UnicodeDecodeError):
        # It can be read without. Then it is another each time that it is opened.
        return uuid.uuid4().hex


def _prefixed(db: Rdict, prefix: bytes) -> list[tuple[bytes, bytes]]:
    return list(itertools.takewhile(lambda item: item[0].startswith(prefix), _pairs(db, prefix)))


def _pairs(db: Rdict, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """Keys from one on, with their values. The bindings' own `items` ends without a word where a block is damaged."""
    found = db.iter()
    found.seek(start)
    while found.valid():
        yield found.key(), found.value()
        found.next()
    found.status()


def _options(create: bool = True) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(create)
    options.set_compression_type(DBCompressionType.lz4())
    # A task writes a few large values per commit; there are many tasks in a process.
    options.set_write_buffer_size(16 << 20)
    options.set_keep_log_file_num(2)
    # A secondary must keep files open, because the primary may delete them under it.
    options.set_max_open_files(256 if create else -1)
    # Nothing here reads RocksDB's own statistics, and there is little to open: both cost each start a few ms.
    options.set_skip_stats_update_on_db_open(True)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    options.set_max_file_opening_threads(1)
    return options


class _translated:
    """RocksDB's exceptions as ours.

    Parameters
    ----------
    path : Path
    new : bool
        The database is only being made: whatever fails, no state is damaged.
    """

    def __init__(self, path: Path, new: bool = False) -> None:
        self._path = path
        self._new = new

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, TidemarkError) or not isinstance(error, Exception):
            return
        text = str(error)
        # Not just "lock": a block's checksum is another matter.
        if re.search(r"While lock file|lock hold by", text):
            raise LockedError(f"state {self._path} is in use by another process; stop that run first, or use another --data") from error
        if re.search(r"No space left|File too large|disk full", text, re.IGNORECASE):
            raise StorageFullError(
                f"state {self._path}: the disk is full ({text}); free space and run again, nothing committed is lost"
            ) from error
        if self._new or re.search(r"Too many open files|Cannot allocate memory|Read-only file system", text):
            # Of the process or the disk, whichever task meets it first.
            raise DataDirectoryError(f"state {self._path}: {text}") from error
        if "orrupt" in text:
            raise StateError(f"state {self._path}: {text}; put the task back with `tidemark replay restore`") from error
        raise StateError(f"state {self._path}: {text}") from error
