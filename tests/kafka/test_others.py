"""What other programs do to the same topics: tools that look at our groups, transactions that are aborted, topics that keep the broker's time."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from flows import deadletters, log_kafka
from flows.log import LedgerEntry
from flows.log_kafka import KafkaLog
from flows.outputs import ACTIONS, LOGS, REVISITS
from flows.reading import FeatureReader
from flows.settings import Settings
from flows.status_command import digest_of
from tests.kafka.broker import Broker
from tests.kafka.conftest import options
from tests.kafka.test_faults import content, many, raw
from tests.oracles.partition import partition_of
from tests.processes import await_true, tidemark

pytestmark = pytest.mark.kafka

HOUR_MS = 3_600_000
TIME = 1_700_000_000_000


def event(at: int, user: int = 7, time: int | None = None) -> bytes:
    fields: dict[str, Any] = {"event_id": at, "user_id": user, "pin_id": 5, "action": "save", "surface": "related_pins", "topic": "art"}
    return orjson.dumps(fields | {"event_time": TIME + at if time is None else time})


def produce(producer: Producer, settings: Settings, *values: bytes, timestamp: int = TIME) -> None:
    for value in values:
        partition = partition_of(orjson.loads(value)["user_id"], settings.partitions)
        producer.produce(f"{settings.kafka_prefix}{ACTIONS}", value=value, partition=partition, timestamp=timestamp)
    assert producer.flush(60) == 0


def plain(settings: Settings) -> Producer:
    return Producer({"bootstrap.servers": settings.kafka})


def run(settings: Settings) -> str:
    return tidemark("run", data=settings.data, **options(settings)).out


# The lag of a group, as kafka-consumer-groups.sh shows it ----------------------------------------------------------------------------------


def shown(broker: Broker, settings: Settings, flow: str) -> dict[int, tuple[int, int, int]]:
    """Of each partition: position, end, lag."""
    group = f"{settings.kafka_prefix}{flow}"
    said = broker.tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "--describe", "--group", group)
    table = [line.split() for line in said.splitlines() if line.startswith((group, "GROUP"))]
    names, rows = table[0], [dict(zip(table[0], row, strict=False)) for row in table[1:]]
    assert {"TOPIC", "PARTITION", "CURRENT-OFFSET", "LOG-END-OFFSET", "LAG"} <= set(names)
    assert {row["TOPIC"] for row in rows} == {group}
    return {int(row["PARTITION"]): (int(row["CURRENT-OFFSET"]), int(row["LOG-END-OFFSET"]), int(row["LAG"])) for row in rows}


def test_kafkas_own_tool_shows_how_far_the_flows_have_come(on_kafka: Settings, shared_broker: Broker) -> None:
    producer = plain(on_kafka)
    produce(producer, on_kafka, *(event(i, user=i) for i in range(40)))
    run(on_kafka)
    ends = [sum(partition_of(i, on_kafka.partitions) == p for i in range(40)) for p in range(on_kafka.partitions)]
    assert shown(shared_broker, on_kafka, ACTIONS) == {p: (end, end, 0) for p, end in enumerate(ends)}
    assert all(lag == 0 for _, _, lag in shown(shared_broker, on_kafka, REVISITS).values())
    home = partition_of(7, on_kafka.partitions)
    produce(producer, on_kafka, *(event(i) for i in range(100, 105)))
    told = shown(shared_broker, on_kafka, ACTIONS)
    assert told == {p: (end, end + 5 * (p == home), 5 * (p == home)) for p, end in enumerate(ends)}
    run(on_kafka)
    assert shown(shared_broker, on_kafka, ACTIONS)[home] == (ends[home] + 5, ends[home] + 5, 0)


# Transactions of others --------------------------------------------------------------------------------------------------------------------


def test_what_another_producer_aborts_is_never_applied(on_kafka: Settings) -> None:
    producer = Producer({"bootstrap.servers": on_kafka.kafka, "transactional.id": f"{on_kafka.kafka_prefix}other"})
    producer.init_transactions(60)
    at = 0

    def transaction(records: int, commit: bool) -> None:
        nonlocal at
        producer.begin_transaction()
        produce(producer, on_kafka, *(event(i, user=i % 5) for i in range(at, at + records)))
        (producer.commit_transaction if commit else producer.abort_transaction)(60)
        at += records

    taken = set()
    for records, commit in ((10, False), (10, True), (3, False)):
        taken |= set(range(at, at + records)) if commit else set()
        transaction(records, commit)
    # Two runs: one that ends at an abort, and one that begins behind it.
    for further in ((), ((4, True), (200, False), (1, False))):
        for records, commit in further:
            taken |= set(range(at, at + records)) if commit else set()
            transaction(records, commit)
        run(on_kafka)
        with FeatureReader(on_kafka) as reader, KafkaLog.open(on_kafka, ACTIONS, read_only=True) as log:
            counts, positions, ends = reader.counts(), reader.positions()[ACTIONS], log.end_positions()
        assert (counts["accepted"], counts["records"]) == (len(taken), len(taken))
        assert positions == ends
        assert sum(ends) > at, "each end of a transaction takes an offset too"
    assert "nothing new to apply" in run(on_kafka)
    assert deadletters.counts(on_kafka) == {}


# A topic that keeps the time at which the broker appended ----------------------------------------------------------------------------------


def by_the_brokers_clock(settings: Settings) -> None:
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    topic = ConfigResource(ResourceType.TOPIC, f"{settings.kafka_prefix}{ACTIONS}")
    entry = ConfigEntry("message.timestamp.type", "LogAppendTime", incremental_operation=AlterConfigOpType.SET)
    change = ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([change]).values():
        future.result(30)

    def heard() -> bool:
        [answer] = admin.describe_configs([topic]).values()
        return str(answer.result(30)["message.timestamp.type"].value) == "LogAppendTime"

    await_true(heard, "the broker has heard of it")


def test_where_the_broker_keeps_its_own_time_that_is_the_arrival(on_kafka: Settings, tmp_path: Path) -> None:
    by_the_brokers_clock(on_kafka)
    assert len(tidemark("topics", "create", "--json", data=on_kafka.data, **options(on_kafka)).json()["there"]) == len(LOGS) + 1
    began = time.time_ns() // 1_000_000
    # The producer says 1970. Of what happened just now, all is in time; of what happens in two hours, nothing.
    produce(plain(on_kafka), on_kafka, event(1, time=began), event(2, time=began + 2 * HOUR_MS), event(3, time=began), timestamp=1)
    ended = time.time_ns() // 1_000_000
    run(on_kafka)
    [letter] = deadletters.deadletters(on_kafka)
    assert (letter.reason, letter.offset) == ("future_time", 1)
    assert began <= letter.timestamp <= ended
    with FeatureReader(on_kafka) as reader:
        assert reader.counts()["accepted"] == 2
    # The time lies in the log: whoever reads it again, later, comes to the same.
    again = replace(on_kafka, data=tmp_path / "again")
    run(again)
    for partition in range(on_kafka.partitions):
        assert digest_of(again, ACTIONS, partition) == digest_of(on_kafka, ACTIONS, partition)
    assert list(deadletters.deadletters(again)) == [letter]


def test_where_the_producers_time_is_kept_that_is_the_arrival(on_kafka: Settings) -> None:
    produce(plain(on_kafka), on_kafka, event(1, time=TIME), timestamp=1)
    run(on_kafka)
    assert deadletters.counts(on_kafka) == {"future_time": 1}


@pytest.mark.parametrize("committed", [False, True])
def test_a_commit_that_is_never_answered_is_settled(on_kafka: Settings, committed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another client of the same name: the ledger tells whether it was committed, and nothing is appended twice or not at all."""
    monkeypatch.setattr(log_kafka, "_UNANSWERED_S", 0.5)
    monkeypatch.setattr(log_kafka, "_ABORT_S", 0.5)
    made: list[Producer] = []

    class Deaf(Producer):
        """The first of them hears no answer to its commits."""

        def __init__(self, options: dict[str, object]) -> None:
            super().__init__(options)
            made.append(self)
            self.commits = 0

        def commit_transaction(self, timeout: float) -> None:
            self.commits += 1
            if self is not made[0]:
                super().commit_transaction(timeout)
                return
            if committed and self.commits == 1:
                super().commit_transaction(timeout)
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    monkeypatch.setattr(log_kafka, "Producer", Deaf)
    with KafkaLog.open(on_kafka, "actions") as log:
        assert log.append([(0, raw(*many(0, 5)))], ledger=LedgerEntry("file", 5, 9)) == [(0, *appended(log))]
        assert len(made) == 2
        assert made[0].commits > 1
        assert content(log.read(0, 0, 100)) == many(0, 5)
        assert log.ledger_entry("file") == LedgerEntry("file", 5, 9, previous=5)
        log.append([(0, raw(*many(5, 4)))], ledger=LedgerEntry("file", 9, 9, previous=5))
        assert content(log.read(0, 0, 100)) == many(0, 9)
        assert len(made) == 2, "the one that settled it goes on"


def appended(log: KafkaLog) -> tuple[int, int]:
    """First offset and end of all that can be read of partition 0."""
    offsets = np.concatenate([batch.offsets_of_records() for batch in log.read(0, 0, 100)])
    return int(offsets[0]), int(offsets[-1]) + 1
