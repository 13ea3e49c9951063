"""How a task's RocksDB is opened and read through, and its exceptions as ours."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict

from flows.errors import DataDirectoryError, LockedError, StateError, StorageFullError, TidemarkError

# What a database holds in memory before it writes a file, and whoever follows it as a secondary holds too. There are many tasks in a process: with
# four times as much, a flow and each of its readers grew by 64 MiB for minutes after each start, and none was faster.
WRITE_BUFFER_BYTES = 1 << 20
# Of all databases of a process together; by default each would have 32 MiB of its own. A merge reads what it merges once, and readers that are asked
# again keep rows (held_blocks.py): a larger one only fills, for minutes.
_CACHE_BYTES = 4 << 20
_TABLE_OPTIONS = b'[TableOptions/BlockBasedTable "default"]'


def pairs_with(db: Rdict, prefix: bytes) -> list[tuple[bytes, bytes]]:
    """Keys that begin with a prefix, with their values, in order."""
    return list(itertools.takewhile(lambda item: item[0].startswith(prefix), pairs_from(db, prefix)))


def pairs_from(db: Rdict, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """Keys from one on, with their values. The bindings' own `items` ends without a word where a block is damaged."""
    found = db.iter()
    found.seek(start)
    while found.valid():
        yield found.key(), found.value()
        found.next()
    found.status()


def task_options(create: bool = True) -> Options:
    """Of a task's database: to write it, or (`create` False) to read it."""
    options = Options(raw_mode=True)
    options.create_if_missing(create)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    tables = BlockBasedOptions()
    tables.set_block_cache(_block_cache())
    options.set_block_based_table_factory(tables)
    options.set_keep_log_file_num(2)
    # A secondary must keep files open, because the primary may delete them under it.
    options.set_max_open_files(256 if create else -1)
    # Nothing here reads RocksDB's own statistics, and there is little to open: both cost each start a few ms.
    options.set_skip_stats_update_on_db_open(True)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    options.set_max_file_opening_threads(1)
    return options


def check_current(path: Path) -> None:
    """Refuse a directory that lacks the file with which a database begins, though it has others that come after it: it would be made anew, and empty.

    Raises
    ------
    StateError
    """
    if not (path / "CURRENT").exists() and any(itertools.chain(path.glob("*.sst"), path.glob("*.log"))):
        raise StateError(f"state {path}: its file CURRENT is gone; put the task back with `tidemark replay restore`")


def check_options(path: Path) -> None:
    """Refuse a database whose file of options does not say where those of its tables begin: whoever opens it would crash, without a word.

    Nothing else in that file matters: what is opened is given its options.

    Raises
    ------
    StateError
    """
    # A writer that opens the database replaces them under us.
    with suppress(FileNotFoundError):
        newest = max(
            (file for file in path.glob("OPTIONS-*") if file.suffix != ".dbtmp"), key=lambda file: (len(file.name), file.name), default=None
        )
        if newest is not None and _TABLE_OPTIONS not in newest.read_bytes():
            raise StateError(f"state {path}: its file {newest.name} is damaged; put the task back with `tidemark replay restore`")


@functools.cache
def _block_cache() -> Cache:
    """One for the process: what is hot in one task may take the room of what is cold in another."""
    return Cache(_CACHE_BYTES)


class state_errors:
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
        if "switched to a new MANIFEST" in text:
            # So a secondary puts it, which can't know that nobody writes.
            text = f"its MANIFEST is gone, or was replaced this moment ({text})"
        # Not just "lock": a block's checksum is another matter.
        if re.search(r"While lock file|lock hold by", text):
            raise LockedError(f"state {self._path} is in use by another process; stop that run first, or use another --data") from error
        if re.search(r"No space left|File too large|disk full|quota", text, re.IGNORECASE):
            raise StorageFullError(
                f"state {self._path}: the disk is full ({text}); free space and run again, nothing committed is lost"
            ) from error
        if self._new or re.search(r"Too many open files|Cannot allocate memory|Read-only file system", text):
            # Of the process or the disk, whichever task meets it first.
            raise DataDirectoryError(f"state {self._path}: {text}") from error
        raise StateError(f"state {self._path}: {text}; put the task back with `tidemark replay restore`") from error
