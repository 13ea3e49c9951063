"""A task's own RocksDB, its readers' side: the same files as a secondary, which sees whole commits only."""

from __future__ import annotations

import os
import shutil
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

from rocksdict import AccessType, Rdict

from flows.errors import CorruptionError, DataDirectoryError, StateError
from flows.state import anchor, scratch
from flows.state.anchor import ANCHOR, SEAL_BYTES
from flows.state.database import check_options, pairs_from, pairs_with, state_errors, task_options
from flows.state.meta import META, Meta
from flows.state.runs import RunReader

# Longer than a writer takes to open a task, and than a restore has none in its place.
_PATIENCE_S, _REPLACED_S = 10.0, 0.2


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
        self._anchor: anchor.Saved | None = None
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
        begun = time.monotonic()
        while True:
            before: _Sizes = []
            try:
                # Taken before the files are read: what is written in between is read again at the next refresh.
                before = _sizes(self.path)
                with state_errors(self.path):
                    if self._opened == _layout(before):
                        self._db.try_catch_up_with_primary()
                    else:
                        self._open()
                        self._opened = _layout(before)
            except DataDirectoryError:
                taken = time.monotonic() - begun
                if not (self.path / "CURRENT").exists():
                    # Being replaced, or gone.
                    if taken > _REPLACED_S:
                        raise
                    time.sleep(_REPLACED_S / 10)
                # A writer that opens the task takes files away under us.
                elif taken > _PATIENCE_S or _sizes(self.path) == before:
                    raise
                continue
            if _layout(_sizes(self.path)) == _layout(before):
                self._seen = before
                return

    def _open(self) -> None:
        self.__dict__.pop("runs", None)
        self.__dict__.pop("_db", None)
        # Another database may lie there now, and have a file of the same name.
        self._anchor = None
        # The bindings would make the directory of a task that is being replaced this moment, and be in the way of what takes its place.
        if not (self.path / "CURRENT").exists():
            raise StateError(f"state {self.path}: its file CURRENT is gone; put the task back with `tidemark replay restore`")
        check_options(self.path)
        self._db = Rdict(str(self.path), task_options(create=False), access_type=AccessType.secondary(self._scratch))
        self.runs = RunReader(self._db)
        self.database = _name_of(self.path)

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None if there is none."""
        with state_errors(self.path):
            return self._db.get(key)

    def prefixed(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Keys that begin with a prefix, with their values, in order."""
        with state_errors(self.path):
            return pairs_with(self._db, prefix)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys with their values, in order: the state of one commit, whole, until the next `refresh`."""
        with state_errors(self.path):
            for key, value in pairs_from(self._db):
                yield key, self._whole(value) if key == ANCHOR else value

    def saved(self) -> memoryview | None:
        """The working set that was saved last; None if it is not what was written, or there is none."""
        value = self.get(ANCHOR)
        with state_errors(self.path):
            return anchor.checked(self.meta, value, self._anchor) if self.meta is not None else None

    def close(self) -> None:
        """Release the files of this view; one that could not be opened anew has none."""
        self._anchor = None
        if (db := self.__dict__.pop("_db", None)) is not None:
            db.close()
        self._remove_scratch()

    def _whole(self, value: bytes) -> bytes:
        """The seal of a saved working set and the bytes, in one."""
        if (data := self.saved()) is None:
            raise _altered(self.path)
        return b"".join((value[:SEAL_BYTES], data))

    def _load(self) -> None:
        try:
            while not self._anchor_opened() and _sizes(self.path) != self._seen:
                # The writer went on meanwhile, by two saved working sets, and deleted this one.
                self._catch_up()
            data = self.get(META)
            self.meta = Meta.from_json(data, self.path) if data is not None else None
        except BaseException:
            # What it stands on now is no commit: the next refresh must not take it for one.
            self._seen = []
            raise
        self.runs.forget_except({run.id for runs in (self.meta.manifest if self.meta else {}).values() for run in runs})

    def _anchor_opened(self) -> bool:
        """Have the file of the saved working set open; False if it isn't there."""
        value = self.get(ANCHOR)
        mark = value if value is not None and len(value) == SEAL_BYTES else None
        if self._anchor is None or mark != self._anchor.mark:
            with state_errors(self.path):
                self._anchor = anchor.Saved.opened(self.path, mark)
        return mark is None or self._anchor is not None


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
            with state_errors(path):
                check_options(path)
                db = Rdict(str(path), task_options(create=False), access_type=AccessType.read_only())
                # Open before all else is read: meanwhile a writer may save others, and delete this one.
                saved = anchor.Saved.opened(path, db.get(ANCHOR))
                for _, value in pairs_from(db):
                    advance(len(value))
                _check_anchor(path, db.get(META), db.get(ANCHOR), saved, advance)
            return
        except (CorruptionError, DataDirectoryError):
            # A writer takes files away under us.
            if time.monotonic() > deadline or _sizes(path) == before:
                raise


def _check_anchor(path: Path, meta: bytes | None, value: bytes | None, saved: anchor.Saved | None, advance: Callable[[int], None]) -> None:
    if value is None:
        return
    data = anchor.checked(Meta.from_json(meta, path), value, saved) if meta is not None else None
    if data is None:
        raise _altered(path)
    advance(len(data))


def _altered(path: Path) -> StateError:
    return StateError(f"state {path}: the saved working set is not what was written; put the task back with `tidemark replay restore`")


_Sizes = list[tuple[str, int]]
"""Logs and manifests with their sizes, and CURRENT, which names the manifest, with a mark of the file itself."""


def _sizes(path: Path) -> _Sizes:
    sizes = []
    with state_errors(path), os.scandir(path) as entries:
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
