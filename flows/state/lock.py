"""One run at a time per data directory.

The lock is the kernel's, on an open file that workers inherit: it goes when the last process of a run has gone, however it went. Processes that
`python -m bytewax.run` starts know nothing of each other and may be of one cluster, so they share it; a task's own lock keeps two off one task.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from flows.directories import make_directory
from flows.errors import DataDirectoryError, LockedError, StorageFullError

# Workers of a run that was killed go within moments; a run that lives is reported at once.
GRACE_SECONDS = 10.0

_SHARES = "shares"
# Kept open while the process lives.
_shared: dict[Path, int] = {}


@contextmanager
def run_lock(state: Path) -> Iterator[int]:
    """Hold the lock of a state directory; gives the file descriptor that workers must inherit.

    Raises
    ------
    LockedError
        Another run holds it.
    """
    descriptor = _open(state)
    try:
        _take(descriptor, fcntl.LOCK_EX, state)
        _sign(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def lock_beside_run(state: Path) -> Iterator[bool]:
    """Hold the lock of a state directory, so that no run begins, unless one is on; gives whether it is held."""
    with ExitStack() as stack:
        try:
            stack.enter_context(run_lock(state))
        except LockedError:
            held = False
        else:
            held = True
        yield held


def run_is_on(state: Path) -> bool:
    """Whether a run, or another command that keeps runs off, has the lock of a state directory."""
    descriptor = _open(state)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def shared_lock(state: Path) -> Iterator[bool]:
    """Hold the lock until this process ends, beside others that share it.

    Gives whether there are none: then the block is done before any other process gets the lock.

    Raises
    ------
    LockedError
        A run that doesn't share holds it.
    """
    state = state.absolute()
    if state not in _shared:
        _shared[state] = _open(state)
    descriptor = _shared[state]
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _take(descriptor, fcntl.LOCK_SH, state)
            yield False
        else:
            _sign(descriptor, _SHARES)
            yield True
            _take(descriptor, fcntl.LOCK_SH, state)
    except BaseException:
        os.close(_shared.pop(state))
        raise


def _open(state: Path) -> int:
    try:
        make_directory(state.absolute())
        return os.open(state / "LOCK", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise DataDirectoryError(f"can't write to {state}: {error.strerror}") from error


def _take(descriptor: int, kind: int, state: Path) -> None:
    deadline = time.monotonic() + GRACE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder, shares = _signed(descriptor)
            # One that shares is alone for a moment only, and then lets others in that share.
            if _lives(holder) and not (shares and kind == fcntl.LOCK_SH):
                raise LockedError(
                    f"the data directory {state.parent} is in use by another run (process {holder}); stop it first, or use another --data"
                ) from None
            if time.monotonic() > deadline:
                raise LockedError(
                    f"the data directory {state.parent} is still held by other processes of a run whose first (process {holder or 'unknown'}) has "
                    "gone; they commit what they have begun and end: try again in a moment"
                ) from None
            time.sleep(0.05)


def _sign(descriptor: int, how: str = "") -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {how}\n".encode(), 0)
    except OSError as error:
        raise StorageFullError(f"can't write to a lock file: the disk is full ({error.strerror}); free space and run again") from error


def _signed(descriptor: int) -> tuple[str, bool]:
    """Who has locked it, and whether others may share it."""
    holder, _, how = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip().partition(" ")
    return holder, how == _SHARES


def _lives(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
