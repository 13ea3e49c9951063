"""A disk as a journal of what was done to it, and what it may hold after the power has failed.

Durable is the content of a file as of its last sync, and the names in a directory as of the directory's last sync; the sync of a file says nothing
of its name. Of what came later a crash keeps anything: any of a file's writes, whole, torn at sectors or not at all; of a directory's changes any
prefix, for file systems write these in order. A rename is one change.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

SECTOR = 512
_HEADER = struct.Struct("<IIIIQQQ")
SHIM = Path(__file__).with_name("shim.c")


class Least(Random):
    """Of what isn't durable a crash keeps nothing."""

    def choice(self, seq: Any) -> Any:
        return seq[0]

    def randint(self, a: int, b: int) -> int:
        return a

    def random(self) -> float:
        return 1.0


class UnknownWriteError(AssertionError):
    """A file was changed in a way that the journal can't follow."""


def build_shim(directory: Path) -> Path:
    """Compile what writes the journal; gives the library to preload."""
    library = directory / "shim.so"
    subprocess.run(["cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, SHIM, "-ldl"], check=True)
    return library


def shim_environment(library: Path, root: Path, journal: Path, sync_us: int = 0, kill_at: int = 0) -> dict[str, str]:
    """Variables under which a process and its children write the journal of all that lies below `root`."""
    names = {"ROOT": root.resolve(), "JOURNAL": journal, "SYNC_US": sync_us, "KILL_AT": kill_at}
    return {"LD_PRELOAD": str(library), **{f"POWER_{name}": str(value) for name, value in names.items()}}


@dataclass(frozen=True)
class Entry:
    """One entry of a journal. Kinds: C create, W write, T truncate, S sync a file, D sync a directory, R rename, U unlink, L link, M make a
    directory, X remove one, K a mark (`data`) of whoever wrote it; ? anything else (`other` says what)."""

    kind: str
    inode: int
    at: int
    size: int
    path: str
    other: str
    data: bytes


def mark(journal: Path, text: str) -> None:
    """Note what has been promised to somebody by now."""
    data = text.encode()
    descriptor = os.open(journal, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, _HEADER.pack(0, 0, len(data), ord("K"), 0, 0, 0) + data)
    finally:
        os.close(descriptor)


def entries(journal: Path) -> Iterator[Entry]:
    """Read a journal."""
    content = memoryview(journal.read_bytes())
    at = 0
    while at < len(content):
        path, other, data, kind, inode, offset, size = _HEADER.unpack_from(content, at)
        at += _HEADER.size
        parts = []
        for length in (path, other, data):
            parts.append(bytes(content[at : at + length]))
            at += length
        yield Entry(chr(kind), inode, offset, size, parts[0].decode(), parts[1].decode(), parts[2])


@dataclass
class File:
    """Content as of the last sync, and the writes (offset, data) and truncations (size, None) since."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    linked: bool = False

    def sync(self) -> None:
        for change in self.pending:
            _apply(self.durable, *change)
        self.pending.clear()

    def after(self, rng: Random | None) -> bytearray:
        """What a crash leaves; without a crash, all."""
        content = bytearray(self.durable)
        # As one that wrote in order, up to somewhere; or each write for itself.
        kept = rng.choice([0, len(self.pending), rng.randint(0, len(self.pending)), -1]) if rng is not None else len(self.pending)
        for i, (at, data) in enumerate(self.pending):
            if kept == -1 and rng is not None:
                fate = rng.choice("ktd")
            else:
                fate = "k" if i < kept else "t" if i == kept and rng is not None and rng.random() < 0.5 else "d"
            if fate == "k":
                _apply(content, at, data)
            elif fate == "t" and data is not None and rng is not None:
                for start, piece in _sectors(at, data):
                    if rng.random() < 0.5:
                        _apply(content, start, piece)
        return content


def _apply(content: bytearray, at: int, data: bytes | None) -> None:
    end = at + len(data or b"")
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    if data is None:
        del content[at:]
    else:
        content[at:end] = data


def _sectors(at: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    start = at
    while start < at + len(data):
        stop = (start // SECTOR + 1) * SECTOR
        yield start, data[start - at : stop - at]
        start = stop


@dataclass
class Directory:
    """Names as of the last sync, and the changes since, each of them at once."""

    durable: dict[str, File | Directory] = field(default_factory=dict)
    now: dict[str, File | Directory] = field(default_factory=dict)
    pending: list[dict[str, File | Directory | None]] = field(default_factory=list)

    def change(self, names: dict[str, File | Directory | None]) -> None:
        self.pending.append(names)
        _rename(self.now, names)

    def sync(self) -> None:
        self.durable = dict(self.now)
        self.pending.clear()

    def after(self, rng: Random | None) -> dict[str, File | Directory]:
        if rng is None:
            return self.now
        names = dict(self.durable)
        for change in self.pending[: rng.choice([0, len(self.pending), rng.randint(0, len(self.pending))])]:
            _rename(names, change)
        return names


def _rename(names: dict[str, File | Directory], change: dict[str, File | Directory | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


class Disk:
    """What lies below a directory, moved on by a journal's entries.

    Parameters
    ----------
    root : Path
        As it was when the journal began: all that it holds by then is durable.
    empty : bool
        It held nothing then, whatever it holds now.
    """

    def __init__(self, root: Path, empty: bool = False) -> None:
        self._root = root.resolve()
        self._files: dict[int, File] = {}
        self.top = Directory() if empty else self._scanned(self._root)

    def _scanned(self, directory: Path) -> Directory:
        made = Directory()
        for path in directory.iterdir():
            if path.is_dir():
                made.durable[path.name] = self._scanned(path)
            else:
                made.durable[path.name] = self._files[path.stat().st_ino] = File(bytearray(path.read_bytes()), linked=True)
        made.now = dict(made.durable)
        return made

    def _place(self, path: str) -> tuple[Directory, str]:
        """A path's directory, as things are, and the name in it."""
        parts = Path(path).relative_to(self._root).parts
        at = self.top
        for part in parts[:-1]:
            node = at.now[part]
            assert isinstance(node, Directory)
            at = node
        return at, parts[-1] if parts else ""

    def apply(self, entry: Entry) -> None:
        """Move on by one entry."""
        if entry.kind in "WTS":
            # Another process may have opened a file before the one that made it had noted so.
            file = self._files.setdefault(entry.inode, File())
            if entry.kind == "S":
                file.sync()
            else:
                file.pending.append((entry.at, entry.data) if entry.kind == "W" else (entry.size, None))
        elif entry.kind == "C":
            directory, name = self._place(entry.path)
            known = self._files.get(entry.inode)
            if known is None or (known.linked and directory.now.get(name) is not known):
                known = self._files[entry.inode] = File()
            if not known.linked:
                known.linked = True
                directory.change({name: known})
        elif entry.kind == "D":
            directory, name = self._place(entry.path)
            synced = directory.now[name] if name else directory
            assert isinstance(synced, Directory)
            synced.sync()
        elif entry.kind in "MXU":
            directory, name = self._place(entry.path)
            directory.change({name: Directory() if entry.kind == "M" else None})
        elif entry.kind in "RL":
            directory, name = self._place(entry.path)
            target, other = self._place(entry.other)
            if target is not directory:
                raise UnknownWriteError(f"{entry.path} goes to another directory: {entry.other}")
            directory.change({other: directory.now[name]} | ({name: None} if entry.kind == "R" else {}))
        elif entry.kind != "K" and not entry.path.endswith("-shm"):
            # SQLite shares memory by way of *-shm, which a start after a crash makes anew.
            raise UnknownWriteError(f"{entry.path} was changed by {entry.other}")

    def write(self, to: Path, rng: Random | None, below: str = "") -> None:
        """Make what a crash at this point leaves; without `rng`, what is there if none comes.

        Parameters
        ----------
        below : str
            Of the directory of this name alone.
        """
        names = self.top.after(rng)
        node = names.get(below, Directory()) if below else self.top
        assert isinstance(node, Directory)
        _write(node, to, rng)


def _write(directory: Directory, to: Path, rng: Random | None) -> None:
    to.mkdir(parents=True, exist_ok=True)
    for name, node in directory.after(rng).items():
        if isinstance(node, Directory):
            _write(node, to / name, rng)
        else:
            (to / name).write_bytes(node.after(rng))
