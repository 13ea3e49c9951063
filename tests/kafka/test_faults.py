"""`KafkaLog` against brokers that fail as they are told: the right result, or a clear error that says what to do. Needs no Java."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import KafkaError, Producer

from flows import kafka_waiting, log_kafka, stopping
from flows.events import RAW_SCHEMA
from flows.kafka_client import Admin, BrokerError, RetentionError
from flows.kafka_topic import Topic
from flows.log import LedgerEntry, LogBatch
from flows.log_kafka import KafkaLog
from flows.partition import partition_of
from flows.settings import Settings
from tests.kafka import mock
from tests.kafka.mock import MockBrokers
from tests.processes import PATIENCE_S

BROKERS, PARTITIONS, PREFIX = 3, 2, "m."
TOPIC = PREFIX + "actions"


@pytest.fixture
def brokers() -> Iterator[MockBrokers]:
    with MockBrokers(BROKERS) as brokers:
        brokers.topic(TOPIC, PARTITIONS)
        brokers.topic(f"{PREFIX}ledger", 1)
        yield brokers


@pytest.fixture
def settings(brokers: MockBrokers, tmp_path: Path) -> Settings:
    return Settings(data=tmp_path, partitions=PARTITIONS, kafka=brokers.servers, kafka_prefix=PREFIX, kafka_patience_ms=20_000)


@pytest.fixture
def log(settings: Settings) -> Iterator[KafkaLog]:
    with KafkaLog.open(settings, "actions") as log:
        yield log


def raw(*values: bytes | None) -> pa.RecordBatch:
    return pa.record_batch([pa.array(values, pa.binary()), pa.array(range(1, len(values) + 1), pa.int64())], schema=RAW_SCHEMA)


def content(batches: list[LogBatch]) -> list[object]:
    return [row["value"] for batch in batches for row in batch.records.to_pylist()]


def many(start: int, n: int = 50) -> list[bytes]:
    return [str(i).encode() for i in range(start, start + n)]


def appended_and_read(log: KafkaLog, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Twice fifty records go in and come out, in order; something happens in between."""
    log.append([(0, raw(*many(0)))])
    assert content(log.read(0, 0, 1_000)) == many(0)
    meanwhile()
    log.append([(0, raw(*many(50)))])
    assert log.end_positions() == [100, 0]
    assert content(log.read(0, 50, 1_000)) == many(50)
    assert content(log.read(0, 20, 1_000)) == many(20, 80)


def test_leaders_may_move(log: KafkaLog, brokers: MockBrokers) -> None:
    leaders = iter((2, 3, 1, 2))

    def move() -> None:
        brokers.lead(TOPIC, 0, next(leaders))

    appended_and_read(log, move)
    for k in range(3):
        move()
        # Offsets are asked for by a client of their own, which must hear of it too.
        assert log.end_position(0) == 100 + k
        log.append([(0, raw(b"more"))])
        assert content(log.read(0, 100 + k, 10)) == [b"more"]


@pytest.mark.parametrize(
    ("request_kind", "codes"),
    [
        (mock.PRODUCE, (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.REQUEST_TIMED_OUT, KafkaError.NOT_ENOUGH_REPLICAS)),
        (mock.FETCH, (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN, KafkaError._TRANSPORT)),
        (mock.LIST_OFFSETS, (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.FENCED_LEADER_EPOCH)),
        (mock.INIT_PRODUCER_ID, (KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE)),
    ],
    ids=["produce", "fetch", "offsets", "producer"],
)
def test_what_passes_by_itself_is_waited_for(log: KafkaLog, brokers: MockBrokers, request_kind: int, codes: tuple[int, ...]) -> None:
    brokers.fail(request_kind, *codes)
    appended_and_read(log, lambda: brokers.fail(request_kind, *codes))


@pytest.mark.parametrize(
    ("request_kind", "codes"),
    [
        (mock.FIND_COORDINATOR, (KafkaError.COORDINATOR_NOT_AVAILABLE,) * 3),
        (mock.OFFSET_COMMIT, (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.REQUEST_TIMED_OUT)),
        (mock.OFFSET_FETCH, (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS)),
    ],
    ids=["find", "commit", "committed"],
)
def test_positions_of_groups_wait_for_their_coordinator(
    log: KafkaLog, brokers: MockBrokers, request_kind: int, codes: tuple[int, ...]
) -> None:
    log.append([(0, raw(*many(0)))])
    brokers.fail(request_kind, *codes)
    log.commit_group("actions", {0: 50})
    assert log.group_positions("actions") == {0: 50}


