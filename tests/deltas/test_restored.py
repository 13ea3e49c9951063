"""EMBEDDINGS is damaged, and nobody has a copy: the log is cut, its learner puts out all rows anew, and consumers come to the right rows."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from flows.errors import TidemarkError
from flows.log import LocalLog
from flows.outputs import EMBEDDINGS
from online_model.deltas.errors import LostDeltasError
from online_model.deltas.follower import Follower
from online_model.deltas.record import TABLES, Rows
from online_model.deltas.writer import DeltaWriter
from online_model.registry.registry import Registry
from tests.deltas.making import Learner, rows_of
from tests.processes import PARTITIONS, settings_of, tidemark
from tests.registry.making import D, publish, serve


def all_rows(learner: Learner) -> Rows:
    """Every row that the learner has now, and every ID that it has no more."""
    now, begun = learner.made[-1].after, learner.begun()
    changed, deleted = {}, {}
    ever = {key for made in learner.made for key in made.after} | set(begun)
    for table in TABLES:
        ids = [i for which, i in now if which == table]
        weights = np.frombuffer(b"".join(now[table, i] for i in ids), "<f4").reshape(len(ids), D)
        changed[table] = (np.array(ids, np.int64), weights)
        deleted[table] = np.array([i for which, i in ever - set(now) if which == table], np.int64)
    return Rows.of(changed, deleted, D)


def test_a_log_that_is_cut(tmp_path: Path) -> None:
    registry = Registry.of(settings_of(tmp_path))
    learner = Learner(publish(registry, 1))
    serve(registry, 1)
    points = []
    with LocalLog.open(tmp_path / "logs", EMBEDDINGS, PARTITIONS, create=True) as log:
        writer = DeltaWriter.open(log, 1, learner.base.digest)
        for _ in range(5):
            made = learner.learn(9)
            points.append(writer.append(made.rows, made.closing.positions, made.closing.newest_event_time, made.closing.ready_time).point())
        follower = Follower(registry, log)
        follower.refresh()
        assert follower.served.delta == 5
    with sqlite3.connect(tmp_path / "logs" / "embeddings.db") as connection:
        # In the midst of delta 4.
        connection.execute("UPDATE batches SET crc = crc + 1 WHERE end_offset = ?", (points[3].position,))
    connection.close()
    said = tidemark("replay", "restore", "--log", EMBEDDINGS, data=tmp_path).out
    assert "the learner puts the rest out again" in said
    with LocalLog.open(tmp_path / "logs", EMBEDDINGS, PARTITIONS) as log:
        assert points[2].position <= log.end_position(0) < points[3].position
        with pytest.raises(LostDeltasError):
            DeltaWriter.open(log, 1, learner.base.digest, points[4])
        late = Follower(registry, log)
        late.refresh()
        assert late.served.delta == 3
        follower._log = follower._reader._log = log
        follower.refresh()
        # What it has is right, and newer than what the log has.
        assert isinstance(follower.trouble, TidemarkError)
        assert rows_of(follower.served.tables) == learner.made[4].after
        writer = DeltaWriter.open(log, 1, learner.base.digest)
        assert writer.delta == 3
        closing = writer.append(all_rows(learner), (9, 9), 9, 9)
        late.refresh()
        assert (late.served.delta, late.trouble) == (4, None)
        assert rows_of(late.served.tables) == learner.made[4].after
        learner.made[3].closing = closing
        learner.made[3].after = learner.made[4].after
        learner.snapshot(4, closing.position)
        follower.refresh()
        assert (follower.served.delta, follower.trouble) == (4, None)
        assert rows_of(follower.served.tables) == learner.made[4].after
