"""Reading a checkpoint back: its keys and values, each piece checked against its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from flows.errors import CorruptionError
from flows.state.store import Meta
from replay.checkpoints.manifest import Manifest, Piece, directory, piece_path
from replay.checkpoints.pieces import Pair, pairs_of
from replay.place import Place


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
    for piece in manifest.pieces:
        yield from check_piece(place, manifest, piece)
        advance(piece.bytes)


def check(place: Place, manifest: Manifest, log_end: int | None, advance: Callable[[int], None] = lambda size: None) -> None:
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
    where = f"checkpoint of {manifest.flow}/{manifest.partition} at position {manifest.position}"
    held = None
    for key, value in pairs(place, manifest, advance):
        if key == b"meta":
            meta = Meta.from_json(value, Path(directory(manifest.flow, manifest.partition)))
            held = (meta.flow, meta.partition, meta.position)
    if held != (manifest.flow, manifest.partition, manifest.position):
        raise CorruptionError(f"{where} holds another state than it says")
    if log_end is not None and manifest.position > log_end:
        raise CorruptionError(f"{where} is ahead of its log, which ends at {log_end}")


def check_piece(place: Place, manifest: Manifest, piece: Piece) -> list[Pair]:
    """The keys and values of one piece.

    Raises
    ------
    CorruptionError
        It is missing, or is not what was written.
    """
    name = piece_path(manifest.flow, manifest.partition, piece.name)
    where = f"checkpoint {place.url}/{name}"
    data = place.read(name)
    if data is None:
        raise CorruptionError(f"{where} is gone")
    return pairs_of(piece, data, where)
