"""A broker of the benchmark's own, and topics that hold the stream as JSON."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pandas as pd
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_fixed

from benchmarks.peers._input import json_values
from flows.errors import DataDirectoryError
from flows.settings import Settings
from flows.topics_command import topics
from tests.kafka.broker import Broker

_PATIENCE_S = 120


def start(directory: Path) -> Broker:
    """A real broker that keeps every record, however old its time: the stream lies in the past, and tools make topics of their own."""
    broker = Broker(directory)
    entry = ConfigEntry("log.retention.ms", "-1", incremental_operation=AlterConfigOpType.SET)
    admin = AdminClient({"bootstrap.servers": broker.servers})
    for future in admin.incremental_alter_configs([ConfigResource(ResourceType.BROKER, "1", incremental_configs=[entry])]).values():
        future.result(_PATIENCE_S)
    return broker


# On a busy machine a client may not be told at once of a topic that another has just made.
@retry(retry=retry_if_exception_type(DataDirectoryError), stop=stop_after_attempt(20), wait=wait_fixed(0.5), reraise=True)
def make(settings: Settings) -> None:
    """Make Tidemark's topics, as its user does; retention is off."""
    with redirect_stdout(io.StringIO()):
        topics.main(["create"], obj=settings, standalone_mode=False)


def fill(servers: str, topic: str, rows: pd.DataFrame) -> None:
    """Put records into a topic: key and partition as a Java producer gives them, JSON as value, the record's own time."""
    # Idempotent, or a busy broker that answers late gets a record twice.
    options: dict[str, Any] = {
        "enable.idempotence": True,
        "linger.ms": 20,
        "compression.type": "lz4",
        "queue.buffering.max.messages": 10_000_000,
    }
    producer = Producer({"bootstrap.servers": servers, **options})
    columns = (rows[name].tolist() for name in ("user_id", "partition", "timestamp"))
    for user, partition, timestamp, value in zip(*columns, json_values(rows), strict=True):
        producer.produce(topic, value=value, key=str(user), partition=partition, timestamp=timestamp)
    if producer.flush(_PATIENCE_S):
        raise RuntimeError(f"Kafka did not take all of topic '{topic}'")


def messages(servers: str, topic: str) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of all that a topic holds, partition by partition in order."""
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": f"{topic}-read", "enable.partition.eof": True, "enable.auto.commit": False}
    )
    partitions = consumer.list_topics(topic, timeout=_PATIENCE_S).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    ended: set[int | None] = set()
    try:
        while len(ended) < len(partitions):
            for message in consumer.consume(10_000, 1.0):
                error = message.error()
                if error is None:
                    yield message.key() or b"", message.value() or b""
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended.add(message.partition())
                else:
                    raise RuntimeError(f"Kafka topic '{topic}' can't be read: {error}")
    finally:
        consumer.close()
