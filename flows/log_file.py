"""The SQLite file under a `LocalLog`: how it is made, one connection for each thread of each process, transactions, and its errors.

Nothing here knows records. No sqlite3 exception may leave `LogFile.translated`, which everything that touches the file goes through.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flows.directories import make_directory, sync
from flows.errors import CorruptionError, DataDirectoryError, LockedError, LogError, StorageFullError, TidemarkError

FORMAT = 1
BUSY_TIMEOUT_S = 30.0
# Measured on 65 536-record event batches, 2 cores, ext4, M records/s. Pages of 4 KiB: append 1.5, read 8; of 16 KiB: 2.5 and 10.5; of
# 64 KiB: 5 and 11 to 15.
PAGE_BYTES = 65_536
WAL_PAGES = 1_024  # checkpoint the write-ahead log each 64 MiB
SMALL_FILES_BYTES = 1 << 20
NO_TIME = -(2**63)  # the arrival before the first record

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE ends (partition INTEGER PRIMARY KEY, end_offset INTEGER NOT NULL, max_timestamp INTEGER NOT NULL);
CREATE TABLE batches (
    partition INTEGER NOT NULL, first_offset INTEGER NOT NULL, end_offset INTEGER NOT NULL, records INTEGER NOT NULL,
    max_timestamp INTEGER NOT NULL, crc INTEGER NOT NULL, bytes BLOB NOT NULL);
CREATE UNIQUE INDEX batches_by_end ON batches (partition, end_offset);
CREATE INDEX batches_by_time ON batches (partition, max_timestamp, end_offset);
CREATE TABLE groups (
    name TEXT NOT NULL, partition INTEGER NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (name, partition)) WITHOUT ROWID;
CREATE TABLE ledger (key TEXT PRIMARY KEY, done INTEGER NOT NULL, total INTEGER NOT NULL) WITHOUT ROWID;
"""


class _Handle:
    """One thread's connection, and whatever its user keeps beside it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.process = os.getpid()
        self.tails: dict[int, Any] = {}
        self.ended: dict[int, tuple[int, int]] = {}


# Connections inherited over a fork. SQLite forbids using and even closing them in the child, so they are kept from the garbage collector.
_inherited: list[object] = []


class LogFile:
    """Connections to one file. May be shared by threads and survives a fork."""

    def __init__(self, path: Path, name: str, read_only: bool) -> None:
        self.path = path
        self.name = name
        self.read_only = read_only
        self._local = threading.local()
        self._handles: list[_Handle] = []
        self._lock = threading.Lock()
        self._closed = False
        self._in_use: int | None = None

    def make(self, partitions: int) -> None:
        """Make the file if it isn't there."""
        with self.translated("make it"):
            _create(self.path, self.name, partitions)

    def close(self) -> None:
        """Close every connection of this process; a second call does nothing."""
        with self._lock:
            self._closed = True
            handles, self._handles = self._handles, []
            in_use, self._in_use = self._in_use, None
        for handle in handles:
            if handle.process == os.getpid():
                with self.translated("close it"):
                    handle.connection.close()
            else:
                _inherited.append(handle)
        if in_use is not None:
            os.close(in_use)

    def faults(self) -> list[str]:
        """What SQLite finds wrong with the file's pages and indexes, which reads may never meet; the first few."""
        with self.translated("check it"):
            found = [row[0] for row in self.handle().connection.execute("PRAGMA integrity_check(3)")]
        return [] if found == ["ok"] else found

    def handle(self) -> _Handle:
        """The calling thread's own."""
        if self._closed:
            raise LogError(f"log '{self.name}' has been closed")
        handle: _Handle | None = getattr(self._local, "handle", None)
        if handle is None or handle.process != os.getpid():
            if handle is not None:
                _inherited.append(handle)
            with self._lock:
                if self._in_use is None:
                    self._in_use = _use(self.path)
            handle = self._local.handle = _Handle(self._connect())
            with self._lock:
                first = not self._handles
                self._handles.append(handle)
            if first:
                self._sync_leftovers(handle.connection)
        return handle

    def _connect(self) -> sqlite3.Connection:
        mode = "ro" if self.read_only else "rw"
        # check_same_thread off only so that `close` may close other threads' connections; each is used by its own thread alone.
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode={mode}", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        _prepare(connection)
        return connection

    def _sync_leftovers(self, connection: sqlite3.Connection) -> None:
        """Sync what a process wrote that was killed before its own sync: who opens the file first takes it for committed, and may build on it.

        After this connection's first read, for by then it is decided what counts, and it stays so while the connection is open.
        """
        connection.execute("SELECT 1 FROM sqlite_master").fetchall()
        for path in (Path(f"{self.path}-wal"), self.path.parent):
            with suppress(FileNotFoundError):
                sync(path)

    @contextmanager
    def transaction(self, kind: str) -> Iterator[sqlite3.Connection]:
        """One transaction, committed at the end of the block; rolled back by any exception, an interrupt too."""
        connection = self.handle().connection
        connection.execute(f"BEGIN {kind}")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    @contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """Turns the errors of SQLite and of the file system into ours."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise _translate(error, f"log '{self.name}' ({self.path}): can't {doing}", self.path.parent) from error


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """While nobody else has a log's file open: for who puts another in its place.

    Raises
    ------
    LockedError
        Somebody has.
    """
    descriptor = os.open(_lock_path(path), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(
                f"log {path} is open in another process; stop what runs, ingests or reads here, then run this again"
            ) from None
        yield
    finally:
        os.close(descriptor)


def whole_path(path: Path) -> Path:
    """Where the file lies, whole, that is about to take the place of a log's damaged one."""
    return path.with_name(f".{path.stem}.restored")


