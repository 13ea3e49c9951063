"""What consumers must be told so that their rows become a learner's, whatever they have been told before."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flows.log import Log
from online_model.deltas.chain import holds
from online_model.deltas.reader import DeltaReader
from online_model.deltas.record import TABLES, Rows
from online_model.deltas.table_rows import TableRows, applied, tables_of
from online_model.registry.bases import Base
from online_model.registry.current import Start
from online_model.registry.snapshots import sound
from online_model.table import EmbeddingTable
from online_model.training.tables import Tables


def named(tables: Tables) -> dict[str, EmbeddingTable]:
    """Both tables by the names that deltas have."""
    return dict(zip(TABLES, (tables.users, tables.pins), strict=True))


def put_out(base: Base, log: Log, since: int) -> dict[str, TableRows]:
    """The rows of whoever has read all deltas of a base that the log holds.

    Parameters
    ----------
    since : int
        No delta of the base lies before this offset.

    Raises
    ------
    DeltaError, CorruptionError, RetentionError
        They can't be read.
    """
    end = log.end_position(0)
    start = Start(base.number, base.digest, 0, base.digest, since, end)
    tables = None
    for snapshot in sound(base):
        if snapshot.point.position <= end and holds(log, snapshot.point):
            start = snapshot.start(end)
            tables = tables_of({table: snapshot.table(table) for table in TABLES})
            break
    if tables is None:
        tables = tables_of({table: base.table(table) for table in TABLES})
    # Other bases' deltas up to the end are passed over.
    reader = DeltaReader(log, start)
    while reader.read_to < end:
        for delta in reader.read():
            tables = applied(tables, delta)
    return tables


def difference(before: Mapping[str, TableRows], tables: Tables) -> Rows:
    """The delta that makes rows those of tables."""
    changed, deleted = {}, {}
    dimension = tables.users.config.dimension
    for name, table in named(tables).items():
        old, ids = before[name], table.ids
        weights = table.gather(table.rows_of(ids))
        places = old.rows_of(ids)
        same = places >= 0
        # To the bit: a zero of another sign is another row.
        same[same] = (old.weights[places[same]].view(np.uint32) == weights[same].view(np.uint32)).all(1)
        changed[name] = (ids[~same], weights[~same])
        deleted[name] = old.ids[table.rows_of(old.ids) == 0]
    return Rows.of(changed, deleted, dimension)


def change_of(tables: Tables) -> Rows:
    """What has changed since this was last asked."""
    changed, deleted = {}, {}
    for name, table in named(tables).items():
        ids, deleted[name] = table.take_changed()
        changed[name] = (ids, table.gather(table.rows_of(ids)))
    return Rows.of(changed, deleted, tables.users.config.dimension)
