"""`KafkaLog` against a real broker: what is appended is read, once, whole and in order; what can't be is said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from flows.errors import DataDirectoryError, LogError, SettingsError
from flows.events import RAW_SCHEMA
from flows.kafka_client import BrokerError, RetentionError, client_options
from flows.log import LedgerConflictError, LedgerEntry, LogBatch
from flows.log_kafka import KafkaLog
from flows.outputs import LOGS
from flows.partition import partition_of
from flows.settings import Settings
from tests.kafka.broker import Broker
from tests.kafka.conftest import options
from tests.processes import refused, tidemark

pytestmark = pytest.mark.kafka


@pytest.fixture
def log(on_kafka: Settings) -> Iterator[KafkaLog]:
    with KafkaLog.open(on_kafka, "actions") as log:
        yield log


def raw(*values: bytes | None, start: int = 1_700_000_000_000) -> pa.RecordBatch:
    return pa.record_batch([pa.array(values, pa.binary()), pa.array(range(start, start + len(values)), pa.int64())], schema=RAW_SCHEMA)


def numbers(*values: int, start: int = 1_700_000_000_000) -> pa.RecordBatch:
    return pa.record_batch({"n": pa.array(values), "timestamp": pa.array(range(start, start + len(values)), pa.int64())})


def content(batches: list[LogBatch]) -> list[object]:
    return [row.get("value", row.get("n")) for batch in batches for row in batch.records.to_pylist()]


def everything(log: KafkaLog, partition: int, most: int = 1_000) -> list[LogBatch]:
    out: list[LogBatch] = []
    at = 0
    while batches := log.read(partition, at, most):
        for batch in batches:
            assert batch.first_offset == at
            assert len(batch.offsets_of_records()) == batch.records.num_rows
            at = batch.end_offset
        out += batches
    return out


def test_what_is_appended_is_read(log: KafkaLog) -> None:
    values = (b'{"a":1}', None, b"", b"\xff\xff\xff\xffno arrow", b"\xff\xfe")
    spans = log.append([(0, raw(*values)), (1, numbers(1, 2, 3)), (0, numbers(4, 5)), (0, raw(b"last"))])
    assert spans == [(0, 0, 5), (1, 0, 1), (0, 5, 6), (0, 6, 7)]
    batches = everything(log, 0)
    assert content(batches) == [*values, 4, 5, b"last"]
    assert np.concatenate([b.offsets_of_records() for b in batches]).tolist() == [0, 1, 2, 3, 4, 5, 5, 6]
    assert content(everything(log, 1)) == [1, 2, 3]
    assert everything(log, 2) == []
    assert log.end_positions() == [7, 1, 0, 0]
    assert content(log.read(0, 3, 2)) == [values[3], values[4]]
    assert content(log.read(0, 5, 100)) == [4, 5, b"last"]


def test_large_batches_are_several_messages(log: KafkaLog) -> None:
    n = 30_000
    noise = np.random.default_rng(0).integers(0, 2**62, n)
    [(_, first, end)] = log.append([(3, numbers(*noise.tolist()))])
    assert end - first > 3
    assert content(everything(log, 3)) == noise.tolist()
    assert content(everything(log, 3, most=1)) == noise.tolist()


def test_what_comes_while_a_reader_is_at_the_end_is_read_next(log: KafkaLog) -> None:
    at = 0
    for k in range(20):
        assert log.read(2, at, 10) == []
        log.append([(2, raw(str(k).encode()))])
        # Exactly: who has seen the end of an append may rely on it.
        [batch] = log.read(2, at, 10)
        assert content([batch]) == [str(k).encode()]
        at = batch.end_offset


def test_a_ledger_entry_and_its_records_are_one(log: KafkaLog, on_kafka: Settings) -> None:
    assert log.ledger_entry("file") is None
    log.append([(0, numbers(1))], ledger=LedgerEntry("file", 1, 5))
    assert log.ledger_entry("file") == LedgerEntry("file", 1, 5, previous=1)
    # A message that no broker takes: nothing of the transaction is ever seen.
    with pytest.raises(BrokerError, match=r"max\.message\.bytes"):
        log.append([(0, numbers(2)), (1, raw(np.random.default_rng(0).bytes(3 << 20)))], ledger=LedgerEntry("file", 2, 5, previous=1))
    assert log.ledger_entry("file") == LedgerEntry("file", 1, 5, previous=1)
    for _ in range(2):
        with pytest.raises(LedgerConflictError):
            log.append([(0, numbers(9))], ledger=LedgerEntry("file", 2, 5, previous=0))
    log.append([(0, numbers(3)), (1, numbers(4))], ledger=LedgerEntry("file", 5, 5, previous=1))
    assert content(everything(log, 0)) == [1, 3]
    assert content(everything(log, 1)) == [4]
    with KafkaLog.open(on_kafka, "actions") as other:
        assert other.ledger_entry("file") == LedgerEntry("file", 5, 5, previous=5)
    with KafkaLog.open(on_kafka, "late") as other:
        assert other.ledger_entry("file") is None


def test_holes_of_transactions_are_passed(log: KafkaLog) -> None:
    for k in range(5):
        log.append([(0, raw(str(k).encode()))], ledger=LedgerEntry("file", k + 1, previous=k))
    assert log.end_position(0) == 10, "each commit takes an offset"
    batches = everything(log, 0)
    assert content(batches) == [b"0", b"1", b"2", b"3", b"4"]
    assert np.concatenate([b.offsets_of_records() for b in batches]).tolist() == [0, 2, 4, 6, 8]
    assert batches[-1].end_offset == 10
    assert content(everything(log, 0, most=1)) == content(batches)
    [rest] = log.read(0, 9, 10)
    assert (rest.first_offset, rest.end_offset, rest.records.num_rows) == (9, 10, 0)


def test_the_later_of_two_from_one_source_wins(log: KafkaLog, on_kafka: Settings) -> None:
    log.append([(0, numbers(1))], ledger=LedgerEntry("file", 1))
    with KafkaLog.open(on_kafka, "actions") as other:
        other.append([(0, numbers(2))], ledger=LedgerEntry("file", 2, previous=1))
        with pytest.raises(LedgerConflictError, match="another process"):
            log.append([(0, numbers(3))], ledger=LedgerEntry("file", 2, previous=1))
    assert content(everything(log, 0)) == [1, 2]


def test_positions_outside_are_refused(log: KafkaLog) -> None:
    log.append([(0, raw(*(b"x",) * 10))])
    with pytest.raises(LogError, match="position 11 lies outside 0 to 10"):
        log.read(0, 11, 5)
    assert log.read(0, 10, 5) == []
    with pytest.raises(LogError, match="there is no partition 9"):
        log.read(9, 0, 5)


def test_what_retention_has_taken_is_missed_and_never_skipped(log: KafkaLog, shared_broker: Broker) -> None:
    log.append([(0, raw(*(str(i).encode() for i in range(10))))])
    admin = AdminClient({"bootstrap.servers": shared_broker.servers})
    for future in admin.delete_records([TopicPartition(log.topic, 0, 6)]).values():
        future.result(30)
    assert log.start_positions()[0] == 6
    with pytest.raises(RetentionError, match=r"begins at offset 6: what lies between 2 and there is gone.*archive"):
        log.read(0, 2, 100)
    assert content(log.read(0, 6, 100)) == [b"6", b"7", b"8", b"9"]


def test_offsets_for_times(log: KafkaLog) -> None:
    log.append([(0, raw(b"a", b"b", b"c", start=1_000)), (0, numbers(1, 2, start=2_000))])
    assert [log.position_for_time(0, t) for t in (0, 1_000, 1_001, 1_002, 1_003, 2_001, 2_002, -5)] == [0, 0, 1, 2, 3, 3, 4, 0]
    assert log.position_for_time(1, 5) == 0


def test_positions_are_those_of_a_consumer_group(log: KafkaLog, on_kafka: Settings) -> None:
    log.append([(0, raw(b"a", b"b"))])
    assert log.group_positions("actions") == {}
    log.commit_group("actions", {0: 2})
    log.commit_group("actions", {1: 0})
    assert log.group_positions("actions") == {0: 2, 1: 0}
    # As any tool sees it.
    tool = Consumer({"bootstrap.servers": on_kafka.kafka, "group.id": f"{on_kafka.kafka_prefix}actions"})
    assert [at.offset for at in tool.committed([TopicPartition(log.topic, p) for p in (0, 1)], timeout=30)] == [2, 0]
    tool.close()


def test_who_keys_by_user_id_in_java_puts_users_where_we_do(log: KafkaLog, on_kafka: Settings) -> None:
    """`murmur2_random` is the partitioner of Java's client."""
    users = [0, 1, 7, -3, 17850, 2**63 - 1, -(2**63), 10**12]
    producer = Producer({"bootstrap.servers": on_kafka.kafka, "partitioner": "murmur2_random"})
    for user in users:
        producer.produce(log.topic, key=str(user), value=str(user))
    producer.flush(60)
    found = {int(value): p for p in range(log.partitions) for value in content(everything(log, p))}  # type: ignore[call-overload]
    assert found == dict(zip(users, partition_of(np.array(users), log.partitions).tolist(), strict=True))


