"""Reading one partition of a topic: from exactly a position on, without a gap, up to the end or until there is enough."""

from __future__ import annotations

import threading
import time
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from flows.errors import LogError
from flows.kafka_client import ADMIN_TIMEOUT_S, CHECK_BROKERS, PASSING, BrokerError, RetentionError, broker_error
from flows.kafka_waiting import look_up
from flows.log import READ_BYTES

_WAIT_S, _GATHER_S = 0.1, 0.25
_AT_ONCE = 16_384
_OUT_OF_RANGE = {KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET}


class PartitionReader:
    """One partition's consumer, which goes on fetching where the last read ended.

    Attributes
    ----------
    position : int
        Where the last read ended.
    lock : Lock
        To be held from a read until `position` has been looked at.
    """

    def __init__(self, options: dict[str, Any], topic: str, partition: int, patience_s: float) -> None:
        self.lock = threading.Lock()
        self.position = -1
        self._topic, self._partition, self._patience_s = topic, partition, patience_s
        self._at_end = False
        self._heard = 0.0
        self._passing: KafkaError | None = None
        self._consumer = Consumer(
            {
                **options,
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                # How long brokers keep a request that finds nothing: what comes is answered at once all the same. A deployment has some two hundred
                # of these consumers; asking four times as often took half a core of two, and an end is told to readers this much later.
                "fetch.wait.max.ms": 200,
                # What lies here for a reader that is behind, of which an archiver has 64. Once it was full, the client would by default wait a second
                # before it fetches again.
                "queued.max.messages.kbytes": 2_048,
                "fetch.queue.backoff.ms": 5,
                "check.crcs": True,
            }
        )

    def go_to(self, position: int) -> None:
        """Begin to fetch from a position on, unless that is going on already."""
        if position != self.position:
            self._consumer.assign([TopicPartition(self._topic, self._partition, position)])
            self.position, self._at_end = position, False
            self._heard = time.monotonic()

    def read(self, position: int, most: int, until: int = 0) -> list[Message]:
        """Messages from a position on; `position` afterwards is the next one, past what readers don't see.

        Without `until`, what has arrived here, be it nothing: whoever has many partitions to look at must not wait for each of them. With it, [] only
        once brokers have said that it ends at `position`, which has come so far.
        """
        self.go_to(position)
        messages: list[Message] = []
        size = 0
        began = time.monotonic()
        while len(messages) < most and size < READ_BYTES:
            got = self._arrived(min(most - len(messages), _AT_ONCE), _WAIT_S if self._awaits(bool(messages), until) else 0)
            # Some hundred thousand messages a second come this way: they are looked at one by one only where one of them says something.
            if all(error is None for error in map(Message.error, got)):
                if got:
                    self.position, self._at_end = int(got[-1].offset() or 0) + 1, False
                    self._heard, self._passing = time.monotonic(), None
            else:
                # That a connection has failed is no word from a broker; an end is.
                self._passing = self._heed(got, position)
                if self._passing is None:
                    self._heard = time.monotonic()
                got = [message for message in got if message.error() is None]
            messages += got
            size += sum(map(len, got))
            if self._ended(until) or (messages and (not got or time.monotonic() - began > _GATHER_S)):
                break
            if messages:
                continue
            silent = time.monotonic() - (began if until else self._heard)
            if silent > self._patience_s and (until or not self._at_end):
                where = f"Kafka topic '{self._topic}', partition {self._partition}"
                why = f" ({self._passing.str()})" if self._passing is not None else ""
                raise BrokerError(f"{where}: no answer for {self._patience_s:.0f} s{why}{CHECK_BROKERS}")
            if not until:
                break
            look_up(began)
        return messages

    def _awaits(self, some: bool, until: int) -> bool:
        """Whether to wait for what comes next, having some messages or none."""
        if self._ended(until):
            return False
        if not some:
            return until > 0
        if self._at_end:
            return self.position < until
        # More of a stretch that lies on the broker; at the end of what this client knows of, nothing is on its way.
        return self.position < self._consumer.get_watermark_offsets(TopicPartition(self._topic, self._partition), cached=True)[1]

    def _arrived(self, most: int, wait_s: float) -> list[Message]:
        """What has arrived here; if nothing has, what comes next. To wait for many would be to wait for all of them, or for all of the time."""
        got = self._consumer.consume(most, 0)
        if got or not wait_s:
            return got
        first = self._consumer.consume(1, wait_s)
        return first + self._consumer.consume(most - 1, 0) if first and most > 1 else first

    def _heed(self, got: list[Message], position: int) -> KafkaError | None:
        """Take in what messages say beside their values, in order; returns an error that passes by itself, if there is one."""
        passing = None
        for message in got:
            error = message.error()
            if error is None:
                self.position, self._at_end = int(message.offset() or 0) + 1, False
            elif error.code() == KafkaError._PARTITION_EOF:
                self.position, self._at_end = max(self.position, int(message.offset() or 0)), True
            elif error.code() in PASSING:
                # The client goes on trying by itself.
                passing = error
            else:
                self._refuse(error, position)
        return passing

    def _ended(self, until: int) -> bool:
        return self._at_end and self.position >= until

    def _refuse(self, error: KafkaError, position: int) -> None:
        where = f"Kafka topic '{self._topic}', partition {self._partition}"
        self.position = -1
        if error.code() in _OUT_OF_RANGE:
            low, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, self._partition), timeout=ADMIN_TIMEOUT_S)
            if position < low:
                raise RetentionError(
                    f"{where} begins at offset {low}: what lies between {position} and there is gone by its retention; read it from the archive"
                )
            raise LogError(f"{where}: position {position} lies outside {low} to {high}; state that is ahead of its log must be restored")
        raise broker_error(where, error)

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()
