"""Where views keep the few files that RocksDB wants of them: one folder for each process, locked for as long as it lives.

A process that is killed leaves its folder behind, but not the lock, which is the kernel's. So the next one that reads knows whose owner is
gone, and removes it.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from flows.errors import StorageFullError

_PREFIX = "tidemark-views-"
_guard = threading.Lock()
# By process, for one that forks shares its parent's memory, not its folder. The descriptor is kept open: it holds the lock.
_folders: dict[int, tuple[str, int]] = {}


def take() -> str:
    """A new directory, which is its taker's to remove; at the latest the end of the process does."""
    with _guard:
        if os.getpid() not in _folders:
            clear()
            _folders[os.getpid()] = _locked_folder()
            atexit.register(_end, os.getpid())
        folder, descriptor = _folders[os.getpid()]
        if not os.path.isdir(folder):
            # Somebody has cleaned up the temporary directory.
            os.close(descriptor)
            folder, _ = _folders[os.getpid()] = _locked_folder()
    return tempfile.mkdtemp(dir=folder)


def clear() -> None:
    """Remove this user's folders whose owners are gone."""
    left: list[str] = []
    with suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        left = [entry.path for entry in entries if entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False)]
    for path in left:
        # Whatever keeps us from one is no reason not to read: it goes another time.
        with suppress(OSError):
            if os.lstat(path).st_uid == os.getuid():
                _remove_if_left(path)


def _remove_if_left(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # With the lock held: who has just made it, and comes too late to lock it, finds it gone.
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(descriptor)


def _locked_folder() -> tuple[str, int]:
    while True:
        try:
            path = tempfile.mkdtemp(prefix=_PREFIX)
        except OSError as error:
            raise StorageFullError(
                f"no temporary directory can be made: the disk is full, or TMPDIR names no place that may be written ({error.strerror})"
            ) from error
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            # Somebody who clears was faster.
            continue
        # Where there are no locks, nobody else gets one either, so nobody removes it.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if Path(path).is_dir():
            return path, descriptor
        os.close(descriptor)


def _end(process: int) -> None:
    if process == os.getpid() and process in _folders:
        folder, descriptor = _folders.pop(process)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)
