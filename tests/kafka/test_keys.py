"""Who keys in another way than by the text of the user's ID writes users where no reader looks: told, and put right by a redrive."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import orjson
import pytest
from confluent_kafka import Producer

from flows import deadletters
from flows.partition import partition_of
from flows.reading import FeatureReader
from flows.settings import Settings
from tests.kafka.conftest import options
from tests.oracles.partition import murmur2
from tests.processes import tidemark

pytestmark = pytest.mark.kafka

USERS = [0, 1, 7, -3, 21, 17850, 10**12, 2**63 - 1, -(2**63)]


def event(at: int, user: int) -> dict[str, Any]:
    time = 1_700_000_000_000 + at
    return {"event_id": at, "user_id": user, "pin_id": 5, "action": "save", "surface": "homefeed", "event_time": time}


def produce(settings: Settings, keyed: list[tuple[bytes, int]]) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka, "partitioner": "murmur2_random"})
    for at, (key, user) in enumerate(keyed):
        record = event(at, user)
        producer.produce(f"{settings.kafka_prefix}actions", key=key, value=orjson.dumps(record), timestamp=record["event_time"])
    assert producer.flush(60) == 0


def test_users_keyed_by_long_are_told_and_put_right(on_kafka: Settings) -> None:
    produce(on_kafka, [(struct.pack(">q", user), user) for user in USERS])
    homes = dict(zip(USERS, partition_of(np.array(USERS), on_kafka.partitions).tolist(), strict=True))
    lies = {user: (murmur2(struct.pack(">q", user)) & 0x7FFFFFFF) % on_kafka.partitions for user in USERS}
    astray = [user for user in USERS if lies[user] != homes[user]]
    assert 0 < len(astray) < len(USERS)

    tidemark("run", data=on_kafka.data, **options(on_kafka))
    letters = list(deadletters.deadletters(on_kafka))
    assert {(orjson.loads(letter.raw)["user_id"], letter.partition, letter.detail) for letter in letters} == {
        (user, lies[user], f"user {user} belongs in partition {homes[user]}, the record is in partition {lies[user]}") for user in astray
    }
    assert deadletters.counts(on_kafka) == {"wrong_partition": len(astray)}
    with FeatureReader(on_kafka) as reader:
        counts = reader.counts()
    assert (counts["accepted"], counts["deadletter.wrong_partition"]) == (len(USERS) - len(astray), len(astray))

    redriven = tidemark("deadletters", "redrive", "--reason", "wrong_partition", "--json", data=on_kafka.data, **options(on_kafka)).json()
    assert redriven["redriven"] == len(astray)
    tidemark("run", data=on_kafka.data, **options(on_kafka))
    assert deadletters.counts(on_kafka) == {"wrong_partition": len(astray)}
    with FeatureReader(on_kafka) as reader:
        assert reader.counts()["accepted"] == len(USERS)
        found = reader.user_sequences(np.array(USERS))
    assert np.diff(found.offsets).tolist() == [1] * len(USERS)
    assert found.event_time.tolist() == [event(at, user)["event_time"] for at, user in enumerate(USERS)]


def test_users_keyed_by_text_are_right(on_kafka: Settings) -> None:
    produce(on_kafka, [(str(user).encode(), user) for user in USERS])
    tidemark("run", data=on_kafka.data, **options(on_kafka))
    assert deadletters.counts(on_kafka) == {}
