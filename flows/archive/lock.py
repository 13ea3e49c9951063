"""One archiver at a time: a lock of the kernel's on a directory, which goes when its holders have gone, however they went."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from flows.directories import make_directory
from flows.errors import DataDirectoryError, LockedError

# Workers of a run that was killed go within moments.
GRACE_S, _AGAIN_S = 5.0, 0.05


def locked(directory: Path) -> int:
    """Make a directory and lock it; the descriptor that holds the lock until all its copies are closed.

    Raises
    ------
    LockedError
        Another holds it.
    DataDirectoryError
        It can't be made or opened.
    """
    try:
        make_directory(directory.absolute())
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise DataDirectoryError(f"archive {directory}: can't write to it: {error.strerror}") from error
    deadline = time.monotonic() + GRACE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise LockedError(
                    f"archive {directory} is being written by another `tidemark archive run`; stop it first, or let it do the work"
                ) from None
            time.sleep(_AGAIN_S)
        except OSError as error:
            os.close(descriptor)
            raise DataDirectoryError(f"archive {directory}: can't be locked: {error.strerror}") from error
