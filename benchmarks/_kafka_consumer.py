"""What any consumer in Python must do at least: take messages from the broker and decode each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import Consumer, TopicPartition

from benchmarks import _measure
from flows.outputs import ACTIONS
from flows.settings import Settings


class Contestant:
    """See the module."""

    def __init__(self, settings: Settings, scratch: Path) -> None:
        self._settings = settings
        self.events = 0

    def run(self, prefix: str) -> dict[str, Any]:
        """Every message of the topic once."""
        topic, partitions = prefix + ACTIONS, range(self._settings.partitions)
        options = {"bootstrap.servers": self._settings.kafka, "group.id": "bare", "enable.auto.commit": False}
        consumer = Consumer({**options, "auto.offset.reset": "earliest"})
        wanted = sum(consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=30)[1] for p in partitions)
        clock = _measure.Clock()
        consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
        self.events = 0
        while self.events < wanted:
            for message in (messages := consumer.consume(10_000, 1.0)):
                orjson.loads(message.value() or b"")
            self.events += len(messages)
        spent = clock.read()
        consumer.close()
        return spent
