"""Examples over a real broker: what the oracle says, through a kill, a rescale, and a state that is made anew."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pytest

from flows.examples.record import EXAMPLES, Kind
from flows.examples.rows import ExampleRows, rows_of
from flows.examples.run import stands
from flows.open_log import open_log
from flows.outputs import ACTIONS, SERVED, take_next
from flows.served_rows import batches_of
from flows.served_versions import heartbeat
from flows.settings import Settings
from tests import driving
from tests.examples.playing import expected, one_served, play
from tests.examples.test_examples import KINDS, told
from tests.kafka.conftest import options
from tests.oracles.partition import partition_of
from tests.processes import await_true, end_all, start, tidemark

pytestmark = pytest.mark.kafka


def records(settings: Settings, partition: int) -> ExampleRows:
    applied: dict[int, int] = {}
    found: list[pa.RecordBatch] = []
    with open_log(settings, EXAMPLES, read_only=True) as log:
        at, end = log.start_positions()[partition], log.end_position(partition)
        while at < end:
            batches = log.read(partition, at, 1 << 20)
            found += [take_next(batch.records, applied, EXAMPLES) for batch in batches if batch.records.num_rows]
            at = batches[-1].end_offset
    return rows_of(found, EXAMPLES)


def test_as_the_oracle_says(on_kafka: Settings) -> None:
    played = play(1, partitions=on_kafka.partitions)
    with open_log(on_kafka, ACTIONS, create=True) as actions, open_log(on_kafka, SERVED, create=True) as served:
        # A message for each record: those of one message have one place.
        for chunk in driving.chunks(played.events, np.random.default_rng(0), raw_share=1.0):
            actions.append([chunk])
        for partition, what in played.served:
            served.append([(partition, heartbeat(what))] if isinstance(what, int) else batches_of([what], on_kafka.partitions, 1 << 20))
    process = start("examples", "run", "--workers", 2, data=on_kafka.data, batch_records=9, anchor_records=20, **options(on_kafka))
    await_true(lambda: process.poll() is not None or sum(one.position for one in stands(on_kafka)) > 50, "it has moved on")
    end_all(process)
    process.communicate()
    for _ in range(2):
        tidemark("examples", "run", data=on_kafka.data, **options(on_kafka))
        for partition in range(on_kafka.partitions):
            want, _ = expected(played, partition, on_kafka)
            told_of = [{name: value for name, value in one.items() if name != "served"} | {"kind": KINDS[one["kind"]]} for one in want]
            assert told(records(on_kafka, partition)) == told_of
        # State that is gone is made anew; what it puts out once more, readers leave out.
        shutil.rmtree(on_kafka.state / EXAMPLES)


def test_many_requests_in_one_message(on_kafka: Settings) -> None:
    """Records of one offset are told apart, and are taken together."""
    rng = np.random.default_rng(0)
    users = [u for u in range(1, 200) if partition_of(u, on_kafka.partitions) == 0][:9]
    made = [one_served(rng, 1_700_000_000_000 + i, user, f"r{i}", [i, i + 1], defaulted=0.0) for i, user in enumerate(users)]
    [(partition, batch)] = batches_of(made, on_kafka.partitions, 1 << 20)
    with open_log(on_kafka, SERVED, create=True) as served, open_log(on_kafka, ACTIONS, create=True) as actions:
        served.append([(partition, batch), (partition, heartbeat(1_700_000_100_000))])
        rows = [
            {"event_id": i, "user_id": user, "pin_id": i + 1, "action": "impression", "surface": "homefeed", "event_time": 1_700_000_050_000}
            | {"duration_ms": 0, "topic": "", "timestamp": 1_700_000_050_000, "bad": False, "request_id": f"r{i}"}
            for i, user in enumerate(users)
        ]  # fmt: skip
        actions.append([(partition, driving.typed(rows))])
    tidemark("examples", "run", data=on_kafka.data, **options(on_kafka))
    got = records(on_kafka, partition)
    got = got.take(got.kind != Kind.HEARTBEAT)
    assert got.request_id.to_pylist() == [f"r{i}" for i in range(len(users))]
    assert got.pin_counters.tolist() == [one.pin_counters[1].tolist() for one in made]
    assert got.users.counters[got.request].tolist() == [one.user_counters[0].tolist() for one in made]