def test_other_numbers_of_partitions_are_refused(on_kafka: Settings, tmp_path: Path) -> None:
    for partitions in (on_kafka.partitions - 1, on_kafka.partitions + 1):
        with pytest.raises(DataDirectoryError, match=f"has {on_kafka.partitions} partitions, but the settings say {partitions}"):
            KafkaLog.open(replace(on_kafka, partitions=partitions), "actions")
        other = {**options(on_kafka), "partitions": partitions}
        assert "partitions, but the settings say" in refused("topics", "create", data=tmp_path / "d", **other)
        assert "partitions, but the settings say" in refused("run", data=tmp_path / "d", **other)
    with pytest.raises(DataDirectoryError, match="is not there; `tidemark topics create`"):
        KafkaLog.open(replace(on_kafka, kafka_prefix="none."), "actions")
    assert "is not there; `tidemark topics create`" in refused("run", data=tmp_path / "d", **{**options(on_kafka), "kafka_prefix": "none."})


def test_topics_are_made_once_and_listed(on_kafka: Settings) -> None:
    again = tidemark("topics", "create", "--json", data=on_kafka.data, **options(on_kafka)).json()
    assert again["made"] == []
    assert len(again["there"]) == len(LOGS) + 1, "the ledger's is one more"
    listed = tidemark("topics", "list", "--json", data=on_kafka.data, **options(on_kafka)).json()["topics"]
    assert [(row["topic"].removeprefix(on_kafka.kafka_prefix), row["partitions"], row["offsets"]) for row in listed] == [
        (name, on_kafka.partitions, 0) for name in LOGS
    ]
    assert "set TIDEMARK_KAFKA=host:port" in refused("topics", "list", data=on_kafka.data)


