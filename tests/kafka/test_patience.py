"""How long a reader that only looks bears with brokers that say nothing. What a client says of its own connections is no word from a broker."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from flows import kafka_reader
from flows.kafka_client import BrokerError
from flows.kafka_reader import PartitionReader
from flows.kafka_waiting import patiently

PATIENCE_S = 10.0


@dataclass
class Said:
    """As much of a message as a reader asks for."""

    failed: int | None = None
    at: int = 0

    def error(self) -> KafkaError | None:
        return None if self.failed is None else KafkaError(self.failed)

    def offset(self) -> int:
        return self.at

    def __len__(self) -> int:
        return 1


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(kafka_reader, "time", clock)
    return clock


@pytest.fixture
def arrives(monkeypatch: pytest.MonkeyPatch) -> list[Said]:
    """What every look finds."""
    found: list[Said] = []
    monkeypatch.setattr(kafka_reader, "Message", Said)
    monkeypatch.setattr(PartitionReader, "_arrived", lambda self, most, wait_s: list(found))
    return found


def looks(reader: PartitionReader, clock: Clock, seconds: float) -> list[Any]:
    """Look each second for so long."""
    found: list[Any] = []
    for _ in range(int(seconds)):
        found += reader.read(reader.position, 100)
        clock.now += 1
    return found


@pytest.fixture
def reader() -> PartitionReader:
    # There is nobody; it is told what to hear.
    reader = PartitionReader({"bootstrap.servers": "127.0.0.1:1", "group.id": "none", "log_level": 0}, "t", 0, PATIENCE_S)
    reader.go_to(0)
    return reader


@pytest.mark.parametrize("failed", [KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN])
def test_a_connection_that_fails_again_and_again_ends_patience(
    failed: int, clock: Clock, arrives: list[Said], reader: PartitionReader
) -> None:
    reader._heard = clock.now
    arrives.append(Said(failed))
    assert looks(reader, clock, PATIENCE_S) == []
    clock.now += 1
    with pytest.raises(BrokerError, match=r"no answer for 10 s \("):
        looks(reader, clock, 1)


def test_silence_ends_patience(clock: Clock, reader: PartitionReader, arrives: list[Said]) -> None:
    reader._heard = clock.now
    assert not arrives
    looks(reader, clock, PATIENCE_S)
    clock.now += 1
    with pytest.raises(BrokerError, match=r"no answer for 10 s"):
        looks(reader, clock, 1)


def test_messages_and_the_end_are_words_of_a_broker(clock: Clock, arrives: list[Said], reader: PartitionReader) -> None:
    reader._heard = clock.now
    arrives[:] = [Said(KafkaError._TRANSPORT)]
    looks(reader, clock, PATIENCE_S - 1)
    arrives[:] = [Said(at=0)]
    assert len(reader.read(0, 1)) == 1
    arrives[:] = [Said(KafkaError._DESTROY_BROKER)]
    looks(reader, clock, PATIENCE_S - 1)
    # At an end that brokers have told, who only looks waits for ever: nothing has to come.
    arrives[:] = [Said(KafkaError._PARTITION_EOF, 1)]
    looks(reader, clock, 1)
    arrives[:] = [Said(KafkaError._TRANSPORT)]
    looks(reader, clock, 5 * PATIENCE_S)
    assert reader.position == 1


@pytest.mark.parametrize(("patience_s", "takes_s", "attempts"), [(0.0, 0.0, 1), (1.0, 1.5, 1), (3.0, 1.0, 3)])
def test_patience_counts_from_the_first_attempt(monkeypatch: pytest.MonkeyPatch, patience_s: float, takes_s: float, attempts: int) -> None:
    clock, made = Clock(), []

    def fails() -> None:
        made.append(clock.now)
        clock.now += takes_s
        raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(KafkaException):
        patiently(fails, patience_s)
    assert len(made) == attempts
