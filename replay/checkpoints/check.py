"""Reading a checkpoint back: its keys and values, each piece checked against its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flows.errors import CorruptionError
from replay.checkpoints.manifest import Manifest, Piece, piece_path
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
