"""A broker that does as it is told: librdkafka's mock cluster, which lies in the wheel of confluent-kafka and needs no Java.

Real there: produce, fetch, offsets, groups, leaders that move, brokers that go away, whatever error is ordered. Not real: transactions that are
aborted, retention, times, limits of size, IDs of topics. So it proves what a client does about a fault, and nothing of what a broker keeps.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_int16, c_int32, c_int64, c_size_t, c_void_p
from pathlib import Path
from types import TracebackType
from typing import Self

import confluent_kafka

# Requests, by their numbers in Kafka's protocol.
PRODUCE, FETCH, LIST_OFFSETS, METADATA, OFFSET_COMMIT, OFFSET_FETCH, FIND_COORDINATOR = 0, 1, 2, 3, 8, 9, 10
INIT_PRODUCER_ID, ADD_PARTITIONS, END_TXN = 22, 24, 26


def _library() -> ctypes.CDLL:
    """The librdkafka that the client itself uses."""
    [path] = Path(confluent_kafka.__file__).parent.parent.glob("confluent_kafka.libs/librdkafka[-.]*so*")
    library = ctypes.CDLL(str(path))
    for name, result, arguments in (
        ("rd_kafka_conf_new", c_void_p, []),
        ("rd_kafka_new", c_void_p, [c_int, c_void_p, c_char_p, c_size_t]),
        ("rd_kafka_destroy", None, [c_void_p]),
        ("rd_kafka_mock_cluster_new", c_void_p, [c_void_p, c_int]),
        ("rd_kafka_mock_cluster_destroy", None, [c_void_p]),
        ("rd_kafka_mock_cluster_bootstraps", c_char_p, [c_void_p]),
        ("rd_kafka_mock_topic_create", c_int, [c_void_p, c_char_p, c_int, c_int]),
        ("rd_kafka_mock_push_request_errors_array", None, [c_void_p, c_int16, c_size_t, POINTER(c_int)]),
        ("rd_kafka_mock_clear_request_errors", None, [c_void_p, c_int16]),
        ("rd_kafka_mock_broker_set_down", c_int, [c_void_p, c_int32]),
        ("rd_kafka_mock_broker_set_up", c_int, [c_void_p, c_int32]),
        ("rd_kafka_mock_broker_set_rtt", c_int, [c_void_p, c_int32, c_int]),
        ("rd_kafka_mock_partition_set_leader", c_int, [c_void_p, c_char_p, c_int32, c_int32]),
        ("rd_kafka_mock_partition_delete_records", c_int, [c_void_p, c_char_p, c_int32, c_int64]),
    ):
        function = getattr(library, str(name))
        function.restype, function.argtypes = result, arguments
    return library


class MockBrokers:
    """Brokers 1 to n in this process, reached over TCP like any others.

    Parameters
    ----------
    brokers : int
    """

    def __init__(self, brokers: int) -> None:
        self._library = _library()
        said = ctypes.create_string_buffer(512)
        self._client = self._library.rd_kafka_new(0, self._library.rd_kafka_conf_new(), said, len(said))
        if not self._client:
            raise RuntimeError(said.value.decode())
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, brokers)
        self._brokers = brokers
        self.servers = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)

    def topic(self, name: str, partitions: int) -> None:
        """Make a topic that lies on all brokers; broker 1 leads every partition."""
        self._ordered(self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, self._brokers))
        for partition in range(partitions):
            self.lead(name, partition, 1)

    def fail(self, request: int, *codes: int) -> None:
        """Answer the next requests of a kind with these errors, one each."""
        self._library.rd_kafka_mock_push_request_errors_array(self._cluster, request, len(codes), (c_int * len(codes))(*codes))

    def heal(self, request: int) -> None:
        """Forget the errors that no request has met."""
        self._library.rd_kafka_mock_clear_request_errors(self._cluster, request)

    def down(self, broker: int) -> None:
        """Break a broker's connections, and take no new ones."""
        self._ordered(self._library.rd_kafka_mock_broker_set_down(self._cluster, broker))

    def up(self, broker: int) -> None:
        """Let a broker answer again."""
        self._ordered(self._library.rd_kafka_mock_broker_set_up(self._cluster, broker))

    def slow(self, broker: int, milliseconds: int) -> None:
        """Let a broker take so long for each answer."""
        self._ordered(self._library.rd_kafka_mock_broker_set_rtt(self._cluster, broker, milliseconds))

    def lead(self, topic: str, partition: int, broker: int) -> None:
        """Move a partition's leader."""
        self._ordered(self._library.rd_kafka_mock_partition_set_leader(self._cluster, topic.encode(), partition, broker))

    def drop(self, topic: str, partition: int, before: int) -> None:
        """Delete what lies before an offset, as retention does."""
        self._ordered(self._library.rd_kafka_mock_partition_delete_records(self._cluster, topic.encode(), partition, before))

    @staticmethod
    def _ordered(error: int) -> None:
        if error:
            raise RuntimeError(f"the mock cluster refuses: {error}")
