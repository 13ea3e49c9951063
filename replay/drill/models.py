"""Damage to the model side: to what is served, to what a learner has put out and kept, and to examples that it learns from."""

from __future__ import annotations

import shutil
import sqlite3
from random import Random

from flows.archive.names import partition_directory
from flows.examples.record import EXAMPLES
from flows.outputs import EMBEDDINGS
from flows.state.task import task_path
from online_model.registry import snapshots
from online_model.registry.bases import SNAPSHOTS
from online_model.registry.manifest import DENSE, MANIFEST, TABLES
from online_model.registry.registry import Registry
from replay.drill.bytes import cut, flip
from replay.drill.logs import cut_tail, opened, path_of
from replay.drill.operator import killed_at
from replay.drill.site import Site

CANDIDATE = "candidate"
"""A directory of the site with a base's files, to be published."""
# Changes of the disk that a publish makes, at least.
_CHANGES = 8


def publish_killed(site: Site, rng: Random) -> str:
    """A publish is killed at an instant: of its draft, before its number, or before it is served."""
    number = rng.randrange(1, _CHANGES + 1)
    killed_at(number, site.settings, *publishing(site))
    return f"`tidemark models publish` killed before its change {number} of the disk"


def publishing(site: Site) -> tuple[str, ...]:
    """The words that publish the candidate."""
    return ("models", "publish", str(site.data / CANDIDATE))


def base_damaged(site: Site, rng: Random) -> str:
    """Of the base that is served a file is damaged, cut or gone; or `current.json` is, which says which one that is."""
    registry = Registry.of(site.settings)
    number = registry.current().base
    name = rng.choice([DENSE, MANIFEST, *TABLES.values(), "current.json"])
    path = registry.directory / name if name == "current.json" else registry.bases.directory / str(number) / name
    how = rng.choice(("flip", "cut", "gone"))
    if how == "gone":
        path.unlink()
        said = f"{name} deleted"
    else:
        said = flip(path, rng) if how == "flip" else cut(path, rng)
    return f"base {number}: {said}"


def snapshot_damaged(site: Site, rng: Random) -> str:
    """A snapshot of a learner, from which it and consumers go on, is damaged, cut or gone."""
    registry = Registry.of(site.settings)
    base = registry.base(registry.current().base)
    delta = rng.choice(snapshots.numbers(base))
    path = base.path / SNAPSHOTS / str(delta) / rng.choice([MANIFEST, *TABLES.values()])
    return f"base {base.number}, snapshot {delta}: {flip(path, rng) if rng.random() < 0.5 else cut(path, rng)}"


def deltas_lost(site: Site, rng: Random) -> str:
    """EMBEDDINGS has lost deltas: the newest, or some in between; or a bit of one has turned over. Archived or not."""
    archived = rng.random() < 0.5
    how = rng.choice(("tail", "gap", "bit"))
    if how == "tail":
        partition, lost = cut_tail(site, EMBEDDINGS, rng)
        said = f"its last {lost:,} records are gone"
    else:
        with opened(path_of(site, EMBEDDINGS)) as connection:
            partition, said = (_gap if how == "gap" else _bit)(connection, rng)
    if not archived:
        shutil.rmtree(partition_directory(site.settings.archives, EMBEDDINGS, partition))
    return f"log {EMBEDDINGS}/{partition}: {said}, {'' if archived else 'not '}archived"


def examples_state(site: Site, rng: Random) -> str:
    """The state of a task of examples is damaged, or lost."""
    found = sorted(path for path in (site.settings.state / EXAMPLES).glob("[0-9]*/*.sst") if path.stat().st_size)
    if found and rng.random() < 0.5:
        path = rng.choice(found)
        return f"{EXAMPLES}/{int(path.parent.name)}: {flip(path, rng)}"
    partition = rng.randrange(site.settings.partitions)
    path = task_path(site.settings, EXAMPLES, partition)
    if rng.random() < 0.5:
        (path / "CURRENT").unlink()
        return f"{EXAMPLES}/{partition}: CURRENT deleted"
    shutil.rmtree(path)
    return f"{EXAMPLES}/{partition}: all of its state deleted"


def examples_lost(site: Site, rng: Random) -> str:
    """EXAMPLES has lost its newest records, which the learner has learned from; they are archived."""
    partition, lost = cut_tail(site, EXAMPLES, rng)
    return f"log {EXAMPLES}/{partition}: its last {lost:,} records are gone"


def _gap(connection: sqlite3.Connection, rng: Random) -> tuple[int, str]:
    rowid, partition, first, end = rng.choice(
        connection.execute("SELECT rowid, partition, first_offset, end_offset FROM batches ORDER BY rowid").fetchall()
    )
    connection.execute("DELETE FROM batches WHERE rowid = ?", (rowid,))
    return partition, f"records {first:,} to {end - 1:,} are gone"


def _bit(connection: sqlite3.Connection, rng: Random) -> tuple[int, str]:
    rowid, partition, size = rng.choice(connection.execute("SELECT rowid, partition, length(bytes) FROM batches ORDER BY rowid").fetchall())
    at, bit = rng.randrange(size), rng.randrange(8)
    with connection.blobopen("batches", "bytes", rowid) as blob:
        blob[at] = blob[at] ^ 1 << bit
    return partition, f"bit {bit} of byte {at:,} of batch {rowid}"
