"""Damage to a log, and to what the tasks have put out."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from flows.archive.names import SegmentName, partition_directory
from flows.log import LocalLog
from flows.outputs import ACTIONS, DEADLETTERS, LATE, REVISITS
from replay.drill.bytes import flip
from replay.drill.operator import DrillError
from replay.drill.site import Site

_OUTPUT = (REVISITS, LATE, DEADLETTERS)
_INDEX = "batches_by_end"


def bit_in_log(site: Site, rng: Random) -> str:
    """A bit of a log's file turns over: in what a batch holds, or in the index that batches are found by."""
    name = rng.choice(_filled(site, (ACTIONS, *_OUTPUT)))
    path = path_of(site, name)
    if rng.random() < 0.5:
        with opened(path) as connection:
            rowid, size = rng.choice(connection.execute("SELECT rowid, length(bytes) FROM batches").fetchall())
            at, bit = rng.randrange(size), rng.randrange(8)
            with connection.blobopen("batches", "bytes", rowid) as blob:
                blob[at] = blob[at] ^ 1 << bit
        return f"log {name}: bit {bit} of byte {at:,} of batch {rowid}"
    with opened(path) as connection:
        [root] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (_INDEX,)).fetchone()
        [size] = connection.execute("PRAGMA page_size").fetchone()
    with path.open("rb") as file:
        file.seek((root - 1) * size)
        page = file.read(size)
    # SQLite's format: where the cells of a page begin; 0 means 65 536.
    cells = int.from_bytes(page[5:7], "big") or 65_536
    return f"log {name}: {flip(path, rng, (root - 1) * size + cells, root * size)}, in its index"


def tail_lost(site: Site, rng: Random) -> str:
    """ACTIONS has lost its newest records, which its task has applied."""
    partition, lost = cut_tail(site, ACTIONS, rng)
    return f"log {ACTIONS}/{partition}: its last {lost:,} records are gone"


def output_twice(site: Site, rng: Random) -> str:
    """Records of REVISITS are published a second time."""
    with LocalLog.open(site.settings.logs, REVISITS) as log:
        partition = rng.choice([p for p, end in enumerate(log.end_positions()) if end])
        end = log.end_position(partition)
        start = rng.randrange(end)
        again = [(partition, batch.records) for batch in log.read(partition, start, rng.randrange(1, end - start + 1))]
        [*_, (_, _, reached)] = log.append(again)
    return f"log {REVISITS}/{partition}: {reached - end:,} records from offset {start:,} on lie there twice"


def output_lost(site: Site, rng: Random) -> str:
    """REVISITS has lost records that its writers take for published: its newest, or some in between; archived or not."""
    partition, lost = cut_tail(site, REVISITS, rng)
    archived = rng.random() < 0.5
    if not archived:
        with LocalLog.open(site.settings.logs, REVISITS, read_only=True) as log:
            end = log.end_position(partition)
        directory = partition_directory(site.settings.archives, REVISITS, partition)
        for path in directory.iterdir():
            name = SegmentName.parse(path.name)
            if name is not None and name.end > end:
                path.unlink()
    return f"log {REVISITS}/{partition}: its last {lost:,} records are gone, {'' if archived else 'not '}archived"


def bit_in_segment(site: Site, rng: Random) -> str:
    """A bit of a segment of the archive turns over."""
    path = rng.choice(sorted(site.settings.archives.glob("*/*/*.parquet")))
    return f"archive {path.parent.parent.name}/{int(path.parent.name)}: {flip(path, rng)}"


def cut_tail(site: Site, name: str, rng: Random) -> tuple[int, int]:
    """Take some of the newest batches of a log away; the partition, and how many records."""
    with opened(path_of(site, name)) as connection:
        rows = connection.execute("SELECT partition, first_offset, end_offset FROM batches ORDER BY partition, end_offset").fetchall()
        partition = rng.choice(sorted({row[0] for row in rows}))
        mine = [row for row in rows if row[0] == partition]
        first = mine[-rng.randrange(1, len(mine) + 1)][1]
        connection.execute("DELETE FROM batches WHERE partition = ? AND end_offset > ?", (partition, first))
        connection.execute("UPDATE ends SET end_offset = ? WHERE partition = ?", (first, partition))
    return partition, mine[-1][2] - first


def _filled(site: Site, names: tuple[str, ...]) -> list[str]:
    found = []
    for name in names:
        with LocalLog.open(site.settings.logs, name, read_only=True) as log:
            if any(log.end_positions()):
                found.append(name)
    if not found:
        raise DrillError("no log holds anything: too few events for this drill")
    return found


def path_of(site: Site, name: str) -> Path:
    """A log's file."""
    return site.settings.logs / f"{name}.db"


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Past all that guards it; what it writes lies in the file itself afterwards."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        yield connection
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
