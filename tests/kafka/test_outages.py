"""Brokers that go away: killed under an ingest, between, under a bounded run and under one that follows, nothing is lost and nothing doubled.

OUTAGE_S is how long a broker stays away, a moment by default: `OUTAGE_S=60 make test ARGS="-k broker_is_killed"` takes about five minutes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from flows.log_kafka import LEDGER, KafkaLog
from flows.outputs import ACTIONS
from flows.reading import FeatureReader
from flows.settings import Settings
from tests.kafka.broker import Broker
from tests.kafka.conftest import options
from tests.kafka.outcome import assert_as_embedded
from tests.processes import Simulated, await_true, end_all, ended, start, tidemark, watching

pytestmark = pytest.mark.kafka

OUTAGE_S = float(os.environ.get("OUTAGE_S", "1"))
# So that a few thousand records last.
SLOWLY = {"batch_records": 4}


@pytest.fixture
def broker(shared_broker: Broker) -> Iterator[Broker]:
    """The broker, which is there again for the next test however this one ends."""
    yield shared_broker
    if not shared_broker.running:
        shared_broker.start()


@contextmanager
def running(*arguments: object, settings: Settings, **more: object) -> Iterator[subprocess.Popen[str]]:
    process = start(*arguments, data=settings.data, **options(settings), **more)
    try:
        yield process
    finally:
        end_all(process)
        process.communicate()  # closes its pipes, whoever ended it


def out_and_back(broker: Broker) -> None:
    """A power failure, and the time until somebody has noticed."""
    broker.stop(kill=True)
    time.sleep(OUTAGE_S)
    broker.start()


def position(settings: Settings) -> int:
    """How far ACTIONS is applied."""
    with FeatureReader(settings) as reader:
        return sum(reader.positions()[ACTIONS])


def applied(settings: Settings, more_than: int, run: subprocess.Popen[str]) -> None:
    """Wait until a run has come some way, and is still at it."""
    with watching(settings) as watch:
        await_true(lambda: watch.position() > more_than or run.poll() is not None, f"more than {more_than} records are applied")
    assert run.poll() is None, ended(run)


def records(settings: Settings) -> int:
    with KafkaLog.open(settings, ACTIONS, read_only=True) as log:
        return sum(log.end_positions())


def committed(settings: Settings) -> bool:
    """Whether a first transaction is over, in every partition.

    A broker that is killed while it marks a transaction as committed may come back without ever finishing that (Kafka 4.3.1, one node: its
    coordinator takes partitions that it doesn't know yet for deleted ones). KIP-664 calls it a hanging transaction; docs/reliability.md.
    """
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    asked = [TopicPartition(f"{settings.kafka_prefix}{ACTIONS}", p) for p in range(settings.partitions)]
    asked.append(TopicPartition(f"{settings.kafka_prefix}{LEDGER}", 0))
    ends = []
    for isolation in IsolationLevel:
        told = admin.list_offsets(dict.fromkeys(asked, OffsetSpec.latest()), isolation_level=isolation)
        try:
            ends.append([told[at].result(30).offset for at in asked])
        except KafkaException:
            return False
    return ends[0] == ends[1] and ends[0][-1] > 0


def in_pieces(files: list[Path], directory: Path, each: int = 8) -> list[Path]:
    """The same rows in many small files, so that an ingest of them is still at it when it is looked at."""
    directory.mkdir()
    pieces = []
    for file in files:
        table = pq.read_table(file)
        size = -(-table.num_rows // each)
        for first in range(0, table.num_rows, size):
            pieces.append(directory / f"{len(pieces):03}.parquet")
            pq.write_table(table.slice(first, size), pieces[-1])
    return pieces


@pytest.mark.slow
def test_where_a_broker_is_killed_nothing_is_lost_or_doubled(
    on_kafka: Settings, simulated: Simulated, broker: Broker, tmp_path: Path
) -> None:
    *parts, last = simulated.files
    most = in_pieces(parts, tmp_path / "pieces")
    with running("ingest", *most, settings=on_kafka) as ingest:
        await_true(lambda: committed(on_kafka), "the first file is in")
        assert ingest.poll() is None, "killed in between: a file is under way"
        out_and_back(broker)
        assert ended(ingest).code == 0
    out_and_back(broker)
    with running("run", "--workers", 2, settings=on_kafka, **SLOWLY) as bounded:
        applied(on_kafka, 0, bounded)
        out_and_back(broker)
        assert ended(bounded).code == 0
    tidemark("ingest", *most, last, data=on_kafka.data, **options(on_kafka))
    tidemark("run", data=on_kafka.data, **options(on_kafka))
    assert_as_embedded(on_kafka, simulated, tmp_path / "got")


@pytest.mark.soak
def test_a_run_that_follows_outlives_its_broker(on_kafka: Settings, simulated: Simulated, broker: Broker, tmp_path: Path) -> None:
    *most, last = simulated.files
    tidemark("ingest", *most, data=on_kafka.data, **options(on_kafka))
    with running("run", "--follow", settings=on_kafka, **SLOWLY) as following:
        before = position(on_kafka)
        tidemark("ingest", last, data=on_kafka.data, **options(on_kafka))
        applied(on_kafka, before, following)
        out_and_back(broker)
        tidemark("ingest", *most, last, data=on_kafka.data, **options(on_kafka))
        await_true(lambda: position(on_kafka) >= records(on_kafka), "everything is applied")
        following.send_signal(signal.SIGTERM)
        assert ended(following).code == 0
    tidemark("run", data=on_kafka.data, **options(on_kafka))
    assert_as_embedded(on_kafka, simulated, tmp_path / "got")


@pytest.mark.soak
def test_brokers_that_stay_away_are_an_error_and_the_next_run_goes_on(
    on_kafka: Settings, simulated: Simulated, broker: Broker, tmp_path: Path
) -> None:
    tidemark("ingest", *simulated.files, data=on_kafka.data, **options(on_kafka))
    with running("run", settings=on_kafka, kafka_patience_ms=5_000, **SLOWLY) as run:
        applied(on_kafka, 0, run)
        broker.stop(kill=True)
        done = ended(run)
    assert done.code == 1
    [line] = done.err.splitlines()
    assert line.startswith("tidemark: Kafka topic")
    assert "check the setting 'kafka' and that the brokers run" in line
    broker.start()
    tidemark("run", data=on_kafka.data, **options(on_kafka))
    assert_as_embedded(on_kafka, simulated, tmp_path / "got")