def _lock_path(path: Path) -> Path:
    return path.with_name(f".{path.stem}.lock")


def _use(path: Path) -> int | None:
    """Keep others from putting another file in a log's place while this is open: SQLite would go on with the old one.

    Raises
    ------
    LockedError
        Somebody is at it.
    DataDirectoryError
        Somebody was, and was killed at the last step.
    """
    descriptor: int | None = None
    # One that can't be made: a directory that may only be read, so nobody here can put a file in it either.
    with suppress(OSError):
        descriptor = os.open(_lock_path(path), os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        if descriptor is not None:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if whole_path(path).exists():
            raise DataDirectoryError(
                f"log {path} is being restored, and that was interrupted; `tidemark replay restore --log {path.stem}` completes it"
            )
    except BaseException as error:
        if descriptor is not None:
            os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise LockedError(f"log {path} is being restored by another process; wait for it, then run this again") from None
        raise
    return descriptor


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")


def _create(path: Path, name: str, partitions: int) -> None:
    """Make the file whole under another name, then rename it: nobody ever opens half a log."""
    make_directory(path.parent)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)  # two processes that both make the log: the second finds it made
        if path.exists():
            return
        draft = path.with_name(f".{name}.draft")
        for leftover in (draft, Path(f"{draft}-wal"), Path(f"{draft}-shm")):
            leftover.unlink(missing_ok=True)
        connection = sqlite3.connect(draft, isolation_level=None)
        try:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            _prepare(connection)
            connection.executescript(_SCHEMA)
            connection.execute("BEGIN")
            meta = {"format": str(FORMAT), "name": name, "partitions": str(partitions)}
            connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            connection.executemany("INSERT INTO ends VALUES (?, 0, ?)", [(p, NO_TIME) for p in range(partitions)])
            connection.execute("COMMIT")
            # Last, so that all lies in the file itself. What lay in a write-ahead log would be lost with it: on a full disk closing can't
            # move it into the file, and says nothing.
            connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()
        os.rename(draft, path)
        os.fsync(directory)
    finally:
        os.close(directory)


def _is_full(directory: Path) -> bool:
    """Whether a file system has no room left for what SQLite makes beside a file; it calls that an I/O error."""
    try:
        room = os.statvfs(directory)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < SMALL_FILES_BYTES


def _translate(error: sqlite3.Error | OSError, where: str, directory: Path) -> TidemarkError:
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return StorageFullError(f"{where}: {error}") if full else DataDirectoryError(f"{where}: {error}")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(directory)):
        return StorageFullError(f"{where}: the disk is full; nothing committed is lost, free some space and run this again")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LockedError(
            f"{where}: another process has held its write lock for {BUSY_TIMEOUT_S:.0f} s; wait for it or stop it, then run this again"
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return CorruptionError(f"{where}: the file is damaged ({error}); restore it from its archive")
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_AUTH):
        return DataDirectoryError(f"{where}: {error}; check that the directory exists and may be written")
    return LogError(f"{where}: {error}")
