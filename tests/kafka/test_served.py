"""What was served, kept in a topic: it comes back as it was, however large, and waits while brokers are away."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from flows.outputs import SERVED
from flows.served_rows import Served
from flows.settings import Settings
from online_model.serving import served_log
from online_model.serving.metrics import Metrics
from online_model.serving.served_log import ServedLog
from tests.kafka.mock import MockBrokers
from tests.processes import PATIENCE_S, await_true
from tests.serving.http import served
from tests.serving.test_served_rows import served as made_up


def row(name: int, pins: int) -> Served:
    """A request for pins of which nothing is known: records that are large, and compress to nothing."""
    one = made_up(np.random.default_rng(0), 0, pins, (), request_id=str(name))
    return dataclasses.replace(one, pin_counters=np.zeros_like(one.pin_counters))


@pytest.mark.kafka
def test_records_come_back_as_they_were(on_kafka: Settings) -> None:
    """Some 90 MB: one column of a message that held them all would be more than a reader takes."""
    log = ServedLog(on_kafka, 1 << 30, Metrics())
    for name in range(150):
        assert log.offer(row(name, 3_000))
    assert log.close(PATIENCE_S) == 0
    rows = served(on_kafka)
    assert sorted((one for part in rows for one in part.request_id), key=int) == [str(name) for name in range(150)]
    want = row(0, 3_000)
    for part in rows:
        for i in range(len(part)):
            span = slice(part.pin_offsets[i], part.pin_offsets[i + 1])
            assert part.pin_id[span].tobytes() == want.pin_id.tobytes()
            assert part.pin_counters[span].tobytes() == want.pin_counters.tobytes()


def test_rows_wait_for_brokers_that_are_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_log, "_AGAIN_S", 0.02)
    with MockBrokers(1) as brokers:
        for name, partitions in ((SERVED, 2), ("ledger", 1)):
            brokers.topic(f"t.{name}", partitions)
        settings = Settings(data=tmp_path, partitions=2, kafka=brokers.servers, kafka_prefix="t.", kafka_patience_ms=1_000)
        log = ServedLog(settings, 1 << 20, Metrics())
        assert log.offer(row(0, 1))
        await_true(lambda: log.kept == 1, "a row is kept")
        brokers.down(1)
        assert log.offer(row(1, 1))
        await_true(lambda: log.trouble is not None, "the brokers are missed")
        assert "t.served" in str(log.trouble)
        brokers.up(1)
        await_true(lambda: log.kept == 2, "the row is kept once they are back")
        assert log.close(PATIENCE_S) == 0
        # At least once: an append without an answer may have come through.
        names = {one for part in served(settings) for one in part.request_id}
    assert names == {"0", "1"}
