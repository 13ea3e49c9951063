"""Reading a checkpoint back: its keys and values, each piece checked against its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flows.errors import CorruptionError
from replay.checkpoints.manifest import Manifest, piece_path
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
        name = piece_path(manifest.flow, manifest.partition, piece.name)
        where = f"checkpoint {place.url}/{name}"
        data = place.read(name)
        if data is None:
            raise CorruptionError(f"{where} is gone")
        yield from pairs_of(piece, data, where)
        advance(piece.bytes)
