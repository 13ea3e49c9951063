"""Tables of user embeddings as whoever serves or trains reads them: which version is served, its newest table, and a user's row in it.

`online_model.embedding` writes them; nothing here does. A table is handed out after all of it was checked, is mapped and not read, and never changes:
another run makes another one.

    embeddings/current.json              the version that is served, unless a ranker decides
    embeddings/<version>/users/<n>/      table n: manifest.json and users.arrow
    offline/user_embedding/<version>/    <n>.parquet: the rows that run n made, with the time that they are of
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from feature_repo.errors import DamagedEmbeddingError, NoEmbeddingError
from flows.sealed import unsealed

FORMAT = 1
EMBEDDINGS, USERS, CURRENT = "embeddings", "users", "current.json"
MANIFEST, ROWS = "manifest.json", "users.arrow"
_ADVICE = "`tidemark embed infer --full` makes it anew"
_OPEN = 4  # tables; a process has one or two versions at work, and what is held keeps its room on the disk


@dataclass(frozen=True)
class TableManifest:
    """What a table is.

    Attributes
    ----------
    version : int
    version_digest : str
        Of the version's manifest: vectors of another are of another space.
    number : int
        From 1 on, of the version's tables.
    parent : int or None
        The table that it was merged over.
    actions, corrected_to : tuple of int
        The prefix that every row reflects: next offset of each partition of ACTIONS, and the newest correction of each.
    as_of : int
        The time that it is of, ms: no later action counts.
    dim, users, inferred, gone : int
        Width of a vector; rows; those that this run has made; those of the parent that are no more.
    popular : tuple of int
        The pins with the most actions, the first first.
    files : mapping
        Bytes and sha256 of each.
    digest : str
        Of all of the above.
    """

    version: int
    version_digest: str
    number: int
    parent: int | None
    actions: tuple[int, ...]
    corrected_to: tuple[int, ...]
    as_of: int
    dim: int
    users: int
    inferred: int
    gone: int
    popular: tuple[int, ...]
    files: Mapping[str, Mapping[str, Any]]
    format: int = FORMAT
    digest: str = ""

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> TableManifest:
        """Read it back.

        Raises
        ------
        DamagedEmbeddingError
            It is not what was written, or a later version of Tidemark wrote it.
        """
        try:
            content = unsealed(data)
            if content["format"] != FORMAT:
                raise ValueError(f"it has format {content['format']}, and this Tidemark reads {FORMAT}")
            lists = {name: tuple(content[name]) for name in ("actions", "corrected_to", "popular")}
            return cls(**content | lists)
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedEmbeddingError(f"{where} is not what was written ({error}); {_ADVICE}") from error


@dataclass(frozen=True, eq=False)
class EmbeddingTable:
    """Vectors of n users.

    Attributes
    ----------
    path : Path
    manifest : TableManifest
    user_ids : int64[n]
        Ascending.
    vectors : float32[n, D]
        Of length 1.
    inputs : uint8[n, 16]
        A digest of what each vector was made of.
    event_time : int64[n]
        The newest action that each reflects, ms.
    """

    path: Path
    manifest: TableManifest
    user_ids: np.ndarray
    vectors: np.ndarray
    inputs: np.ndarray
    event_time: np.ndarray

    def __len__(self) -> int:
        return len(self.user_ids)

    def rows_of(self, user_ids: np.ndarray) -> np.ndarray:
        """Where the row of each user is, -1 where there is none: int64[n]."""
        return places_of(self.user_ids, user_ids)

    def gather(self, user_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of users, zeros for those without a row, and who has one: float32[n, D], bool[n]."""
        rows = self.rows_of(user_ids)
        out = np.zeros((len(rows), self.manifest.dim), np.float32)
        out[rows >= 0] = self.vectors[rows[rows >= 0]]
        return out, rows >= 0


