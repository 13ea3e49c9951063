"""Deltas in a topic: messages of many records share an offset, transactions leave holes, and all the same each delta is put out and read once."""

from __future__ import annotations

import numpy as np
import pytest

from flows.open_log import open_log
from flows.outputs import EMBEDDINGS
from flows.settings import Settings
from online_model.deltas.chain import closings, holds
from online_model.deltas.errors import SecondLearnerError
from online_model.deltas.follower import Follower
from online_model.deltas.record import Rows
from online_model.deltas.writer import DeltaWriter, fence, origin
from online_model.registry.registry import Registry
from tests.deltas.making import Learner, rows_of
from tests.registry.making import D, publish


@pytest.mark.kafka
def test_deltas_in_a_topic(on_kafka: Settings) -> None:
    registry = Registry.of(on_kafka)
    learner = Learner(publish(registry, 1))
    base = learner.base
    with open_log(on_kafka, EMBEDDINGS) as log:
        registry.switch(registry.start_for(base, log.end_position(0)), 1, "published")
        follower = Follower(registry, log)
        begun = origin(1, base.digest, 0)
        writer = DeltaWriter.open(log, 1, base.digest, begun)
        for number in range(1, 5):
            made = learner.learn(25)
            closing = writer.append(made.rows, made.closing.positions, made.closing.newest_event_time, made.closing.ready_time)
            assert closing.delta == number
        while follower.refresh():
            pass
        assert (follower.served.delta, follower.trouble) == (4, None)
        assert rows_of(follower.served.tables) == learner.made[3].after
        assert [one.delta for one in closings(log, 1)] == [4, 3, 2, 1]
        assert all(holds(log, one.point()) for one in closings(log, 1))
        # A learner that was killed: what it put out is compared, and put out no more.
        again = DeltaWriter.open(log, 1, base.digest, begun)
        end = log.end_position(0)
        for made in learner.made:
            assert again.due is not None
            again.append(made.rows, made.closing.positions, made.closing.newest_event_time, made.closing.ready_time)
        assert (again.due, log.end_position(0)) == (None, end)
        # A snapshot, and one delta of many messages behind it.
        learner.snapshot(4, closing.position)
        assert registry.start_for(base, log.end_position(0), lambda snapshot: holds(log, snapshot.point)).delta == 4
        ids = np.arange(100, 30_100)
        rows = Rows.of({"pin": (ids, np.full((len(ids), D), 0.5, np.float32))}, {}, D)
        again.append(rows, (9, 9), 9, 9)
        while follower.refresh():
            pass
        assert (follower.served.delta, follower.trouble) == (5, None)
        assert (follower.served.tables["pin"].gather(ids) == 0.5).all()
        fence(log, 1)
        with pytest.raises(SecondLearnerError):
            again.append(rows, (9, 9), 9, 9)
        follower.refresh()
        assert (follower.served.delta, follower.trouble) == (5, None)
