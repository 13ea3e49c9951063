"""Freed memory stays with the process, and Python looks for cycles seldom.

A micro-batch takes and gives back some hundred MB of columns. glibc would return them to the system each time, and the next batch would pay a page
fault per 4 KiB, with all threads waiting while the address space changes: a third of the whole time on two cores.
"""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

import pyarrow as pa

# Of malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8


def keep_freed_memory() -> None:
    """Tell the C library's allocator, where it is glibc's; elsewhere nothing happens. And let Python look for cycles less often."""
    # A read from Kafka makes a hundred thousand objects and none of them a cycle; every seven hundred of them it would look.
    gc.set_threshold(100_000, 10, 10)
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, 1 << 30), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 << 20)):
            mallopt(option, value)
        # Arrow's own allocators give memory back after a moment.
        pa.set_memory_pool(pa.system_memory_pool())