def places_of(sorted_ids: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Where each ID is among those that ascend, -1 where it is not: int64[n]."""
    if not len(sorted_ids):
        return np.full(len(ids), -1, np.int64)
    at = np.minimum(np.searchsorted(sorted_ids, ids), len(sorted_ids) - 1)
    return np.where(sorted_ids[at] == ids, at, -1)


def served_version(data: Path) -> int | None:
    """The embedding version that is served; None if there is none.

    A ranker that takes user embeddings takes those of one version, so the switch of `models/current.json` switches them with it. Only where the
    ranker that is served takes none does `embeddings/current.json` say it.

    Raises
    ------
    DamagedEmbeddingError
    """
    taken = version_of_ranker(data)
    if taken is not None:
        return taken
    own = _document(data / EMBEDDINGS / CURRENT)
    return None if own is None else int(own["version"])


def version_of_ranker(data: Path) -> int | None:
    """The embedding version that the served ranker takes; None if it takes none, or none is served.

    Raises
    ------
    DamagedEmbeddingError
    """
    current = _document(data / "models" / CURRENT)
    manifest = None if current is None else _document(data / "models" / "bases" / str(current["start"]["base"]) / MANIFEST)
    said = None if manifest is None else manifest["about"]["config"].get("embedding")
    return int(said["version"]) if said else None


def table_numbers(data: Path, version: int) -> list[int]:
    """Numbers of a version's tables, in order."""
    place = data / EMBEDDINGS / str(version) / USERS
    try:
        return sorted(int(entry.name) for entry in os.scandir(place) if entry.name.isdecimal())
    except FileNotFoundError:
        return []


def open_table(data: Path, version: int, number: int | None = None) -> EmbeddingTable:
    """A table of a version, checked whole the first time that this process opens it; without a number, the newest.

    Raises
    ------
    NoEmbeddingError
        There is none.
    DamagedEmbeddingError
    """
    for _ in range(3):
        known = table_numbers(data, version)
        if not known or (number is not None and number not in known):
            which = "no table of user embeddings" if number is None else f"no table {number} of user embeddings"
            raise NoEmbeddingError(f"there is {which} of version {version} in {data / EMBEDDINGS}; `tidemark embed infer` makes one")
        path = data / EMBEDDINGS / str(version) / USERS / str(known[-1] if number is None else number)
        try:
            at = (path / MANIFEST).stat()
        except FileNotFoundError:
            # Taken away between the two: a newer one is there.
            continue
        return _opened(path, (at.st_dev, at.st_ino, at.st_mtime_ns))
    raise DamagedEmbeddingError(f"{path} has no {MANIFEST}; {_ADVICE}")


def read_table_manifest(data: Path, version: int, number: int) -> TableManifest:
    """What a table says of itself; its rows are not looked at.

    Raises
    ------
    DamagedEmbeddingError
    """
    return _manifest_of(data / EMBEDDINGS / str(version) / USERS / str(number))


def served_table(data: Path) -> EmbeddingTable:
    """The newest table of the version that is served.

    Raises
    ------
    NoEmbeddingError, DamagedEmbeddingError
    """
    version = served_version(data)
    if version is None:
        raise NoEmbeddingError(f"no user embeddings are served from {data}; `tidemark embed train` and `tidemark embed infer` make some")
    return open_table(data, version)


def _manifest_of(path: Path) -> TableManifest:
    try:
        return TableManifest.from_bytes((path / MANIFEST).read_bytes(), str(path / MANIFEST))
    except OSError as error:
        raise DamagedEmbeddingError(f"{path} can't be read ({error}); {_ADVICE}") from error


@lru_cache(maxsize=_OPEN)
def _opened(path: Path, identity: tuple[int, int, int]) -> EmbeddingTable:
    try:
        manifest = _manifest_of(path)
        said = manifest.files[ROWS]
        with open(path / ROWS, "rb") as file:
            if os.fstat(file.fileno()).st_size != said["bytes"]:
                raise DamagedEmbeddingError(f"{path / ROWS} has another size than was written; {_ADVICE}")
            if hashlib.file_digest(file, "sha256").hexdigest() != said["sha256"]:
                raise DamagedEmbeddingError(f"{path / ROWS} is not what was written: its sha256 is another; {_ADVICE}")
            # The file that was checked, whatever has its name by now.
            held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        rows = pa.ipc.open_file(pa.py_buffer(held)).get_batch(0)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DamagedEmbeddingError(f"{path} can't be read ({error}); {_ADVICE}") from error
    vectors = rows.column("vector").flatten().to_numpy().reshape(len(rows), manifest.dim)
    # The width by its type: of a table without users it can't be reckoned.
    width = rows.column("inputs").type.byte_width
    inputs = np.frombuffer(rows.column("inputs").buffers()[1], np.uint8).reshape(len(rows), width)
    return EmbeddingTable(path, manifest, rows.column("user_id").to_numpy(), vectors, inputs, rows.column("event_time").to_numpy())


def _document(path: Path) -> Any:
    """What a JSON file says; None if it is not there."""
    try:
        return unsealed(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, orjson.JSONDecodeError) as error:
        raise DamagedEmbeddingError(f"{path} is not what was written ({error})") from error
