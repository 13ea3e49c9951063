"""Making a damaged log's file anew: every batch of it that is still what was written, and from the archive what is not.

Offsets, ledger and groups stay as they were, so that everything that rests on the log goes on.

Of ACTIONS, CORRECTIONS and SERVED nothing may be missing. The other logs follow from them: one of those is cut where neither has what comes next, and
the tasks that write to it put that out again, once they are put back to before it; EMBEDDINGS the learner, which finds out by itself.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from flows.archive.archive import Archive, Range, missing
from flows.directories import FULL, make_directory, sync
from flows.errors import CorruptionError, DataDirectoryError, StorageFullError
from flows.log import LocalLog
from flows.log_file import alone, whole_path
from flows.log_salvage import Salvage
from flows.outputs import ACTIONS, REMADE, SERVED
from flows.settings import Settings
from replay.in_place import REPLACED, delete

_APPEND_BYTES = 64 << 20
_GIVEN_UP = "; nothing rests on what was served: where no copy is, move logs/served.db and archive/served away, and serving begins another"


@dataclass
class RestoredLog:
    """What a log is made of again.

    Attributes
    ----------
    log : str
    sound : bool
        Nothing is wrong with it, so that nothing was done.
    ends : list of int
        Where its partitions end.
    damaged : int
        Batches of the old file that are not what was written.
    archived : dict of int to list of (int, int)
        By partition, offsets [from, to) that come from the archive.
    cut : dict of int to (int, int)
        By partition, where it ends now and where it ended: what lay between is put out again.
    readable : bool
        Something of the old file could be read; otherwise nobody knows how far it went.
    ledger_whole : bool
        Nothing of the ledger is lost: else a file that was ingested before may be taken for a new one.
    """

    log: str
    sound: bool
    ends: list[int] = field(default_factory=list)
    damaged: int = 0
    archived: dict[int, list[Range]] = field(default_factory=dict)
    cut: dict[int, Range] = field(default_factory=dict)
    readable: bool = True
    ledger_whole: bool = True


def restore_log(
    settings: Settings, name: str, reached: dict[int, int], dry_run: bool, advance: Callable[[int], None] = lambda size: None
) -> RestoredLog:
    """Make a log's file anew. The old one stays beside it, as NAME.db.replaced, until the next time.

    A kill at any moment leaves the old file, or one more call away from the new one.

    Parameters
    ----------
    reached : dict of int to int
        By partition, a position that somebody has been at: the log went at least so far.

    Raises
    ------
    CorruptionError
        Offsets of ACTIONS, CORRECTIONS or SERVED are neither in the file nor in the archive.
    LockedError
        Another process has the log open.
    StorageFullError
    """
    if settings.kafka:
        raise DataDirectoryError(f"log '{name}' is a topic of Kafka's: its brokers keep and restore it")
    path = (settings.logs / f"{name}.db").absolute()
    if not path.parent.is_dir():
        raise DataDirectoryError(f"there is no directory {path.parent}; check --data")
    try:
        with alone(path):
            if whole_path(path).exists() and not dry_run:
                _put_in_place(path)
            salvage = Salvage(path, name, advance)
            try:
                archive = Archive(settings.archives, name, salvage.partitions or settings.partitions)
                restored = _plan(salvage, archive, name, salvage.partitions or settings.partitions, reached)
                if restored.sound or dry_run:
                    return restored
                _build(salvage, archive, restored, path, advance)
            finally:
                salvage.close()
            _put_in_place(path)
            return restored
    except OSError as error:
        if error.errno in FULL:
            raise StorageFullError(
                f"log {path}: the disk is full; nothing is lost, free as much as the log takes and run this again"
            ) from error
        raise DataDirectoryError(f"log {path}: {error}") from error


def _plan(salvage: Salvage, archive: Archive, name: str, partitions: int, reached: dict[int, int]) -> RestoredLog:
    restored = RestoredLog(
        name, sound=False, damaged=salvage.damaged, readable=salvage.partitions is not None, ledger_whole=salvage.ledger_whole
    )
    lost: list[str] = []
    for partition in range(partitions):
        have = [(one.first, one.end) for one in salvage.sound if one.partition == partition]
        covered = archive.covered(partition)
        end = max(salvage.ends.get(partition, 0), archive.end(partition), reached.get(partition, 0) if name == ACTIONS else 0)
        gone = missing(sorted(have + covered), 0, end)
        if gone and name not in REMADE:
            lost += [f"{low} to {high - 1} of partition {partition}" for low, high in gone]
        elif gone:
            if archive.end(partition) > gone[0][0]:
                raise CorruptionError(
                    f"log '{name}', partition {partition}: offsets {gone[0][0]} to {gone[0][1] - 1} are neither in its file nor in its archive, "
                    f"which goes on behind them: move {name}'s archive away, and run this again; `tidemark archive run` makes it anew"
                )
            restored.cut[partition] = (gone[0][0], end)
            end = gone[0][0]
        restored.ends.append(end)
        if fills := missing(sorted(have), 0, end):
            restored.archived[partition] = fills
    if lost:
        raise CorruptionError(
            f"log '{name}': offsets {', '.join(lost)} are neither in its file nor in its archive; put the archive's segments back from a copy, "
            f"then run this again (nothing was changed){_GIVEN_UP if name == SERVED else ''}"
        )
    restored.sound = (
        salvage.whole
        and not restored.archived
        and not restored.cut
        and restored.ends == [salvage.ends.get(partition, 0) for partition in range(partitions)]
    )
    return restored


def _build(salvage: Salvage, archive: Archive, restored: RestoredLog, path: Path, advance: Callable[[int], None]) -> None:
    """Make the new file, whole and durable, where `_put_in_place` finds it."""
    directory = path.with_name(f".{path.stem}.restoring")
    delete(directory)
    try:
        make_directory(directory)
        _write(directory, salvage, archive, restored, path, advance)
        (directory / path.name).rename(whole_path(path))
        sync(path.parent)
    finally:
        # Of one that failed: a disk that is full would stay so.
        shutil.rmtree(directory, ignore_errors=True)


def _write(directory: Path, salvage: Salvage, archive: Archive, restored: RestoredLog, path: Path, advance: Callable[[int], None]) -> None:
    with LocalLog.open(directory, restored.log, len(restored.ends), create=True) as new:
        for partition, end in enumerate(restored.ends):
            _fill(new, salvage, archive, partition, end, advance)
        new.append([], ledger=salvage.ledger)
        for group, positions in salvage.groups.items():
            known = {p: min(position, restored.ends[p]) for p, position in positions.items() if 0 <= p < len(restored.ends)}
            new.commit_group(group, known)
        if new.end_positions() != restored.ends or new.faults():
            raise CorruptionError(f"log {path}: what was written is not what is read back; is the disk failing?")
    made = directory / path.name
    if made.with_name(f"{path.name}-wal").exists():
        raise DataDirectoryError(f"log {directory}: its write-ahead log could not be moved into the file; run this again")
    sync(made)


def _fill(new: LocalLog, salvage: Salvage, archive: Archive, partition: int, end: int, advance: Callable[[int], None]) -> None:
    sound = deque(one for one in salvage.sound if one.partition == partition)
    held: list[tuple[int, pa.RecordBatch]] = []
    at, size = 0, 0
    while at < end:
        while sound and sound[0].end <= at:
            sound.popleft()
        if sound and sound[0].first <= at:
            batches = [salvage.read(sound[0]).between(at, end)]
        else:
            until = min(end, sound[0].first) if sound else end
            batches = [batch.between(at, until) for batch in archive.read(partition, at, until - at)]
            if not batches:
                raise CorruptionError(
                    f"log '{new.name}', partition {partition}: offset {at} has gone from its archive while this was at work"
                )
        for batch in batches:
            held.append((partition, batch.records))
            size += batch.records.nbytes
            advance(batch.records.nbytes)
            at = batch.end_offset
        if size >= _APPEND_BYTES:
            new.append(held)
            held, size = [], 0
    new.append(held)


def _put_in_place(path: Path) -> None:
    """The last steps; nobody reads or writes the log before they are done. They may be done again."""
    old, there = path.with_name(path.name + REPLACED), path.exists()
    if there and not (old.exists() and old.samefile(path)):
        # That of an earlier restore goes only now that the new file is whole.
        Path(f"{old}-wal").unlink(missing_ok=True)
        old.unlink(missing_ok=True)
        os.link(path, old)
    # One that SQLite could not move into the file. It would be taken for the new file's; and must not be, for an older one's.
    if (ahead := Path(f"{path}-wal")).exists():
        ahead.rename(f"{old}-wal" if there else f"{ahead}{REPLACED}")
    Path(f"{path}-shm").unlink(missing_ok=True)
    sync(path.parent)
    whole_path(path).rename(path)
    sync(path.parent)
