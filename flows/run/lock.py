"""One run at a time per data directory.

The lock is the kernel's, on an open file that workers inherit: it goes when the last process of a run has gone, however it went.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.directories import make_directory
from flows.errors import DataDirectoryError, LockedError

# Workers of a run that was killed go within moments; a run that lives is reported at once.
GRACE_SECONDS = 10.0


@contextmanager
def run_lock(state: Path) -> Iterator[int]:
    """Hold the lock of a state directory; gives the file descriptor that workers must inherit.

    Raises
    ------
    LockedError
        Another run holds it.
    """
    try:
        make_directory(state.absolute())
        descriptor = os.open(state / "LOCK", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise DataDirectoryError(f"can't write to {state}: {error.strerror}") from error
    try:
        deadline = time.monotonic() + GRACE_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
                if _lives(holder):
                    raise LockedError(
                        f"the data directory {state.parent} is in use by another run (process {holder}); stop it first, or use another --data"
                    ) from None
                if time.monotonic() > deadline:
                    raise LockedError(
                        f"the data directory {state.parent} is still held by workers of a run that was killed (process {holder or 'unknown'}); "
                        "they commit what they have begun and end: try again in a moment"
                    ) from None
                time.sleep(0.05)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _lives(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
