"""The working set that a task saves now and then (the anchor): a file beside those of its database, which a commit names by its seal.

In the database it would be written to its log, held in memory, written to a table and merged, and everyone who follows that log would hold it too.
Here it is written once, durably, before the commit that names it. The file that the commit before named stays until the next one is saved: readers
that stand there still read it.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from flows.directories import sync
from flows.state.meta import Meta

ANCHOR = b"anchor"
"""The key in the database. Its value is the seal of the file; in a copy of a state, and in states that are older, the seal and then the bytes."""
SEAL_BYTES = 16
_PREFIX = "anchor-"
_DRAFT = f"{_PREFIX}draft"
Parts = Sequence[bytes | memoryview]


def seal(meta: Meta, parts: Iterable[bytes | memoryview]) -> bytes:
    """What tells a saved working set from one that was changed, or is of another position."""
    total = hashlib.blake2b(b"%d,%d,%d," % (meta.generation, meta.partition, meta.anchor), digest_size=SEAL_BYTES)
    if meta.anchor_inputs:
        total.update(repr(sorted(meta.anchor_inputs.items())).encode())
    # Some hundred MB are not put together only for this.
    for part in parts:
        total.update(part)
    return total.digest()


def save(path: Path, mark: bytes, parts: Parts) -> None:
    """Write a task's file, whole or not at all, durably.

    Parameters
    ----------
    path : Path
        Directory of the database.
    mark : bytes
        Its seal.

    Raises
    ------
    OSError
    """
    draft = path / _DRAFT
    try:
        with open(draft, "wb", buffering=0) as file:
            for part in parts:
                left = memoryview(part).cast("B")
                # The system takes some 2 GiB at once.
                while left:
                    left = left[file.write(left) :]
            os.fsync(file.fileno())
        draft.replace(_file(path, mark))
    except BaseException:
        delete_draft(path)
        raise
    sync(path)


def delete_draft(path: Path) -> None:
    """Delete what was not written to its end: where the disk is full, the database itself may need the room to be opened."""
    (path / _DRAFT).unlink(missing_ok=True)


class Saved:
    """The file of a seal, open for as long as somebody has this: what is open can be read, whatever becomes of its name.

    Raises
    ------
    FileNotFoundError
    """

    def __init__(self, path: Path, mark: bytes) -> None:
        self.mark = mark
        self._descriptor = os.open(_file(path, mark), os.O_RDONLY)
        self._close = weakref.finalize(self, os.close, self._descriptor)

    @classmethod
    def opened(cls, path: Path, mark: bytes | None) -> Saved | None:
        """None if it isn't there."""
        with suppress(FileNotFoundError):
            return cls(path, mark) if mark is not None and len(mark) == SEAL_BYTES else None
        return None

    def read(self) -> bytes:
        """All of it."""
        size, parts, at = os.fstat(self._descriptor).st_size, list[bytes](), 0
        # By place: many threads may read it at once.
        while at < size and (part := os.pread(self._descriptor, size - at, at)):
            parts.append(part)
            at += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def checked(meta: Meta, value: bytes | None, file: Saved | None) -> memoryview | None:
    """A saved working set; None if it is not what was written.

    Parameters
    ----------
    meta : Meta
        Of the commit that names it.
    value : bytes or None
        What the database has under ANCHOR.
    file : Saved or None
        Of that seal.
    """
    if value is None:
        return None
    data = memoryview(file.read() if file is not None else value[SEAL_BYTES:])
    return data if seal(meta, [data]) == value[:SEAL_BYTES] else None


def delete_except(path: Path, marks: Iterable[bytes]) -> None:
    """Delete all such files of a task but some."""
    kept = {_file(path, mark) for mark in marks}
    for file in path.glob(f"{_PREFIX}*"):
        if file not in kept:
            file.unlink(missing_ok=True)


def _file(path: Path, mark: bytes) -> Path:
    return path / f"{_PREFIX}{mark.hex()}"
