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

from flows.errors import LockedError, StorageFullError
from flows.state.task_lock import GRACE_S, is_held, lock_file

# Workers of a run that was killed go within moments. A run that lives is reported after the grace that whoever only looks needs.
GRACE_SECONDS = 10.0

_LOCK = "LOCK"
_SHARES = "shares"
# Kept open while the process lives.
_shared: dict[Path, int] = {}


@contextmanager
def run_lock(state: Path, held: str | None = None) -> Iterator[int]:
    """Hold the lock of a state directory; gives the file descriptor that workers must inherit.

    Parameters
    ----------
    state : Path
    held : str, optional
        What is locked, for people.

    Raises
    ------
    LockedError
        Another run holds it.
    """
    descriptor = lock_file(state / _LOCK)
    try:
        _take(descriptor, fcntl.LOCK_EX, held or f"the data directory {state.parent}")
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
    return is_held(state / _LOCK, fcntl.LOCK_EX)


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
        _shared[state] = lock_file(state / _LOCK)
    descriptor = _shared[state]
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _take(descriptor, fcntl.LOCK_SH, f"the data directory {state.parent}")
            yield False
        else:
            _sign(descriptor, _SHARES)
            yield True
            _take(descriptor, fcntl.LOCK_SH, f"the data directory {state.parent}")
    except BaseException:
        os.close(_shared.pop(state))
        raise


def _take(descriptor: int, kind: int, held: str) -> None:
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder, shares = _signed(descriptor)
            waited = time.monotonic() - began
            # One that shares is alone for a moment only, and then lets others in that share; and who only looks (`run_is_on`) doesn't sign: then
            # the one that lives may have had the lock last, and has it no more.
            if _lives(holder) and waited > GRACE_S and not (shares and kind == fcntl.LOCK_SH):
                raise LockedError(f"{held} is in use by another run (process {holder}); stop it first, or use another --data") from None
            if waited > GRACE_SECONDS:
                raise LockedError(
                    f"{held} is still held by other processes of a run whose first (process {holder or 'unknown'}) has "
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
