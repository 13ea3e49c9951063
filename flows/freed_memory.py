"""What becomes of memory that was freed: it stays with a process for the next batch, and goes back to the system now and then.

A micro-batch takes and gives back some hundred MB of columns. glibc would return them to the system each time, and the next batch would pay a page
fault per 4 KiB, with all threads waiting while the address space changes: a third of the whole time on two cores.

And what lies free between pieces that live, glibc never returns by itself. A round of a check that needs 100 MB leaves another such hole with each
arena that a thread of its happens to use, and a process that goes on for days grows to several times what it holds.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
import time
from contextlib import suppress

# Of malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
# Long beside the milliseconds that it takes, and short beside the hours in which holes add up.
_EVERY_S = 30.0
# Pieces from this size on are mappings of their own, which go back when they are freed. In a process whose time is its columns those that take
# part in each batch stay (a stretch of JSON is 13 MB); what a working set outgrows, is saved as, or an array is never filled to, does not.
_KEPT_BELOW, _LARGE = 16 << 20, 4 << 20


def keep_freed_memory() -> None:
    """Have what one batch frees stay for the next, and the rest go back now and then; and have Python look for cycles less often.

    For a process whose time is its columns, and that may go on and on. Elsewhere than with glibc only the last happens.
    """
    # A read from Kafka makes a hundred thousand objects and none of them a cycle; every seven hundred of them it would look.
    gc.set_threshold(100_000, 10, 10)
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _KEPT_BELOW), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 << 20)):
            mallopt(option, value)
    return_freed_memory(large=_KEPT_BELOW)


def return_freed_memory(every_s: float = _EVERY_S, large: int = _LARGE) -> None:
    """From now on, give what is free back to the system so often: for a process that goes on and on. Elsewhere than with glibc nothing happens.

    And no thread that begins from now on gets an arena of its own, in whose holes nobody else's pieces fit: each request for metrics is a thread.

    Parameters
    ----------
    every_s : float
        Seconds.
    large : int
        Pieces of so many bytes go back as soon as they are freed.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        trim = libc.malloc_trim
        libc.mallopt(_ARENA_MAX, 1)
        # Left alone, glibc raises it to 32 MiB as such pieces are freed, and a working set that grows leaves a hole for each size that it had.
        libc.mallopt(_MMAP_THRESHOLD, large)
        _have_arrow_use_malloc()
        threading.Thread(target=_return_again_and_again, args=(trim, every_s), name="returning-memory", daemon=True).start()


def _have_arrow_use_malloc() -> None:
    """Its own allocators keep what they have freed, out of reach: an audit of 8 M records held 60 or 120 MiB more after each of its rounds."""
    if (arrow := sys.modules.get("pyarrow")) is not None:
        arrow.set_memory_pool(arrow.system_memory_pool())
    # Commands that only return memory start without it; and processes that they start do as they do.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")


def return_now() -> None:
    """Give what is free back to the system: at the end of a round, after which nothing is done for a while."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _return_again_and_again(trim: ctypes._NamedFuncPointer, every_s: float) -> None:
    while True:
        time.sleep(every_s)
        # Of all arenas, and of whole pages within them; Python's lock is let go meanwhile.
        trim(0)
