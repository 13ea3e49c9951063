"""A checkpoint's manifest: which task at which position, and of which pieces its state consists.

``<flow>/<partition>/<position>-<made at>-<checksum>.json`` names it, with the checksum of its own bytes; the pieces lie beside it, in
``pieces/``, each named by the checksum of what it holds, so that checkpoints of one task share those that have not changed. Nothing is
listed anywhere else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import orjson

from flows.errors import CorruptionError, DataDirectoryError
from replay.place import Place

FORMAT = 1
_PIECE = re.compile(r"[0-9a-f]{32}\.arrow")
_NAME = re.compile(r"(\d{20})-(\d{15})-([0-9a-f]{32})\.json")


class UnfitError(DataDirectoryError):
    """A checkpoint is whole, and of no use here and now."""


def checksum(data: bytes) -> str:
    """What names are made of: BLAKE2b, 16 bytes, in hex."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


@dataclass(frozen=True)
class Piece:
    """A file with some of a task's keys and values.

    Attributes
    ----------
    name : str
        Made of the checksum of the keys and values.
    keys, bytes : int
        Bytes of keys and values, before compression.
    file : str
        Checksum of the file's bytes: what compression makes of the same values may change with its version.
    """

    name: str
    keys: int
    bytes: int
    file: str


@dataclass(frozen=True)
class Manifest:
    """A checkpoint of one task.

    Attributes
    ----------
    flow, partition : str, int
        The task.
    position : int
        Next offset of its input; state reflects what lies before.
    needs_from : int
        The first offset of its input that a start from here reads.
    generation : int
        The newest correction that the state reflects.
    watermark : int or None
        Greatest event time applied, ms.
    fingerprint : str
        Of the features and settings that the state was made under.
    state_format : int
        Of the state that the pieces hold.
    made_at : int
        Wall clock, ms.
    pieces : tuple of Piece
    """

    flow: str
    partition: int
    position: int
    needs_from: int
    generation: int
    watermark: int | None
    fingerprint: str
    state_format: int
    made_at: int
    pieces: tuple[Piece, ...]
    format: int = FORMAT

    def to_bytes(self) -> bytes:
        """The file's content."""
        return orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2)

    def file_name(self) -> str:
        """Of the file in the task's directory; newer positions sort behind older ones."""
        return f"{self.position:020d}-{self.made_at:015d}-{checksum(self.to_bytes())}.json"

    @property
    def bytes(self) -> int:
        """Of all keys and values, before compression."""
        return sum(piece.bytes for piece in self.pieces)


@dataclass(frozen=True)
class Named:
    """A manifest's file, by its name alone."""

    name: str
    position: int
    made_at: int


def directory(flow: str, partition: int) -> str:
    """Of a task's checkpoints."""
    return f"{flow}/{partition:04d}"


def listed(place: Place, flow: str, partition: int) -> list[Named]:
    """A task's checkpoints, the newest position first."""
    where = directory(flow, partition)
    found = []
    for name in place.files(where):
        if (parts := _NAME.fullmatch(name)) is not None:
            found.append(Named(f"{where}/{name}", int(parts[1]), int(parts[2])))
    return sorted(found, key=lambda named: (named.position, named.made_at), reverse=True)


def read(place: Place, named: Named) -> Manifest:
    """A manifest, whole and of this format.

    Raises
    ------
    CorruptionError
        It is not what was written.
    UnfitError
        It is of another format.
    """
    data = place.read(named.name)
    where = f"checkpoint {place.url}/{named.name}"
    if data is None:
        raise CorruptionError(f"{where} is gone")
    if not named.name.endswith(f"-{checksum(data)}.json"):
        raise CorruptionError(f"{where} is not what was written: its checksum is another")
    try:
        content = orjson.loads(data)
        form = content.get("format")
    except (orjson.JSONDecodeError, AttributeError) as error:
        raise CorruptionError(f"{where} holds no manifest ({error})") from error
    if form != FORMAT:
        raise UnfitError(
            f"{where} has format {form}; this Tidemark reads format {FORMAT}: "
            "the version that wrote it can restore it, here `tidemark replay checkpoint` makes a new one"
        )
    try:
        manifest = Manifest(**{**content, "pieces": tuple(Piece(**piece) for piece in content["pieces"])})
        # Whoever can write to the place can write a name that leads out of it, with a checksum that is right.
        if wrong := [piece.name for piece in manifest.pieces if not _PIECE.fullmatch(piece.name)]:
            raise CorruptionError(f"{where} names pieces that no checkpoint has: {', '.join(map(repr, wrong[:3]))}")
        if f"{directory(manifest.flow, manifest.partition)}/{manifest.file_name()}" != named.name:
            raise CorruptionError(
                f"{where} is one of {manifest.flow}/{manifest.partition} at position {manifest.position}; it lies in the wrong place"
            )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptionError(f"{where} lacks something, or says what no manifest says ({error})") from error
    return manifest


def piece_path(flow: str, partition: int, name: str) -> str:
    """Of a piece's file."""
    return f"{directory(flow, partition)}/pieces/{name}"


def readable(place: Place, flow: str, partition: int) -> Iterator[Manifest]:
    """A task's checkpoints whose manifests can be read, the newest position first."""
    for named in listed(place, flow, partition):
        try:
            yield read(place, named)
        except (CorruptionError, UnfitError):
            continue