@pytest.mark.parametrize(
    "codes",
    [(mock.ADD_PARTITIONS, KafkaError.COORDINATOR_LOAD_IN_PROGRESS), (mock.END_TXN, KafkaError.COORDINATOR_NOT_AVAILABLE)],
    ids=["begin", "end"],
)
def test_transactions_wait_for_their_coordinator(log: KafkaLog, brokers: MockBrokers, codes: tuple[int, int]) -> None:
    brokers.fail(*codes)
    log.append([(0, raw(*many(0)))], ledger=LedgerEntry("file", 1, 2))
    # It can't be read: the mock's own marks of a commit fail their checksum.
    assert log.end_position(0) == 51


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        ((mock.PRODUCE, KafkaError.MSG_SIZE_TOO_LARGE), r"raise the topic's max\.message\.bytes"),
        ((mock.PRODUCE, KafkaError.TOPIC_AUTHORIZATION_FAILED), "may not use the topic"),
        (
            (mock.INIT_PRODUCER_ID, KafkaError.CLUSTER_AUTHORIZATION_FAILED),
            "Cluster authorization failed.*must be allowed to write idempotently",
        ),
    ],
    ids=["too large", "topic not allowed", "idempotence not allowed"],
)
def test_what_doesnt_pass_is_said(log: KafkaLog, brokers: MockBrokers, fault: tuple[int, int], advice: str) -> None:
    brokers.fail(*fault)
    with pytest.raises(BrokerError, match=rf"'{TOPIC}': can't append: .*{advice}"):
        log.append([(0, raw(b"x"))])
    # Once that is put right, so is the log.
    brokers.heal(fault[0])
    log.append([(0, raw(b"y"))])
    assert content(log.read(0, 0, 10)) == [b"y"]


