"""Directories that outlast a power failure: a file's sync makes its content durable, but not its name, nor the directories above it.

And what the file system refuses, in our words.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flows.errors import DataDirectoryError, StorageFullError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What says that there is no room."""


def make_directory(path: Path) -> None:
    """Make a directory, and those above it that aren't there, durably; fine if it is there.

    Parameters
    ----------
    path : Path
        Absolute.

    Raises
    ------
    OSError
        It can't be made.
    """
    missing = []
    while not path.is_dir() and path != path.parent:
        missing.append(path)
        path = path.parent
    # The lowest one that is there may have been made by a process that was killed before its sync; those above it have children, so they were synced.
    with suppress(PermissionError):
        sync(path.parent)
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        sync(directory.parent)


def sync(path: Path) -> None:
    """Make the names in a directory, or the content of a file, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Errors of the file system as ours.

    Parameters
    ----------
    where : str
        What could not be done, or to what: a message begins with it.

    Raises
    ------
    StorageFullError
    DataDirectoryError
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StorageFullError(f"{where}: the disk is full; free space and run again, nothing committed is lost") from error
        raise DataDirectoryError(f"{where}: {error.strerror or error}") from error
