"""A topic that is no longer what it was: made again, given more partitions, or set to lose records. Each is an error, and nothing is skipped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, ResourceType

import flows.log_kafka
from flows.errors import DataDirectoryError
from flows.events import RAW_SCHEMA
from flows.kafka_client import BrokerError
from flows.log_kafka import KafkaLog
from flows.open_log import retention_of
from flows.settings import Settings
from tests.kafka.conftest import options
from tests.processes import await_true, refused, tidemark

pytestmark = pytest.mark.kafka


@pytest.fixture
def admin(on_kafka: Settings) -> AdminClient:
    return AdminClient({"bootstrap.servers": on_kafka.kafka})


@pytest.fixture
def log(on_kafka: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[KafkaLog]:
    """One that state is made from, and that has been read."""
    monkeypatch.setattr(flows.log_kafka, "_LOOK_S", 0.0)
    on_kafka.state.mkdir(parents=True)
    with KafkaLog.open(on_kafka, "actions") as log:
        log.append([(0, raw(b"old", b"older"))])
        assert log.read(0, 0, 10)[0].end_offset == 2
        yield log


def raw(*values: bytes) -> pa.RecordBatch:
    return pa.record_batch([pa.array(values, pa.binary()), pa.array([1] * len(values), pa.int64())], schema=RAW_SCHEMA)


def made_again(admin: AdminClient, topic: str, partitions: int) -> None:
    """Delete a topic and make it again, with more records in each partition than there were."""
    for future in admin.delete_topics([topic]).values():
        future.result(30)
    await_true(lambda: topic not in admin.list_topics(timeout=30).topics, "the topic is gone")
    for future in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
        future.result(30)


def test_one_that_was_made_again_is_refused(log: KafkaLog, on_kafka: Settings, admin: AdminClient) -> None:
    made_again(admin, log.topic, log.partitions)
    producer = Producer({"bootstrap.servers": on_kafka.kafka})
    for i in range(10):
        producer.produce(log.topic, value=str(i), partition=0)
    producer.flush(60)
    told = r"is not the one that .*state was made from: it was deleted and made again"
    with pytest.raises(DataDirectoryError, match=told):
        log.read(0, 2, 10)
    for read_only in (True, False):
        with pytest.raises(DataDirectoryError, match=told):
            KafkaLog.open(on_kafka, "actions", read_only)
    assert "it was deleted and made again" in refused("run", data=on_kafka.data, **options(on_kafka))
    for path in on_kafka.state.iterdir():
        path.unlink()
    KafkaLog.open(on_kafka, "actions").close()


def test_one_that_is_deleted_under_a_reader_is_missed(log: KafkaLog, admin: AdminClient) -> None:
    for future in admin.delete_topics([log.topic]).values():
        future.result(30)
    await_true(lambda: log.topic not in admin.list_topics(timeout=30).topics, "the topic is gone")
    with pytest.raises(BrokerError, match="`tidemark topics create` makes the topics"):
        log.read(0, 2, 10)


def test_partitions_that_are_added_stop_what_follows(log: KafkaLog, on_kafka: Settings, admin: AdminClient, tmp_path: Path) -> None:
    for future in admin.create_partitions([NewPartitions(log.topic, log.partitions + 1)]).values():
        future.result(30)
    # The broker hears of it a moment later.
    await_true(lambda: len(admin.list_topics(timeout=30).topics[log.topic].partitions) > log.partitions, "they are there")
    told = rf"has {log.partitions + 1} partitions, but the settings say {log.partitions}; the number is fixed.*make topics under another"
    with pytest.raises(DataDirectoryError, match=told):
        log.read(0, 2, 10)
    with pytest.raises(DataDirectoryError, match=told):
        KafkaLog.open(on_kafka, "actions")


def test_one_that_would_lose_records_is_refused(on_kafka: Settings, admin: AdminClient) -> None:
    topic = f"{on_kafka.kafka_prefix}actions"
    entry = ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.SET)
    for future in admin.incremental_alter_configs([ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])]).values():
        future.result(30)

    def policy() -> str:
        [answer] = admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]).values()
        return str(answer.result(30)["cleanup.policy"].value)

    await_true(lambda: policy() == "compact", "the broker has heard of it")
    line = refused("topics", "create", data=on_kafka.data, **options(on_kafka))
    assert f"'{topic}' has cleanup.policy=compact" in line


def test_history_that_a_topic_would_not_keep_is_refused(on_kafka: Settings, admin: AdminClient, tmp_path: Path) -> None:
    """Brokers go by arrival, which of history is when it happened: they would delete it before anything has read it."""
    kept = ConfigEntry("retention.ms", str(30 * 86_400_000), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, f"{on_kafka.kafka_prefix}actions", incremental_configs=[kept])
    [done] = admin.incremental_alter_configs([resource]).values()
    done.result(30)
    await_true(lambda: retention_of(on_kafka, "actions") is not None, "the brokers know")
    history = tmp_path / "history.csv"
    history.write_text("user_id,pin_id,action,event_time\n1,2,save,2010-12-01T08:26:00\n")
    said = refused("ingest", history, data=on_kafka.data, **options(on_kafka))
    assert "records that arrived 2010-12-01, and the topic keeps records for 30 days" in said
    with KafkaLog.open(on_kafka, "actions") as log:
        assert sum(log.end_positions()) == 0
    assert "1 rows added" in tidemark("ingest", history, "--arrival", "now", data=on_kafka.data, **options(on_kafka)).out
    # What says no time is no history.
    recent = tmp_path / "recent.jsonl"
    event = {"user_id": 1, "pin_id": 2, "action": "save", "event_time": time.time_ns() // 1_000_000 - 5_000}
    recent.write_text(f"{json.dumps(event)}\nno event\n")
    assert "2 rows added" in tidemark("ingest", recent, data=on_kafka.data, **options(on_kafka)).out
