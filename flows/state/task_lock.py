"""A task's own lock: whoever writes its state holds it, and whoever replaces its directory.

It lies beside the directory, so that it outlives renames: no writer makes an empty database where somebody is about to put one. It is the kernel's,
on an open file that nobody inherits, and goes with its process, however that goes. A second one beside it is how a task is asked for: see
`flows.state.handover`.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flows.directories import make_directory, translated
from flows.errors import LockedError

LOCK, WANTED = ".lock", ".wanted"
# Whoever only looks at a lock holds it for a moment; and one that is killed keeps it until the kernel has cleaned up.
GRACE_S = 0.5
_AGAIN_S = 0.02


# Tasks that this process has taken from whoever ran them: it may open them itself.
_taken_here: set[Path] = set()


class TaskLock:
    """Held from when it is made until `release`, at the latest until the process ends.

    Parameters
    ----------
    path : Path
        Directory of the task's state; it need not be there.
    patience_s : float
        How long to wait for it.

    Raises
    ------
    LockedError
        Another has it for longer than that.
    DataDirectoryError
        There is no place for it.
    """

    def __init__(self, path: Path, patience_s: float = GRACE_S) -> None:
        file = beside(path, LOCK)
        self._descriptor = locked(file, patience_s) if path.absolute() not in _taken_here else None
        if self._descriptor is None and path.absolute() not in _taken_here:
            if is_wanted(path):
                raise LockedError(
                    f"state {path} is being replaced by another command ({holder(beside(path, WANTED))}); wait until it is done"
                )
            raise LockedError(f"state {path} is in use by another process; stop that run first ({holder(file)}), or use another --data")

    def release(self) -> None:
        """Let others have it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@contextmanager
def opened_here(path: Path) -> Iterator[None]:
    """For a while this process, which has taken a task from whoever ran it, may open it itself."""
    _taken_here.add(path.absolute())
    try:
        yield
    finally:
        _taken_here.discard(path.absolute())


def beside(path: Path, suffix: str) -> Path:
    """A file beside a task's directory."""
    return path.with_name(path.name + suffix)


def locked(file: Path, patience_s: float) -> int | None:
    """Make a file and lock it; the descriptor that holds the lock, or None if another has it for longer than so many seconds."""
    deadline = time.monotonic() + patience_s
    while True:
        descriptor = lock_file(file)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(file, descriptor):
                # Only for messages: no room for it is no reason to stop.
                with suppress(OSError):
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        time.sleep(_AGAIN_S)


@contextmanager
def holding(file: Path, refused: Callable[[str], str]) -> Iterator[None]:
    """Hold a file's lock; the file goes with it.

    Parameters
    ----------
    refused : callable
        Given who has it, what to say.

    Raises
    ------
    LockedError
        Another has it.
    """
    descriptor = locked(file, GRACE_S)
    if descriptor is None:
        raise LockedError(refused(holder(file)))
    try:
        yield
    finally:
        # While it is locked, so that nobody else's goes.
        with suppress(OSError):
            file.unlink()
        os.close(descriptor)


def lock_file(file: Path) -> int:
    """Make a lock's file, if it isn't there, and open it; the descriptor.

    Raises
    ------
    DataDirectoryError, StorageFullError
        There is no place for it.
    """
    with translated(f"can't write to {file.parent}: can't make {file.name}"):
        make_directory(file.parent.absolute())
        return os.open(file, os.O_RDWR | os.O_CREAT, 0o644)


def is_held(file: Path, kind: int = fcntl.LOCK_SH) -> bool:
    """Whether somebody has locked a file so that nobody else gets a lock of a kind. That it is there says nothing: who is killed leaves it behind."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def is_wanted(path: Path) -> bool:
    """Whether somebody asks for a task, or has it, to replace its directory. Where nobody does, this is a look for a file."""
    return is_held(beside(path, WANTED))


def last_held(path: Path) -> int:
    """When somebody has last got a task's lock, ns, to compare with; 0: never."""
    try:
        return beside(path, LOCK).stat().st_mtime_ns
    except OSError:
        return 0


def holder(file: Path) -> str:
    """Who has signed a lock's file last, for messages."""
    with suppress(OSError):
        signed = file.read_text("ascii", "replace").strip()
        if signed:
            return f"process {signed}"
    return "an unknown process"


def _is_still(file: Path, descriptor: int) -> bool:
    """Whether a file that was opened is still the one of that name: who lets go of a task takes the file away."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(file), os.fstat(descriptor))
    return False