def test_options_may_come_from_elsewhere_and_are_never_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, file = tmp_path / "secret", tmp_path / "client.properties"
    secret.write_text("hush-file\n")
    monkeypatch.setenv("PASSWORD", "hush-env")
    file.write_text(f"# ours\nsasl.username = me\nsasl.password=env:PASSWORD\nssl.key.password = file:{secret}\n\n")
    settings = Settings(kafka="127.0.0.1:1", kafka_options=file)
    got = client_options(settings)
    assert (got["sasl.username"], got["sasl.password"], got["ssl.key.password"]) == ("me", "hush-env", "hush-file")
    for text, said in (
        ("nonsense", "line 1: expected name=value"),
        ("a=env:NOT_THERE_", "NOT_THERE_ is not set"),
        ("a=file:/not/there", "No such file"),
        ("acks=0", "acks is set by Tidemark"),
    ):
        file.write_text(text)
        with pytest.raises(SettingsError, match=said):
            client_options(settings)
    # A client that refuses its options: the message names them and no value.
    file.write_text("security.protocol=SASL_PLAINTEXT\nsasl.mechanism=hush-mechanism\nsasl.password=env:PASSWORD")
    line = refused("topics", "create", data=tmp_path / "d", kafka="127.0.0.1:1", kafka_options=file)
    assert "hush-env" not in line


def test_no_broker_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import flows.log_kafka

    monkeypatch.setattr(flows.log_kafka, "ADMIN_TIMEOUT_S", 1.0)
    with pytest.raises(BrokerError, match="check the setting 'kafka' and that the brokers run"):
        KafkaLog.open(Settings(kafka="127.0.0.1:1"), "actions")
