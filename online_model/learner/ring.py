"""Micro-batches handed from one process to another: arrays in slots of shared memory, copied once and read where they lie.

The memory has no name in any file system, so nothing of it outlives its processes, however they end, and no size of /dev/shm bounds it. A slot takes
memory only as far as it was written.
"""

from __future__ import annotations

import mmap
import os
import pickle
from typing import Any

# Arrays begin at cache lines.
_LINE = 64

Packed = tuple[int, tuple[int, ...], bytes]
"""A slot, the sizes of the arrays in it in their order, and the rest, pickled; without sizes the arrays are in the rest."""


class Ring:
    """Slots of equal size.

    Parameters
    ----------
    descriptor : int
        Of the memory; may be closed afterwards.
    slots, slot_bytes : int
    """

    def __init__(self, descriptor: int, slots: int, slot_bytes: int) -> None:
        self.slots, self.slot_bytes = slots, slot_bytes
        self._memory = memoryview(mmap.mmap(descriptor, slots * slot_bytes))

    def pack(self, what: Any, slot: int) -> Packed:
        """Put something into a slot that nobody reads any more; where it is too large, it goes with the message."""
        buffers: list[pickle.PickleBuffer] = []
        rest = pickle.dumps(what, 5, buffer_callback=buffers.append)
        arrays = [buffer.raw() for buffer in buffers]
        sizes = tuple(array.nbytes for array in arrays)
        if sum(map(_whole, sizes)) > self.slot_bytes:
            return slot, (), pickle.dumps(what, 5)
        at = slot * self.slot_bytes
        for array, size in zip(arrays, sizes, strict=True):
            self._memory[at : at + size] = array
            at += _whole(size)
        return slot, sizes, rest

    def unpack(self, packed: Packed) -> Any:
        """What was put there; its arrays are good until the slot is written again."""
        slot, sizes, rest = packed
        views, at = [], slot * self.slot_bytes
        for size in sizes:
            views.append(self._memory[at : at + size])
            at += _whole(size)
        return pickle.loads(rest, buffers=views)


def memory(size: int) -> int:
    """A descriptor of so much memory without a name.

    Raises
    ------
    OSError
    """
    descriptor = os.memfd_create("tidemark-batches", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, size)
    return descriptor


def _whole(size: int) -> int:
    return -(-size // _LINE) * _LINE
