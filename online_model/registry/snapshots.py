"""Snapshots of a base's rows at one of its deltas: where consumers begin that can't read all deltas, and where they heal.

A snapshot lies in its base's directory and names that base's digest; it appears whole, by one rename, and is never taken for another delta's.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from flows.directories import make_directory, translated
from flows.sealed import sealed
from online_model.registry import durable, tensors
from online_model.registry.bases import SNAPSHOTS, Base
from online_model.registry.current import Start
from online_model.registry.errors import DamagedModelError, DraftError, NewerFormatError, NoModelError
from online_model.registry.manifest import MANIFEST, TABLES, FileEntry, checked
from online_model.registry.tensors import State

FORMAT = 1
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class Point:
    """A delta, and where it lies.

    Attributes
    ----------
    base, delta : int
    digest : str
        Of the delta, and by what it follows of all before it.
    position : int
        The offset of EMBEDDINGS behind it.
    positions : tuple of int
        Next offset of each partition of EXAMPLES: what lies before is learned.
    newest_event_time : int
        Of what is learned, ms; -1: nothing.
    """

    base: int
    delta: int
    digest: str
    position: int
    positions: tuple[int, ...]
    newest_event_time: int


@dataclass(frozen=True)
class Snapshot:
    """A snapshot whose manifest is sound.

    Attributes
    ----------
    path : Path
    base_digest : str
    point : Point
    files : mapping of str to FileEntry
    """

    path: Path
    base_digest: str
    point: Point
    files: Mapping[str, FileEntry]

    def table(self, table: str) -> dict[str, np.ndarray]:
        """The state of an embedding table ("user" or "pin"), checked.

        Raises
        ------
        DamagedModelError
        """
        name = TABLES[table]
        entry = self.files[name]
        return tensors.from_bytes(durable.read(self.path / name, entry.bytes, entry.sha256), str(self.path / name))

    def verify(self) -> None:
        """Read all of it.

        Raises
        ------
        DamagedModelError
        """
        for name, entry in self.files.items():
            if FileEntry(*durable.measure(self.path / name)) != entry:
                raise DamagedModelError(
                    f"snapshot {self.path}: {name} is not what was written; delete the directory, older ones stay usable"
                )

    def start(self, settled: int) -> Start:
        """Where consumers begin with it."""
        at = self.point
        return Start(at.base, self.base_digest, at.delta, at.digest, at.position, settled)


def numbers(base: Base) -> list[int]:
    """Deltas of which a base has snapshots, sound or not, the newest first."""
    try:
        found = [int(entry.name) for entry in os.scandir(base.path / SNAPSHOTS) if _NUMBER.fullmatch(entry.name)]
    except FileNotFoundError:
        return []
    return sorted(found, reverse=True)


def write_snapshot(base: Base, point: Point, tables: Mapping[str, State]) -> Snapshot:
    """Keep the rows as they are at a delta; one process at a time does so for a base: its learner.

    Parameters
    ----------
    tables : mapping of str to State
        "user" and "pin".

    Raises
    ------
    DraftError
        What is to be kept is no table, or the point is none of this base.
    """
    if point.base != base.number or point.delta < 1:
        raise DraftError(f"a snapshot of base {base.number} can't be of delta {point.delta} of base {point.base}")
    directory = (base.path / SNAPSHOTS).absolute()
    path = directory / str(point.delta)
    draft = directory / f"{durable.DRAFT}{point.delta}"
    files: dict[str, FileEntry] = {}
    with translated(f"can't write snapshot {path}"):
        make_directory(directory)
        # Of a learner that was killed; the names of others are taken away by the next sweep.
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            for table, name in TABLES.items():
                try:
                    tensors.check_table(tables[table], f"snapshot {path}: {name}")
                except DamagedModelError as error:
                    raise DraftError(f"{error}; no snapshot was made") from error
                durable.write(draft / name, tensors.to_bytes(tables[table]))
                files[name] = FileEntry(*durable.measure(draft / name))
            content = {
                "format": FORMAT,
                "base_digest": base.digest,
                "point": asdict(point),
                "files": {n: asdict(e) for n, e in files.items()},
            }
            durable.write(draft / MANIFEST, sealed(content))
            # One of this number that is there is of a chain that was given up, or of this very delta.
            if os.path.lexists(path):
                durable.delete_directory(path)
            durable.put_in_place(draft, path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return read_snapshot(base, point.delta)


def read_snapshot(base: Base, delta: int) -> Snapshot:
    """A snapshot; its files are checked when they are read.

    Raises
    ------
    NoModelError
        There is none of this delta.
    DamagedModelError, NewerFormatError
    """
    path = base.path / SNAPSHOTS / str(delta)
    if not os.path.lexists(path):
        raise NoModelError(f"base {base.number} has no snapshot of delta {delta} in {path.parent}")
    if path.is_symlink():
        raise DamagedModelError(f"snapshot {path} is a link; what a model consists of lies in its own directory")
    content = checked(durable.read(path / MANIFEST), str(path / MANIFEST), FORMAT)
    try:
        point = Point(**{**content["point"], "positions": tuple(content["point"]["positions"])})
        files = {name: FileEntry(**entry) for name, entry in content["files"].items()}
        snapshot = Snapshot(path, content["base_digest"], point, files)
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedModelError(f"{path / MANIFEST} lacks something, or says what it never says ({error})") from error
    if (point.base, point.delta, snapshot.base_digest) != (base.number, delta, base.digest) or set(files) != set(TABLES.values()):
        raise DamagedModelError(
            f"snapshot {path} is one of delta {point.delta} of base {point.base} ({snapshot.base_digest}); it lies in the wrong place"
        )
    return snapshot


def sound(base: Base) -> Iterator[Snapshot]:
    """Snapshots that can be read, whole, the newest first."""
    for delta in numbers(base):
        try:
            snapshot = read_snapshot(base, delta)
            snapshot.verify()
        except (DamagedModelError, NewerFormatError, NoModelError):
            continue
        yield snapshot
