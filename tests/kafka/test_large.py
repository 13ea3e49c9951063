"""Records as large as a topic takes: dead letters of which the start is kept, and the flow goes on."""

from __future__ import annotations

from typing import Any

import orjson
import pyarrow as pa
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from flows import deadletters
from flows.events import EVENT_SCHEMA, MAX_RAW_BYTES
from flows.kafka_client import LARGEST_MESSAGE
from flows.outputs import ACTIONS
from flows.reading import FeatureReader
from flows.settings import Settings
from tests.kafka.conftest import options
from tests.oracles.partition import partition_of
from tests.processes import await_true, refused, tidemark

pytestmark = pytest.mark.kafka

GOOD: dict[str, Any] = {"event_id": 1, "user_id": 7, "pin_id": 3, "action": "save", "surface": "homefeed", "event_time": 1_700_000_000_000}
HUGE = "y" * 5_000_000
# A record's envelope in a batch, and the batch's own.
ENVELOPE = 200


def arrow(fields: dict[str, Any], **more: Any) -> bytes:
    batch = pa.RecordBatch.from_pylist([fields], EVENT_SCHEMA)
    for name, value in more.items():
        batch = batch.append_column(name, pa.array([value]))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def as_large_as_may_be(settings: Settings) -> None:
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    topic = ConfigResource(ResourceType.TOPIC, f"{settings.kafka_prefix}{ACTIONS}")
    entry = ConfigEntry("max.message.bytes", str(LARGEST_MESSAGE), incremental_operation=AlterConfigOpType.SET)
    for future in admin.incremental_alter_configs([ConfigResource(topic.restype, topic.name, incremental_configs=[entry])]).values():
        future.result(30)

    def heard() -> bool:
        [answer] = admin.describe_configs([topic]).values()
        return int(answer.result(30)["max.message.bytes"].value) == LARGEST_MESSAGE

    await_true(heard, "the broker has heard of it")


def test_the_start_of_a_large_record_is_kept_and_the_flow_goes_on(on_kafka: Settings) -> None:
    as_large_as_may_be(on_kafka)
    limit = LARGEST_MESSAGE - ENVELOPE
    sent: list[tuple[str | None, bytes, bytes | None]] = [
        ("oversize", json := orjson.dumps(GOOD | {"unknown": HUGE}), json),
        ("not_json", broken := json[:-1], broken),
        ("oversize", arrow(GOOD | {"producer": HUGE}), None),
        # Not too large in what we read of it: a dead letter for another reason.
        ("unknown_action", arrow(GOOD | {"action": "flub"}, unknown=HUGE), None),
        (None, arrow(GOOD | {"event_id": 2}, unknown=HUGE), None),
        ("not_json", arrow(GOOD, unknown=HUGE)[:-1_000_000], None),
        ("oversize", at_limit := orjson.dumps(GOOD | {"unknown": ""})[:-2] + b"z" * (limit - 200) + b'"}', at_limit),
        ("oversize", arrow(GOOD | {"producer": "z" * (limit - 3_000)}), None),
        (None, orjson.dumps(GOOD), None),
    ]
    home = partition_of(7, on_kafka.partitions)
    producer = Producer({"bootstrap.servers": on_kafka.kafka, "message.max.bytes": LARGEST_MESSAGE, "queue.buffering.max.kbytes": 200_000})
    for _, value, _ in sent:
        assert len(value) <= limit
        producer.produce(f"{on_kafka.kafka_prefix}{ACTIONS}", value=value, partition=home, timestamp=GOOD["event_time"])
    assert producer.flush(120) == 0

    for _ in range(2):
        tidemark("run", data=on_kafka.data, **options(on_kafka))
    letters = {letter.offset: letter for letter in deadletters.deadletters(on_kafka)}
    assert {i: letter.reason for i, letter in letters.items()} == {i: reason for i, (reason, _, _) in enumerate(sent) if reason is not None}
    for i, letter in letters.items():
        _, value, whole = sent[i]
        assert len(letter.raw) == MAX_RAW_BYTES
        assert letter.cut
        assert letter.size > 4_000_000
        if whole is not None:
            assert (letter.raw, letter.size) == (whole[:MAX_RAW_BYTES], len(whole))
    with FeatureReader(on_kafka) as reader:
        assert reader.counts()["accepted"] == sum(reason is None for reason, _, _ in sent)

    line = refused("deadletters", "redrive", "--id", f"{home}:0", data=on_kafka.data, **options(on_kafka))
    assert f"the whole lies in log 'actions', partition {home}, offset 0" in line
    told = tidemark("deadletters", "redrive", "--all", "--json", data=on_kafka.data, **options(on_kafka)).json()
    assert (told["redriven"], told["cut"]) == (0, len(letters))
