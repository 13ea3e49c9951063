"""Reading a checkpoint back: its keys and values, each piece checked against its name, and the whole against what it says that it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from flows.errors import CorruptionError, DataDirectoryError
from flows.state.meta import Meta
from replay.checkpoints.manifest import Manifest, Piece, directory, piece_path
from replay.checkpoints.pieces import Pair, pairs_of
from replay.checkpoints.side_by_side import side_by_side
from replay.place import Place

_META, _OUTBOX = b"meta", b"O"


def pairs(place: Place, manifest: Manifest, advance: Callable[[int], None] = lambda size: None) -> Iterator[Pair]:
    """All keys and values of a checkpoint.

    Parameters
    ----------
    advance : callable, optional
        Called with bytes of keys and values, as they come.

    Raises
    ------
    CorruptionError
        A piece is missing, or is not what was written.
    """
    found = side_by_side(lambda piece: _read(place, manifest, piece), manifest.pieces)
    for piece, some in zip(manifest.pieces, found, strict=True):
        yield from some
        advance(piece.bytes)


class Held:
    """What a checkpoint says of its task and its output, kept as its keys and values go by.

    Parameters
    ----------
    manifest : Manifest
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._meta: bytes | None = None
        self._outbox: list[Pair] = []

    def passing(self, pairs: Iterable[Pair]) -> Iterator[Pair]:
        """The same keys and values."""
        for key, value in pairs:
            if key == _META:
                self._meta = value
            elif key.startswith(_OUTBOX):
                self._outbox.append((key, value))
            yield key, value

    def meta(self) -> Meta:
        """The meta record, once all has gone by.

        Raises
        ------
        CorruptionError
            It is of another state than the manifest says, or can't be read.
        """
        return _meta_of(self._manifest, self._meta)

    def prefixed(self, prefix: bytes) -> list[Pair]:
        """What of the outbox begins with a prefix."""
        return [(key, value) for key, value in self._outbox if key.startswith(prefix)]


class Checker:
    """Reads a task's checkpoints through; a piece that several of them share is read once.

    Parameters
    ----------
    place : Place
    advance : callable
        Called with bytes of keys and values, as they are read.
    """

    def __init__(self, place: Place, advance: Callable[[int], None]) -> None:
        self._place = place
        self._advance = advance
        # Of each piece the meta record if it holds that, or what is wrong with it.
        self._read: dict[Piece, bytes | str | None] = {}

    def check(self, manifest: Manifest, log_end: int | None) -> None:
        """Read a checkpoint through: its pieces, that it holds the state that it names, and that its log goes so far.

        Parameters
        ----------
        log_end : int or None
            Of the task's input; None if nobody can say.

        Raises
        ------
        CorruptionError
            Nobody should restore from it.
        """
        meta: bytes | None = None
        for piece in manifest.pieces:
            found = self._find(manifest, piece)
            if isinstance(found, str):
                raise CorruptionError(found)
            meta = found if found is not None else meta
        _meta_of(manifest, meta)
        if log_end is not None and manifest.position > log_end:
            raise CorruptionError(f"{_named(manifest)} is ahead of its log, which ends at {log_end}")

    def is_sound(self, manifest: Manifest, piece: Piece) -> bool:
        """Whether one of its pieces is what was written."""
        return not isinstance(self._find(manifest, piece), str)

    def _find(self, manifest: Manifest, piece: Piece) -> bytes | str | None:
        if piece not in self._read:
            try:
                self._read[piece] = dict(_read(self._place, manifest, piece)).get(_META)
                self._advance(piece.bytes)
            except CorruptionError as error:
                self._read[piece] = str(error)
        return self._read[piece]


def _read(place: Place, manifest: Manifest, piece: Piece) -> list[Pair]:
    name = piece_path(manifest.flow, manifest.partition, piece.name)
    where = f"checkpoint {place.url}/{name}"
    data = place.read(name)
    if data is None:
        raise CorruptionError(f"{where} is gone")
    return pairs_of(piece, data, where)


def _meta_of(manifest: Manifest, data: bytes | None) -> Meta:
    try:
        meta = Meta.from_json(data, Path(directory(manifest.flow, manifest.partition))) if data is not None else None
    except DataDirectoryError as error:
        raise CorruptionError(f"{_named(manifest)} holds another state than it says: {error}") from error
    if meta is None or (meta.flow, meta.partition, meta.position) != (manifest.flow, manifest.partition, manifest.position):
        raise CorruptionError(f"{_named(manifest)} holds another state than it says")
    return meta


def _named(manifest: Manifest) -> str:
    return f"checkpoint of {manifest.flow}/{manifest.partition} at position {manifest.position}"
