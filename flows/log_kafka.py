"""`KafkaLog`: the `Log` interface over a topic of Kafka.

A message is one record (any bytes, JSON by contract) or an Arrow IPC stream of many, told apart by the first four bytes, which begin no JSON.
Positions are offsets as Kafka has them, with holes. Readers see committed messages only. What is appended together with a ledger entry is one
transaction; anything else is idempotent and at least once, as the outbox needs it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Self, TypeVar

import orjson
import pyarrow as pa
from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from flows import stopping
from flows.errors import DataDirectoryError, LogError
from flows.kafka_client import (
    ADMIN_TIMEOUT_S,
    CHECK_BROKERS,
    LARGEST_MESSAGE,
    Admin,
    BrokerError,
    GivenUpError,
    broker_error,
    client_options,
    passes,
    translated,
)
from flows.kafka_messages import batches_of, messages_of
from flows.kafka_reader import PartitionReader
from flows.kafka_topic import NOT_THERE, Topic, check_partitions, check_same, described
from flows.kafka_waiting import answered, interruptibly, look_up, patiently
from flows.log import LedgerConflictError, LedgerEntry, LogBatch
from flows.settings import Settings

T = TypeVar("T")

LEDGER = "ledger"
# How often it is asked whether the topic is still the same, while reading.
_LOOK_S = 5.0
# Brokers allow no more by default.
_LONGEST_TRANSACTION_S = 900.0
# A transaction that its end doesn't reach is ended by the next one from the same source, or in time by the broker.
_ABORT_S = 5.0
# A commit without an answer for so long is settled by another client.
_UNANSWERED_S = 15.0
# A call with a limit of its own is waited for a moment longer, so that the error is the one that it gives.
_MOMENT_S = 5.0

_Messages = list[list[tuple[int, bytes | None, int]]]
"""Of each batch its messages: (partition, value, timestamp)."""


class _UnsettledError(Exception):
    """Nobody has said whether a transaction was committed; where its records would lie."""

    def __init__(self, cause: KafkaException, spans: list[tuple[int, int, int]]) -> None:
        super().__init__(str(cause))
        self.cause, self.spans = cause, spans


class KafkaLog:
    """A topic. An object may be shared by threads. Make one with `KafkaLog.open`."""

    dense = False

    def __init__(self, settings: Settings, name: str, read_only: bool) -> None:
        self.name = name
        self.topic = settings.kafka_prefix + name
        self.partitions = 0
        self._prefix = settings.kafka_prefix
        self._options = client_options(settings)
        self._patience_s = settings.kafka_patience_ms / 1000
        self._timeout_s = min(ADMIN_TIMEOUT_S, self._patience_s)
        self._unheard_since: float | None = None
        self._kept = settings.state / f"{name}.topic"
        self._found: Topic | None = None
        self._looked = time.monotonic()
        self._read_only = read_only
        self._where = f"Kafka topic '{self.topic}'"
        self._lock, self._making = threading.Lock(), threading.Lock()
        self._readers: dict[tuple[str, int], PartitionReader] = {}
        self._groups: dict[str, Consumer] = {}
        self._producer: Producer | None = None
        self._transactional: dict[str, Producer] = {}
        self._ledger: dict[str, dict[str, int]] = {}
        self._ledger_at = 0
        with translated(self._where):
            self._admin = Admin(self._options)

    @classmethod
    def open(cls, settings: Settings, name: str, read_only: bool = False) -> KafkaLog:
        """Open a topic that is there.

        Raises
        ------
        DataDirectoryError
            There is none, or it has another number of partitions than the settings say, or it is not the one that state was made from.
        BrokerError
            No broker can be reached.
        """
        log = cls(settings, name, read_only)
        with translated(log._where):
            # All of them: to ask for one may make it.
            topics = log._call(lambda: log._admin.topics(log._timeout_s))
            for topic in (log.topic, log._prefix + LEDGER):
                if topic not in topics or not topics[topic].partitions:
                    raise DataDirectoryError(f"Kafka topic '{topic}' {NOT_THERE}")
            found = topics[log.topic]
            log.partitions = len(found.partitions)
            check_partitions(log._where, log.partitions, settings.partitions)
            if settings.state.is_dir():
                log._found = described(log._admin, log.topic, log._timeout_s)
                check_same(log._where, log._kept, log._found, keep=not read_only)
        return log

    def _look_again(self) -> None:
        """Now and then while reading: a topic that was deleted, made again or given more partitions must not go by unnoticed."""
        if self._found is None or time.monotonic() - self._looked < _LOOK_S or stopping.requested():
            return
        self._looked = time.monotonic()
        try:
            found = described(self._admin, self.topic, self._timeout_s)
        except KafkaException as error:
            if not passes(error):
                raise
            # Whoever has read all there was, and only waits for more, hears of it here alone.
            self._unheard_since = self._unheard_since or self._looked
            if time.monotonic() - self._unheard_since > self._patience_s:
                raise BrokerError(f"{self._where}: no answer for {self._patience_s:.0f} s{CHECK_BROKERS}") from error
            return
        self._unheard_since = None
        check_partitions(self._where, found.partitions, self.partitions)
        check_same(self._where, self._kept, found, keep=False)

    # Writing -------------------------------------------------------------------------------------------------------------------------------

    def append(
        self, batches: Sequence[tuple[int, pa.RecordBatch]], *, ledger: LedgerEntry | Sequence[LedgerEntry] | None = None
    ) -> list[tuple[int, int, int]]:
        """Append batches, in order; acknowledged by all in-sync replicas when this returns.

        Returns
        -------
        list of (partition, first offset, end offset)
            One for each batch given.

        Raises
        ------
        LedgerConflictError
            The ledger is not at an entry's `previous`, or another process appends from the same source; nothing was appended.
        BrokerError
            Not acknowledged. With a ledger nothing was appended; without, some may have been.
        """
        if self._read_only:
            raise LogError(f"{self._where} was opened to be read only")
        entries = [ledger] if isinstance(ledger, LedgerEntry) else list(ledger or ())
        messages = [[(partition, *message) for message in messages_of(batch)] for partition, batch in batches]
        with self._lock, translated(f"{self._where}: can't append"):
            if entries:
                return self._append_with(entries, messages)
            if self._producer is None:
                self._producer = Producer(self._producer_options())
            # One that has failed may stay so: it remembers what it wasn't allowed, and is of no use after a fatal error.
            producer, self._producer = self._producer, None
            spans, failures = self._send(producer, messages)
            if failures:
                raise broker_error(f"{self._where}: can't append", failures[0])
            self._producer = producer
            return spans

    def expect_appends(self) -> None:
        """That appends will come: a producer asks for its number now, which may take half a second, and not when they wait for it."""
        with self._lock, translated(f"{self._where}: can't append"):
            if self._producer is None:
                self._producer = Producer(self._producer_options())

    def _producer_options(self) -> dict[str, Any]:
        given = {"enable.idempotence": True, "acks": "all", "compression.type": "lz4", "linger.ms": 5}
        return {"message.timeout.ms": int(self._patience_s * 1000), "message.max.bytes": LARGEST_MESSAGE, **self._options, **given}

    def _send(self, producer: Producer, messages: _Messages) -> tuple[list[tuple[int, int, int]], list[KafkaError]]:
        spans: list[list[int]] = [[-1, -1] for _ in messages]
        failures: list[KafkaError] = []
        begun = time.monotonic()

        def told(span: list[int]) -> Any:
            def tell(error: KafkaError | None, message: Any) -> None:
                if error is not None:
                    failures.append(error)
                else:
                    offset = message.offset()
                    span[0] = offset if span[0] < 0 else min(span[0], offset)
                    span[1] = max(span[1], offset + 1)

            return tell

        for batch, span in zip(messages, spans, strict=True):
            tell = told(span)
            for partition, value, timestamp in batch:
                while True:
                    try:
                        producer.produce(self.topic, value=value, partition=partition, timestamp=timestamp, on_delivery=tell)
                        break
                    except BufferError:
                        look_up(begun)
                        producer.poll(0.1)
        left = len(messages)
        while left:
            look_up(begun)
            before = left
            try:
                left = producer.flush(1.0)
            except SystemError as error:
                # A fatal error of the client, met amid what it tells of messages (2.16): that they were told stands, and it may be asked again.
                if isinstance(error.__cause__, KafkaException):
                    # It says why; of the messages it may only be said that they were purged.
                    failures.insert(0, error.__cause__.args[0])
                elif not failures:
                    raise BrokerError(f"{self._where}: can't append: {error}") from error
            if left < before:
                begun = time.monotonic()
        return [(batch[0][0] if batch else 0, *span) for batch, span in zip(messages, spans, strict=True)], failures  # type: ignore[misc]

    def _append_with(self, entries: list[LedgerEntry], messages: _Messages) -> list[tuple[int, int, int]]:
        """Append with a ledger, and make sure of it where nobody says whether it was committed.

        A client whose commit is not answered may not ask again for ever: a new one with its name ends the transaction, one way or the other, and then
        the ledger tells which.
        """
        begun = time.monotonic()
        while True:
            try:
                return self._append_once(entries, messages)
            except _UnsettledError as error:
                if time.monotonic() - begun > self._patience_s:
                    raise error.cause from error
                self._transactional[entries[0].key] = self._new_transactional(entries[0].key)
                known = self._read_ledger()
                if all(known.get(entry.key, {"done": 0})["done"] == entry.done for entry in entries):
                    return error.spans

    def _new_transactional(self, key: str) -> Producer:
        longest = int(min(self._patience_s, _LONGEST_TRANSACTION_S) * 1000)
        own = {"transactional.id": f"{self.topic}.{key}"[:240], "transaction.timeout.ms": longest, "message.timeout.ms": longest}
        producer = Producer({**self._producer_options(), **own})
        self._finish(producer.init_transactions)
        return producer

    def _append_once(self, entries: list[LedgerEntry], messages: _Messages) -> list[tuple[int, int, int]]:
        # Whoever begins later with the same source fences off whoever began before.
        key = entries[0].key
        conflict = LedgerConflictError(
            f"{self._where}: another process is appending from the same source ({key}); wait for it, then run this again"
        )
        producer = self._transactional.get(key)
        try:
            if producer is None:
                producer = self._transactional[key] = self._new_transactional(key)
            known = self._read_ledger()
            if any(known.get(entry.key, {"done": 0})["done"] != entry.previous for entry in entries):
                raise conflict
            producer.begin_transaction()
            try:
                spans, failures = self._send(producer, messages)
                before = self._ledger_at
                if failures:
                    # This says why; of the message it may only be said that it was purged.
                    self._finish(producer.commit_transaction)
                    raise broker_error(f"{self._where}: can't append", failures[0])
                for entry in entries:
                    value = orjson.dumps({"done": entry.done, "total": entry.total})
                    producer.produce(self._prefix + LEDGER, key=f"{self.name}|{entry.key}", value=value, partition=0)
                try:
                    self._finish(producer.commit_transaction, _UNANSWERED_S)
                except KafkaException as error:
                    if passes(error):
                        raise _UnsettledError(error, spans) from error
                    raise
            except BaseException:
                # The next append begins with a new one: after an abort the broker may find its numbers out of order.
                self._transactional.pop(key, None)
                with suppress(KafkaException, GivenUpError):
                    interruptibly(lambda: producer.abort_transaction(_ABORT_S), _ABORT_S + _MOMENT_S)
                raise
            ends: dict[int, int] = {}
            for partition, _, end in spans:
                ends[partition] = max(end, ends.get(partition, 0))
            self._await_readable(self.topic, ends)
            self._await_readable(self._prefix + LEDGER, {0: before + 1})
            return spans
        except KafkaException as error:
            if error.args[0].code() in (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH):
                self._transactional.pop(key, None)
                raise conflict from error
            raise

    def _finish(self, step: Callable[[float], object], most_s: float = float("inf")) -> None:
        """One step of a transaction, which may be asked for again as long as brokers are away."""
        timeout_s = min(self._timeout_s, most_s)
        patiently(lambda: interruptibly(lambda: step(timeout_s), timeout_s + _MOMENT_S), min(self._patience_s, most_s))

    def _call(self, call: Callable[[], T]) -> T:
        """Make a call that may keep its thread for as long as `_timeout_s`."""
        return interruptibly(call, self._timeout_s + _MOMENT_S)

    def _await_readable(self, topic: str, ends: dict[int, int]) -> None:
        """Wait until readers see up to these ends: a commit is acknowledged before it has reached every partition."""
        begun = time.monotonic()
        while any(at < end for at, end in zip(self._offsets(topic, dict.fromkeys(ends, OffsetSpec.latest())), ends.values(), strict=True)):
            look_up(begun)
            if time.monotonic() - begun > self._patience_s:
                raise BrokerError(
                    f"Kafka topic '{topic}': what was committed can't be read after {self._patience_s:.0f} s; look at the broker's log"
                )
            time.sleep(0.005)

    def ledger_entry(self, key: str) -> LedgerEntry | None:
        """The ledger's entry of a key (`previous` equals `done`, ready for the next append), None if there is none."""
        with self._lock, translated(f"{self._where}: can't read the ledger"):
            found = self._read_ledger().get(key)
        return LedgerEntry(key, found["done"], found["total"], previous=found["done"]) if found else None

    def _read_ledger(self) -> dict[str, dict[str, int]]:
        topic = self._prefix + LEDGER
        reader, end = self._reader(topic, 0), self._offsets(topic, {0: OffsetSpec.latest()})[0]
        while self._ledger_at < end:
            for message in reader.read(self._ledger_at, 10_000, end):
                key, value = message.key(), message.value()
                if key is not None and value is not None:
                    name, _, entry = key.decode().partition("|")
                    if name == self.name:
                        self._ledger[entry] = orjson.loads(value)
            self._ledger_at = reader.position
        return self._ledger

    # Reading -------------------------------------------------------------------------------------------------------------------------------

    def read(self, partition: int, position: int, max_records: int, *, exact: bool = True) -> list[LogBatch]:
        """Messages from `position` on, at most `max_records` of them, without a gap; [] at the end.

        Not `exact`, it may say [] though there is more: it looks at what has arrived here and asks no broker.

        Raises
        ------
        RetentionError
            The topic no longer has `position`.
        LogError
            `position` lies beyond the end.
        BrokerError
            No broker answers for as long as `kafka_patience_ms`.
        """
        self._check_partition(partition)
        reader = self._reader(self.topic, partition)
        with reader.lock, translated(f"{self._where}, partition {partition}: can't read"):
            self._look_again()
            messages = reader.read(position, max_records)
            if exact and not messages and reader.position != (end := self.end_position(partition)):
                # Beyond the end, brokers say what is wrong.
                messages = reader.read(reader.position, max_records, max(end, reader.position))
            end = reader.position
        return batches_of(partition, position, end, messages)

    def expect(self, partition: int, position: int) -> None:
        """That a read will begin here soon, so that messages are on their way by then: those of all partitions at once."""
        self._check_partition(partition)
        reader = self._reader(self.topic, partition)
        with reader.lock, translated(f"{self._where}, partition {partition}: can't read"):
            reader.go_to(position)

    def _reader(self, topic: str, partition: int) -> PartitionReader:
        with self._making:
            if (topic, partition) not in self._readers:
                options = {**self._options, "group.id": f"{self._prefix}reader"}
                self._readers[topic, partition] = PartitionReader(options, topic, partition, self._patience_s)
            return self._readers[topic, partition]

    def end_positions(self) -> list[int]:
        """The next offset of every partition, of what is committed."""
        return self._offsets(self.topic, {p: OffsetSpec.latest() for p in range(self.partitions)})

    def end_position(self, partition: int) -> int:
        """The next offset of one partition."""
        self._check_partition(partition)
        return self._offsets(self.topic, {partition: OffsetSpec.latest()})[0]

    def start_positions(self) -> list[int]:
        """The first offset that every partition still has."""
        return self._offsets(self.topic, {p: OffsetSpec.earliest() for p in range(self.partitions)})

    def position_for_time(self, partition: int, timestamp_ms: int) -> int:
        """The first offset whose message has a timestamp of at least `timestamp_ms`, else the end."""
        self._check_partition(partition)
        found = self._offsets(self.topic, {partition: OffsetSpec.for_timestamp(max(timestamp_ms, 0))})[0]
        return found if found >= 0 else self.end_position(partition)

    def _offsets(self, topic: str, wanted: Mapping[int, OffsetSpec]) -> list[int]:
        with translated(f"{self._where}: can't ask for its offsets"):
            return patiently(lambda: self._ask_offsets(topic, wanted), self._patience_s)

    def _ask_offsets(self, topic: str, wanted: Mapping[int, OffsetSpec]) -> list[int]:
        asked = {TopicPartition(topic, partition): spec for partition, spec in wanted.items()}
        answers = self._admin.list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=self._timeout_s)
        try:
            by_partition = {at.partition: answered(answer, self._timeout_s + _MOMENT_S).offset for at, answer in answers.items()}
        except KafkaException as error:
            if passes(error):
                # This client keeps the leaders that it knew, and their epochs, until it is made to ask: it would be refused for minutes.
                with suppress(KafkaException):
                    self._call(lambda: self._admin.list_topics(timeout=self._timeout_s))
            raise
        if OFFSET_INVALID in by_partition.values():
            # What this client makes of a connection that breaks before the answer. Taken for an end, it would end a run.
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        return [by_partition[partition] for partition in wanted]

    # Groups --------------------------------------------------------------------------------------------------------------------------------

    def commit_group(self, group: str, positions: Mapping[int, int]) -> None:
        """Commit a consumer group's positions, so that Kafka's own tools show its lag; partitions not named keep theirs."""
        if self._read_only:
            raise LogError(f"{self._where} was opened to be read only")
        if positions:
            with translated(f"{self._where}: can't commit positions of group '{self._prefix}{group}'"):
                told = [TopicPartition(self.topic, p, at) for p, at in positions.items()]
                self._ask_group(group, lambda consumer: consumer.commit(offsets=told, asynchronous=False))

    def group_positions(self, group: str) -> dict[int, int]:
        """What `commit_group` committed, by partition."""
        with translated(f"{self._where}: can't read positions of group '{self._prefix}{group}'"):
            asked = [TopicPartition(self.topic, p) for p in range(self.partitions)]
            told = self._ask_group(group, lambda consumer: consumer.committed(asked, timeout=self._timeout_s))
        return {at.partition: at.offset for at in told if at.offset >= 0}

    def _ask_group(self, group: str, call: Callable[[Consumer], T]) -> T:
        try:
            return patiently(lambda: self._call(partial(call, self._group(group))), self._patience_s)
        except KafkaException:
            raise
        except BaseException:
            # It may be in use still, by a call that nobody waits for any more: it must not be closed.
            self._groups.pop(group, None)
            raise

    def _group(self, group: str) -> Consumer:
        with self._making:
            if group not in self._groups:
                # This consumer joins nothing; its session is how long a commit waits for the coordinator before it says so.
                own = {"group.id": self._prefix + group, "enable.auto.commit": False, "session.timeout.ms": int(self._timeout_s * 1000)}
                self._groups[group] = Consumer({**self._options, **own})
            return self._groups[group]

    # The rest --------------------------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of every connection; a second call does nothing."""
        for reader in self._readers.values():
            reader.close()
        for consumer in self._groups.values():
            consumer.close()
        self._readers, self._groups, self._producer, self._transactional = {}, {}, None, {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_partition(self, partition: int) -> None:
        if not 0 <= partition < self.partitions:
            raise LogError(f"{self._where} has partitions 0 to {self.partitions - 1}; there is no partition {partition}")
