"""One real broker for all tests of a process, a prefix of its own for each test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.settings import Settings
from tests.conftest import required_tools
from tests.kafka.broker import Broker, jars
from tests.processes import PARTITIONS, tidemark


@pytest.fixture(scope="session")
def shared_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    try:
        jars()
    except RuntimeError as error:
        if "kafka" in required_tools():
            raise
        pytest.skip(f"no Kafka: {error}")
    broker = Broker(tmp_path_factory.mktemp("kafka"))
    yield broker
    broker.stop()


@pytest.fixture
def on_kafka(shared_broker: Broker, tmp_path: Path) -> Settings:
    """Settings with topics of their own, made as a user makes them."""
    settings = Settings(
        data=tmp_path / "data", partitions=PARTITIONS, kafka=shared_broker.servers, kafka_prefix=f"t{uuid.uuid4().hex[:8]}."
    )
    tidemark("topics", "create", data=settings.data, **options(settings))
    return settings


def options(settings: Settings) -> dict[str, object]:
    """Settings that a child process needs to be at the same topics."""
    return {"kafka": settings.kafka, "kafka_prefix": settings.kafka_prefix, "partitions": settings.partitions}
