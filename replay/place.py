"""Where checkpoints are kept: a local directory, or whatever fsspec has a name for (``s3://bucket/path``, ``gs://…``, ``memory://…``).

A file appears whole or not at all, and is never changed: locally it is synced before it gets its name; object stores are so by nature.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from flows.directories import FULL, make_directory, sync
from flows.errors import CorruptionError, DataDirectoryError, SettingsError, StorageFullError, TidemarkError

_DRAFT = ".draft-"
# What a disk says of one file that it can't give back: the file is damaged, whatever else the disk holds.
_DAMAGED = (errno.EIO, errno.EBADMSG, errno.EUCLEAN)


class PlaceError(DataDirectoryError):
    """The place can't be reached, or refuses: that says nothing of what it holds."""


class Place:
    """A directory of files that are written once.

    Parameters
    ----------
    url : str
        A path, or a URL of fsspec's. Its options (keys, endpoints) are those that fsspec takes from the environment and its own config files.

    Raises
    ------
    SettingsError
        No such protocol, or its package is not installed.

    Notes
    -----
    Everything else raises `PlaceError` where a directory or a store can't be reached, or refuses, and `StorageFullError` where it is full.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise SettingsError(f"checkpoints in '{url}': {error} (for s3:// pip install 'tidemark[s3]')") from error
        except ValueError as error:
            raise SettingsError(f"checkpoints in '{url}': {error}") from error
        self._root = self._root.rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)
        self.slow = not self._local
        """Whether an attempt in vain takes long: a store's client is slow to give up."""

    def files(self, directory: str) -> dict[str, int]:
        """Names of the files in a directory, with their sizes; none if there is no such directory."""
        with self._translated(directory):
            self._fs.invalidate_cache()
            try:
                found: list[dict[str, Any]] = self._fs.ls(self._path(directory), detail=True)
            except FileNotFoundError:
                return {}
            names = {entry["name"].rsplit("/", 1)[-1]: int(entry["size"] or 0) for entry in found if entry["type"] == "file"}
            return {name: size for name, size in sorted(names.items()) if not name.startswith(".")}

    def read(self, name: str) -> bytes | None:
        """All of a file, None if it isn't there.

        Raises
        ------
        CorruptionError
            The disk can't give it back.
        """
        with self._translated(name):
            try:
                return bytes(self._fs.cat_file(self._path(name)))
            except FileNotFoundError:
                return None
            except OSError as error:
                if self._local and error.errno in _DAMAGED:
                    raise CorruptionError(f"checkpoint {self.url}/{name} can't be read: {error.strerror}") from error
                raise

    def write(self, name: str, data: bytes) -> None:
        """Make a file, durably; one of the same name is replaced."""
        with self._translated(name):
            if self._local:
                self._write_local(Path(self._path(name)), data)
            else:
                self._fs.pipe_file(self._path(name), data)

    def delete(self, names: Sequence[str]) -> None:
        """Delete files; fine if one isn't there."""
        for name in names:
            with self._translated(name), suppress(FileNotFoundError):
                self._fs.rm_file(self._path(name))

    def clear_drafts(self, directory: str) -> None:
        """Delete what writers that were killed have left in a directory; nobody else may be writing there."""
        if self._local:
            with self._translated(directory):
                for draft in Path(self._path(directory)).glob(f"{_DRAFT}*"):
                    draft.unlink(missing_ok=True)

    def _write_local(self, path: Path, data: bytes) -> None:
        make_directory(path.parent.absolute())
        draft = path.with_name(f"{_DRAFT}{os.getpid()}-{path.name}")
        try:
            with draft.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        sync(path.parent)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        where = f"checkpoints in {self.url}, {name or 'the directory'}"
        try:
            yield
        except OSError as error:
            if error.errno in FULL:
                raise StorageFullError(
                    f"{where}: the disk is full; free space, or give checkpoints another place, and run again"
                ) from error
            raise PlaceError(f"{where}: {error.strerror or error}") from error
        except Exception as error:
            # Stores have errors of their own for a server that is away, or credentials that are not there.
            if self._local or isinstance(error, TidemarkError):
                raise
            raise PlaceError(f"{where}: {error}; nothing is lost, run again when it can be reached") from error
