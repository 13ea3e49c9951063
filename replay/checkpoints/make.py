"""Making a checkpoint of a task, beside whoever runs it: it is read through a view of its own, at one position, and its writer never waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flows.errors import CorruptionError
from flows.outputs import REVISITS
from flows.settings import Settings
from flows.state.task import task_path
from flows.state.view import TaskView
from replay.checkpoints.manifest import Manifest, Piece, directory, piece_path, readable
from replay.checkpoints.pieces import Part
from replay.checkpoints.pieces import cut as cut_pieces
from replay.checkpoints.side_by_side import side_by_side
from replay.place import Place


@dataclass(frozen=True)
class Made:
    """What became of a checkpoint.

    Attributes
    ----------
    manifest : Manifest
    new : bool
        False where the newest one says the same already.
    pieces, bytes : int
        That had to be written; bytes after compression.
    seconds : float
    """

    manifest: Manifest
    new: bool
    pieces: int
    bytes: int
    seconds: float


def make(settings: Settings, place: Place, flow: str, partition: int, advance: Callable[[int], None] = lambda size: None) -> Made | None:
    """Make a checkpoint of a task and read it back; None if the task has no state yet.

    Parameters
    ----------
    advance : callable, optional
        Called with bytes of keys and values that are safe, as they come to be.

    Raises
    ------
    CorruptionError
        The state can't be read, or what was written is not what can be read back.
    """
    began = time.monotonic()
    path = task_path(settings, flow, partition)
    if not (path / "CURRENT").exists():
        return None
    files, there = place.files(f"{directory(flow, partition)}/pieces"), dict[str, Piece]()
    newest: Manifest | None = None
    for manifest in readable(place, flow, partition):
        newest = newest or manifest
        there |= {piece.name: piece for piece in manifest.pieces if piece.name in files}
    view = TaskView(path)
    try:
        meta = view.meta
        if meta is None:
            return None
        written = _write(place, flow, partition, cut_pieces(view.items()), there, advance)
    finally:
        view.close()
    made_at = time.time_ns() // 1_000_000
    pieces = tuple(piece for piece, _ in written)
    # A start runs the kernels over what came after the saved working set, to have it as it was.
    needs_from = meta.position if flow == REVISITS else meta.anchor
    manifest = Manifest(
        flow, partition, meta.position, needs_from, meta.corrected_to, meta.watermark, meta.fingerprint, meta.format, made_at, pieces
    )
    new = newest is None or newest.pieces != pieces
    if new:
        name, data = f"{directory(flow, partition)}/{manifest.file_name()}", manifest.to_bytes()
        place.write(name, data)
        if place.read(name) != data:
            raise CorruptionError(f"checkpoint {place.url}/{name}: what was written is not what is read back; the place can't be trusted")
    sizes = [size for _, size in written if size]
    return Made(manifest if newest is None or new else newest, new, len(sizes), sum(sizes), time.monotonic() - began)


def _write(
    place: Place, flow: str, partition: int, parts: Iterable[Part], there: dict[str, Piece], advance: Callable[[int], None]
) -> list[tuple[Piece, int]]:
    """Each piece, and the bytes of its file if it had to be written; a few at once, in bounded memory."""

    def settle(part: Part) -> tuple[Piece, int]:
        if (piece := there.get(part.name())) is not None:
            advance(piece.bytes)
            return piece, 0
        data = part.to_bytes()
        piece = part.piece(data)
        name = piece_path(flow, partition, piece.name)
        place.write(name, data)
        if place.read(name) != data:
            raise CorruptionError(f"checkpoint {place.url}/{name}: what was written is not what is read back; the place can't be trusted")
        advance(piece.bytes)
        return piece, len(data)

    return list(side_by_side(settle, parts))
