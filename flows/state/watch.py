"""Which directories something was written in since one looked last, told by the kernel in one call: looking at the files of each takes far longer.

It may say that something has changed where nothing has, never the other way round: where the system doesn't tell, on file systems of which others may
write unseen (network, FUSE), and after an overflow, whatever is asked about may have changed. A directory moves without a word if one above it is
renamed, so each may have changed once a second anyway.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import struct
import time
from collections.abc import Hashable, Iterator
from pathlib import Path

# From the kernel's headers: modify, moved from and to, create, delete, delete self, move self.
_EVENTS = 0x2 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
# Unmount, overflow, ignored, and what says that the name has another directory now.
_UNMOUNT, _OVERFLOW, _GONE = 0x2000, 0x4000, 0x8000 | 0x2000 | 0x400 | 0x800
_HEAD = struct.Struct("iIII")
_READ = 1 << 16
# ext2 to 4, XFS, Btrfs, tmpfs, F2FS, ZFS: all writes go through this machine's kernel.
_LOCAL = {0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0xF2F52010, 0x2FC12FC1}
_LOOK_S = 1.0


class Watch:
    """Watches directories; to be closed.

    Examples
    --------
    >>> watch = Watch()  # doctest: +SKIP
    >>> watch.add("a task", path)
    >>> watch.changed()
    {'a task'}
    """

    def __init__(self) -> None:
        self._paths: dict[Hashable, Path] = {}
        self._keys: dict[int, Hashable] = {}
        self._looked = time.monotonic()
        self._turn: Iterator[Hashable] = iter(())
        self._libc = ctypes.CDLL(None, use_errno=True)
        try:
            self._file = int(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        except AttributeError:  # not Linux
            self._file = -1

    def add(self, key: Hashable, path: Path) -> None:
        """Watch a directory; to be called before it is read for the first time."""
        if key not in self._paths:
            self._paths[key] = path
            self._turn = itertools.cycle(list(self._paths))
        if self._file >= 0 and self._is_local(path):
            number = int(self._libc.inotify_add_watch(self._file, os.fsencode(path), _EVENTS))
            if number >= 0:
                self._keys[number] = key

    def changed(self) -> set[Hashable]:
        """Those that may have changed since the last call."""
        # Those that are not watched, at every call.
        found = set(self._paths).difference(self._keys.values()) if len(self._keys) < len(self._paths) else set()
        # The others in turn, so that no call has to look at many.
        now = time.monotonic()
        each = _LOOK_S / max(len(self._paths), 1)
        due = int((now - self._looked) / each)
        if due:
            found.update(itertools.islice(self._turn, min(due, len(self._paths))))
            self._looked = max(self._looked + due * each, now - _LOOK_S)
        if self._file >= 0:
            found |= self._events()
        return found

    def close(self) -> None:
        """Watch nothing."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
        self._keys = {}

    def _events(self) -> set[Hashable]:
        found: set[Hashable] = set()
        while True:
            try:
                data = os.read(self._file, _READ)
            except BlockingIOError:
                return found
            at = 0
            while at < len(data):
                number, mask, _, length = _HEAD.unpack_from(data, at)
                at += _HEAD.size + length
                if mask & _OVERFLOW:
                    found |= set(self._paths)
                elif (key := self._keys.get(number)) is not None:
                    found.add(key)
                    if mask & _GONE:
                        del self._keys[number]
                        if not mask & (_UNMOUNT | 0x8000 | 0x400):
                            self._libc.inotify_rm_watch(self._file, number)
                        # Before the caller reads what lies there now.
                        self.add(key, self._paths[key])

    def _is_local(self, path: Path) -> bool:
        told = ctypes.create_string_buffer(512)
        if self._libc.statfs(os.fsencode(path), told) != 0:
            return False
        # Its first field on all 64-bit Linux.
        return struct.unpack_from("l", told)[0] & 0xFFFFFFFF in _LOCAL