def test_a_user_who_may_use_no_transactions_is_told(log: KafkaLog, brokers: MockBrokers) -> None:
    brokers.fail(mock.INIT_PRODUCER_ID, KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
    with pytest.raises(BrokerError, match="must be allowed to write transactional IDs"):
        log.append([(0, raw(b"x"))], ledger=LedgerEntry("file", 1))
    log.append([(0, raw(b"y"))], ledger=LedgerEntry("file", 1))
    assert log.end_position(0) == 2


def test_reading_what_one_may_not_is_said(log: KafkaLog, brokers: MockBrokers) -> None:
    log.append([(0, raw(b"x"))])
    brokers.fail(mock.FETCH, KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(BrokerError, match=rf"'{TOPIC}', partition 0: .*may not use the topic"):
        log.read(0, 0, 10)
    assert content(log.read(0, 0, 10)) == [b"x"]


def test_brokers_may_be_away_for_a_while(log: KafkaLog, brokers: MockBrokers) -> None:
    def away() -> None:
        for broker in range(1, BROKERS + 1):
            brokers.down(broker)
        timer = threading.Timer(1.0, lambda: [brokers.up(broker) for broker in range(1, BROKERS + 1)])
        timers.append(timer)
        timer.start()

    timers: list[threading.Timer] = []
    appended_and_read(log, away)
    for ask in (lambda: log.end_positions(), lambda: log.commit_group("g", {0: 7}), lambda: log.group_positions("g")):
        away()
        ask()
    assert log.group_positions("g") == {0: 7}
    away()
    log.append([(1, raw(b"in a transaction"))], ledger=LedgerEntry("file", 1))
    assert log.end_position(1) == 2
    for timer in timers:
        timer.join()


def test_slow_brokers_are_asked_again(settings: Settings, brokers: MockBrokers, tmp_path: Path) -> None:
    hurried = tmp_path / "client.properties"
    hurried.write_text("socket.timeout.ms=1000\n")
    with KafkaLog.open(replace(settings, kafka_options=hurried), "actions") as log:

        def slow() -> None:
            brokers.slow(1, 1_500)
            timer.start()

        timer = threading.Timer(2.0, lambda: brokers.slow(1, 0))
        log.append([(0, raw(*many(0)))])
        slow()
        # What was sent and not answered is sent again: this broker can't tell, a real one drops the repeat by its number.
        assert content(log.read(0, 10, 1_000)) == many(10, 40)
        assert log.end_position(0) == 50
        timer.join()


ASKS: dict[str, Callable[[KafkaLog], object]] = {
    "append": lambda log: log.append([(0, raw(b"x"))]),
    "append with a ledger": lambda log: log.append([(0, raw(b"x"))], ledger=LedgerEntry("file", 1)),
    "read": lambda log: log.read(0, 0, 10),
    "offsets": lambda log: log.end_positions(),
    "commit": lambda log: log.commit_group("g", {0: 1}),
    "committed": lambda log: log.group_positions("g"),
}


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())
def test_patience_ends(settings: Settings, brokers: MockBrokers, ask: Callable[[KafkaLog], object]) -> None:
    with KafkaLog.open(replace(settings, kafka_patience_ms=1_000), "actions") as log:
        for broker in range(1, BROKERS + 1):
            brokers.down(broker)
        with pytest.raises(BrokerError, match=rf"'{TOPIC}'.*check the setting 'kafka' and that the brokers run"):
            ask(log)


@pytest.fixture
def looking(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[KafkaLog]:
    """A log that looks at its topic each time that it is read; the mock knows no topics by their ID, so it is asked whether there is one."""
    here = Topic("id", PARTITIONS)

    def described(admin: Admin, topic: str, timeout_s: float) -> Topic:
        admin.list_topics(topic, timeout=1)
        return here

    monkeypatch.setattr(log_kafka, "described", described)
    monkeypatch.setattr(log_kafka, "_LOOK_S", 0.0)
    with KafkaLog.open(replace(settings, kafka_patience_ms=3_000), "actions") as log:
        log._found = here
        yield log


@pytest.mark.parametrize("silent", [False, True], ids=["away", "silent"])
def test_patience_ends_for_who_has_read_everything_too(looking: KafkaLog, brokers: MockBrokers, silent: bool) -> None:
    """A flow that only waits for more would otherwise never hear that there is nobody to wait for."""
    assert looking.read(0, 0, 10) == []
    for broker in range(1, BROKERS + 1):
        if silent:
            brokers.slow(broker, 86_400_000)
        else:
            brokers.down(broker)
    with pytest.raises(BrokerError, match=rf"'{TOPIC}'.*no answer for 3 s; check the setting 'kafka'"):
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            looking.read(0, 0, 10, exact=False)


def test_a_short_silence_is_forgotten(looking: KafkaLog, brokers: MockBrokers) -> None:
    assert looking.read(0, 0, 10) == []
    looking._patience_s = PATIENCE_S
    for _ in range(2):
        for broker in range(1, BROKERS + 1):
            brokers.down(broker)
        while looking._unheard_since is None:
            looking.read(0, 0, 10, exact=False)
        for broker in range(1, BROKERS + 1):
            brokers.up(broker)
        while looking._unheard_since is not None:
            looking.read(0, 0, 10, exact=False)


@pytest.mark.parametrize("silent", [False, True], ids=["away", "silent"])
@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())
def test_who_is_asked_to_stop_waits_no_longer(
    settings: Settings, brokers: MockBrokers, ask: Callable[[KafkaLog], object], silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "_requested", False)
    monkeypatch.setattr(kafka_waiting, "_given_up", False)
    raised: list[BaseException] = []

    def work(log: KafkaLog) -> None:
        try:
            ask(log)
        except BaseException as error:
            raised.append(error)

    # Far more patient than this test.
    with KafkaLog.open(replace(settings, kafka_patience_ms=86_400_000), "actions") as log:
        for broker in range(1, BROKERS + 1):
            if silent:
                brokers.slow(broker, 86_400_000)
            else:
                brokers.down(broker)
        thread = threading.Thread(target=work, args=(log,), daemon=True)
        thread.start()
        thread.join(1.0)
        assert thread.is_alive(), "it waits"
        stopping.request()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert isinstance(raised[0], BrokerError)
    assert re.search(rf"'{TOPIC}'.*asked to stop while brokers don't answer", str(raised[0]))


def test_what_is_gone_is_never_skipped(log: KafkaLog, brokers: MockBrokers) -> None:
    log.append([(0, raw(*many(0)))])
    brokers.drop(TOPIC, 0, 20)
    with pytest.raises(RetentionError, match=r"begins at offset 20: what lies between 10 and there is gone.*archive"):
        log.read(0, 10, 100)
    assert content(log.read(0, 20, 100)) == many(20, 30)


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_other_clients_may_compress_key_and_head_as_they_like(log: KafkaLog, settings: Settings, codec: str) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka, "compression.type": codec, "linger.ms": 100})
    values = [b'{"a":%d}' % i * 20 for i in range(200)] + [None, b""]
    for i, value in enumerate(values):
        producer.produce(
            TOPIC, key=[None, b"", b"\xff\x00", b"7"][i % 4], headers=[("trace", b"\x00"), ("trace", None)], value=value, partition=1
        )
    assert producer.flush(30) == 0
    assert content(log.read(1, 0, 1_000)) == values


def test_users_lie_where_javas_clients_put_them_if_the_key_is_a_text(log: KafkaLog, settings: Settings) -> None:
    """A key of eight bytes, Java's LongSerializer, is another key and lies elsewhere; docs/semantics.md asks for the text."""
    users = list(range(200))
    producer = Producer({"bootstrap.servers": settings.kafka, "partitioner": "murmur2_random"})
    for user in users:
        producer.produce(TOPIC, key=str(user), value=str(user))
        producer.produce(TOPIC, key=user.to_bytes(8, "big"), value=f"long {user}")
    assert producer.flush(30) == 0
    found = {str(value): p for p in range(PARTITIONS) for value in map(bytes.decode, content(log.read(p, 0, 1_000)))}  # type: ignore[arg-type]
    ours = partition_of(np.array(users), PARTITIONS).tolist()
    assert [found[str(user)] for user in users] == ours
    assert [found[f"long {user}"] for user in users] != ours
