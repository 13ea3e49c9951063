"""Which checkpoints are kept, by number and age; and which pieces nobody needs any more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flows.errors import CorruptionError
from flows.settings import DAY_MS
from replay.checkpoints.check import Checker
from replay.checkpoints.manifest import Named, UnfitError, directory, listed, piece_path, read
from replay.place import Place


@dataclass(frozen=True)
class Swept:
    """What was deleted, or would be: checkpoints, pieces, and bytes of pieces."""

    checkpoints: int
    pieces: int
    bytes: int


def surplus(found: list[Named], now: int, keep: int, days: float | None) -> list[Named]:
    """Checkpoints, given newest first, of which neither their number nor their age says that they are kept.

    Parameters
    ----------
    now : int
        ms.
    keep : int
        How many of the newest are kept whatever their age, at least 1.
    days : float, optional
        Younger ones are kept too.
    """
    return [named for named in found[keep:] if days is None or named.made_at < now - days * DAY_MS]


def sweep(place: Place, flow: str, partition: int, now: int, keep: int, days: float | None, dry_run: bool = False) -> Swept:
    """Delete a task's surplus checkpoints, then the pieces that no checkpoint names; nobody may be making one of this task.

    A piece stays while any manifest is there that can't be read, for it may be that one's.
    """
    found = listed(place, flow, partition)
    gone = surplus(found, now, keep, days)
    where = directory(flow, partition)
    needed: set[str] = set()
    sound = True
    for named in found:
        if named not in gone:
            try:
                needed |= {piece.name for piece in read(place, named).pieces}
            except (CorruptionError, UnfitError):
                sound = False
    sizes = place.files(f"{where}/pieces") if sound else {}
    unneeded = [name for name in sizes if name not in needed]
    if not dry_run:
        # Manifests first: one whose pieces are gone would be a checkpoint that can't be read.
        place.delete([named.name for named in gone])
        place.delete([piece_path(flow, partition, name) for name in unneeded])
        place.clear_drafts(where)
        place.clear_drafts(f"{where}/pieces")
    return Swept(len(gone), len(unneeded), sum(sizes[name] for name in unneeded))


def mend(
    place: Place, flow: str, partition: int, log_end: int | None, dry_run: bool = False, advance: Callable[[int], None] = lambda size: None
) -> list[str]:
    """Delete the checkpoints of a task that nobody should restore from, and the pieces that are damaged: a new one would share them.

    Parameters
    ----------
    log_end : int or None
        Of the task's input; None if nobody can say.

    Returns
    -------
    list of str
        What is wrong with each checkpoint that is deleted, or would be.
    """
    checker = Checker(place, advance)
    gone: list[str] = []
    damaged: list[str] = []
    for named in listed(place, flow, partition):
        try:
            manifest = read(place, named)
        except CorruptionError as error:
            gone.append(str(error))
            damaged.append(named.name)
            continue
        except UnfitError:
            # Of another format: whoever reads that may use it.
            continue
        try:
            checker.check(manifest, log_end)
        except CorruptionError as error:
            gone.append(str(error))
            damaged.append(named.name)
            damaged += [piece_path(flow, partition, piece.name) for piece in manifest.pieces if not checker.is_sound(manifest, piece)]
    if not dry_run:
        place.delete(list(dict.fromkeys(damaged)))
    return gone
