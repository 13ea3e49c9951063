"""The flows over a real broker: the same features as over the embedded log, through kills, restarts and rescales."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from confluent_kafka import Producer

from flows import deadletters
from flows.reading import FeatureReader
from flows.settings import Settings
from flows.state.lock import run_is_on
from tests.kafka.conftest import options
from tests.kafka.outcome import assert_as_embedded
from tests.oracles.partition import partition_of
from tests.processes import Simulated, await_true, ended, start, tidemark, watching

pytestmark = pytest.mark.kafka


def test_the_same_as_over_the_embedded_log(on_kafka: Settings, simulated: Simulated, tmp_path: Path) -> None:
    for _ in range(2):
        tidemark("ingest", *simulated.files, data=on_kafka.data, **options(on_kafka))
    done = tidemark("run", "--workers", 2, data=on_kafka.data, **options(on_kafka))
    assert f"{simulated.records:,} events" in done.out
    assert "nothing new to apply" in tidemark("run", data=on_kafka.data, **options(on_kafka)).out
    assert_as_embedded(on_kafka, simulated, tmp_path / "got")
    # What state answers needs no broker.
    with FeatureReader(on_kafka) as reader, FeatureReader(replace(on_kafka, kafka="127.0.0.1:1")) as alone:
        assert alone.default_as_of() == reader.default_as_of() is not None
        assert alone.counts() == reader.counts()
        users = np.arange(1, 2_000)
        want, got = reader.user_counters(users), alone.user_counters(users)
        assert want.found.any()
        assert (want.values == got.values).all()


@pytest.mark.slow
def test_killed_and_rescaled_it_is_the_same(on_kafka: Settings, simulated: Simulated, tmp_path: Path) -> None:
    settings = {**options(on_kafka), "batch_records": 3, "anchor_records": 50}
    kills = (1, 3, 2, 1)
    for file, workers in zip(simulated.files, kills, strict=False):
        # There is something left to do for each, however fast the one before was.
        tidemark("ingest", file, data=on_kafka.data, **settings)
        process = start("run", "--follow", "--workers", workers, data=on_kafka.data, **settings)
        with watching(on_kafka) as watch:
            before = watch.position()
            await_true(lambda: watch.position() > before or process.poll() is not None, "it has come so far")  # noqa: B023
        process.send_signal(signal.SIGKILL)
        assert ended(process).code == -signal.SIGKILL
        await_true(lambda: not run_is_on(on_kafka.state), "the workers of a run that was killed have noticed it and ended")
    tidemark("ingest", *simulated.files[len(kills) :], data=on_kafka.data, **settings)
    tidemark("run", "--workers", 2, data=on_kafka.data, **settings)
    assert_as_embedded(on_kafka, simulated, tmp_path / "got")


def test_whatever_lies_in_a_topic_is_an_event_or_a_dead_letter(on_kafka: Settings, tmp_path: Path) -> None:
    good = {"event_id": 1, "user_id": 7, "pin_id": 3, "action": "save", "surface": "homefeed", "event_time": 1_700_000_000_000}
    odd = {
        "not_json": [b"", None, b"\xff\xff\xff\xff", b"\xff\xfe\x00", orjson.dumps(good)[:-1], b"\xff\xff\xff\xff" + bytes(64)],
        "unknown_schema_version": [orjson.dumps(good | {"schema_version": 9})],
        "oversize": [orjson.dumps(good | {"producer": "x" * 900_000})],
        "wrong_type": [orjson.dumps(good | {"user_id": 1.5})],
    }
    producer, home = Producer({"bootstrap.servers": on_kafka.kafka}), partition_of(7, on_kafka.partitions)
    for values in odd.values():
        for value in values:
            producer.produce(f"{on_kafka.kafka_prefix}actions", key="7", value=value, partition=home, timestamp=good["event_time"])
    producer.produce(f"{on_kafka.kafka_prefix}actions", key="7", value=orjson.dumps(good), partition=home, timestamp=good["event_time"])
    producer.flush(60)
    tidemark("run", data=on_kafka.data, **options(on_kafka))
    with FeatureReader(on_kafka) as reader:
        counts = reader.counts()
    assert counts["accepted"] == 1
    assert {reason: counts.get(f"deadletter.{reason}") for reason in odd} == {reason: len(values) for reason, values in odd.items()}
    assert deadletters.counts(on_kafka) == {reason: len(values) for reason, values in odd.items()}
