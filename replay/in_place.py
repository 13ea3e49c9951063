"""A task's state replaced: the old one beside, the new one in its place, durably."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from flows.directories import sync, translated

# Between two of them a reader must come upon the same few microseconds again.
_ATTEMPTS = 5
REPLACED = ".replaced"
"""What the name of the old state's directory, or of a log's old file, ends with."""


def put_in_place(new: Path | None, path: Path) -> None:
    """Put a directory in the place of another, which then lies beside it, until the next time.

    A kill in between leaves the old one, the new one, or none there; whoever has the task's lock may do it again.

    Parameters
    ----------
    new : Path or None
        None: nothing takes its place.
    path : Path
        It need not be there.

    Raises
    ------
    StorageFullError, DataDirectoryError
    """
    old = path.with_name(path.name + REPLACED)
    with translated(f"state {path}: can't be replaced"):
        if there := path.exists():
            delete(old)
            path.rename(old)
        if new is not None:
            try:
                _move(new, path)
            except OSError:
                # Rather the old one than none: a run would go through the whole log.
                if there:
                    _move(old, path)
                raise
            if new.parent != path.parent:
                sync(new.parent)
        if path.parent.is_dir():
            sync(path.parent)


def _move(directory: Path, path: Path) -> None:
    """Rename a directory to where there is none, or only what a reader has made that opened it this moment: a file of RocksDB's bindings."""
    for left in range(_ATTEMPTS, 0, -1):
        try:
            directory.rename(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or (path / "CURRENT").exists() or left == 1:
                raise
            shutil.rmtree(path, ignore_errors=True)
        else:
            return


def delete(path: Path) -> None:
    """Delete a directory that need not be there.

    Raises
    ------
    DataDirectoryError
        It can't be deleted: what is written there next would be mixed with what it holds.
    """
    with translated(f"{path}: can't be deleted"):
        if path.exists():
            shutil.rmtree(path)
