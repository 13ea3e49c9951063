"""Files that are whole or not there: written beside, synced, renamed. What is read is checked against what was written, and no link is followed.

Every change to the registry's disk goes through here, so that a test can stop it at each one of them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flows.directories import make_directory, sync, translated
from flows.errors import StorageFullError
from flows.sealed import sealed
from online_model.registry.errors import DamagedModelError

DRAFT = ".draft-"
MANIFEST = "manifest.json"
# What a disk says of a file that it can't give back.
_DAMAGED = (errno.EIO, errno.EBADMSG, errno.EUCLEAN)


def write(path: Path, data: bytes) -> None:
    """Make a file that is not there yet; durable when this returns, but for its name."""
    with translated(f"can't write {path}"):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def replace(path: Path, data: bytes) -> None:
    """Put a whole file in another's place, at once and durably; one at a time does so."""
    draft = path.with_name(f"{DRAFT}{path.name}")
    with translated(f"can't write {path}"):
        make_directory(path.parent.absolute())
        draft.unlink(missing_ok=True)
        try:
            write(draft, data)
            os.rename(draft, path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        sync(path.parent)


def put_in_place(draft: Path, path: Path) -> None:
    """Give a directory its name, where nothing has that name: what it holds appears at once.

    Every file of it must have been synced.

    Raises
    ------
    FileExistsError
        Something is there.
    """
    sync(draft)
    # A rename may take the place of an empty directory: nobody of ours makes one.
    if path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    try:
        os.rename(draft, path)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        raise
    sync(path.parent)


def entries_of(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """What a manifest says of files, and `read` holds against them: size and sha256 of each by its name."""
    return {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}


def published(place: Path, number: int, files: Mapping[str, bytes], manifest: Mapping[str, Any]) -> Path:
    """Put files and a sealed manifest in place as the directory of a number, whole or not at all; one at a time does so.

    Parameters
    ----------
    place : Path
        Made if it isn't there.
    number : int
    files : mapping of name to bytes
    manifest : mapping
        Without its digest.

    Raises
    ------
    DataDirectoryError, StorageFullError
        It can't be written; nothing is there.
    """
    draft, path = place / f"{DRAFT}{number}", place / str(number)
    with translated(f"can't write {path}"):
        make_directory(place)
        # Of a writer that was killed.
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            for name, data in files.items():
                write(draft / name, data)
            write(draft / MANIFEST, sealed(manifest))
            put_in_place(draft, path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return path


def sweep(place: Path, numbers: Iterable[int]) -> None:
    """Delete the directories of some numbers, and whatever a killed writer or sweep has left; one at a time does so.

    Raises
    ------
    DataDirectoryError
    """
    with translated(f"can't delete from {place}"), suppress(FileNotFoundError):
        for number in numbers:
            delete_directory(place / str(number))
        for left in place.iterdir():
            if is_leftover(left.name):
                clear(left)


def delete_directory(path: Path) -> None:
    """Take a directory away: its name at once, then what it held. Whoever is stopped in between leaves what `is_leftover` knows."""
    gone = path.with_name(f"{DRAFT}gone-{path.name}")
    if gone.exists():
        clear(gone)
    os.rename(path, gone)
    sync(path.parent)
    clear(gone)


def clear(path: Path) -> None:
    """Delete a directory that nobody knows by name any more, and all that it holds."""
    for entry in list(os.scandir(path)):
        if entry.is_dir(follow_symlinks=False):
            clear(Path(entry.path))
        else:
            os.unlink(entry.path)
    os.rmdir(path)


def is_leftover(name: str) -> bool:
    """Whether a name is one of a draft, or of what was on its way out."""
    return name.startswith(DRAFT)


def read(path: Path, size: int | None = None, sha256: str | None = None) -> bytes:
    """All of a regular file, checked.

    Raises
    ------
    DamagedModelError
        It is gone, is no regular file, or has another size or digest than those given.
    """
    with _opened(path) as (descriptor, found):
        if size is not None and found != size:
            raise DamagedModelError(f"{path} has {found:,} bytes, and should have {size:,}: it is not what was written")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            data = file.read()
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise DamagedModelError(f"{path} is not what was written: its sha256 is another")
    return data


def measure(path: Path) -> tuple[int, str]:
    """Size and sha256 of a regular file, without holding it in memory.

    Raises
    ------
    DamagedModelError
        It is gone, can't be read, or is no regular file.
    """
    with _opened(path) as (descriptor, size), os.fdopen(os.dup(descriptor), "rb") as file:
        return size, hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, int]]:
    """Descriptor and size of a file."""
    descriptor = -1
    try:
        # A pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DamagedModelError(f"{path} is no regular file; what a model consists of lies in its own directory")
        yield descriptor, status.st_size
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise DamagedModelError(f"{path} is gone") from error
        if error.errno == errno.ELOOP:
            raise DamagedModelError(f"{path} is a link; what a model consists of lies in its own directory") from error
        if error.errno in _DAMAGED:
            raise DamagedModelError(f"{path} can't be read: {error.strerror}") from error
        if error.errno == errno.ENOSPC:
            raise StorageFullError(f"{path}: the disk is full") from error
        raise DamagedModelError(f"{path} can't be read: {error.strerror or error}") from error
    finally:
        if descriptor >= 0:
            os.close(descriptor)
