"""What a message holds, whatever it holds: records of any bytes, Arrow streams, and what pretends to be one. Needs no broker."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import Message

from flows.events import EVENT_SCHEMA, RAW_SCHEMA
from flows.kafka_messages import batches_of, messages_of
from flows.log import LogBatch
from tests.processes import ROOT


def message(at: int, value: bytes | None, time: int = 5) -> Message:
    return Message(topic="actions", partition=0, offset=at, value=value, timestamp=(1, time))


def stream(batch: pa.RecordBatch, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def events(n: int) -> pa.RecordBatch:
    rows = [
        {
            "event_id": i,
            "user_id": i % 3,
            "pin_id": 1,
            "action": "save",
            "surface": "search",
            "event_time": i,
            "topic": "art",
            "timestamp": i,
        }
        for i in range(n)
    ]
    return pa.RecordBatch.from_pylist(rows, EVENT_SCHEMA)


def values(batches: list[LogBatch]) -> list[object]:
    return [row.get("value", row.get("event_id")) for batch in batches for row in batch.records.to_pylist()]


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_arrow_of_any_writer_is_its_records(compression: str | None) -> None:
    messages = [message(0, stream(events(3), compression)), message(1, b"{}"), message(2, stream(events(1), compression))]
    batches = batches_of(7, 0, 4, messages)
    assert values(batches) == [0, 1, 2, b"{}", 0]
    assert [(b.partition, b.first_offset, b.end_offset) for b in batches] == [(7, 0, 1), (7, 1, 2), (7, 2, 4)]


def test_what_is_sent_comes_back() -> None:
    for batch in (events(20_000), pa.record_batch([pa.array([b"", None, b"{}"]), pa.array([1, 2, 3])], schema=RAW_SCHEMA)):
        messages = [message(i, value, time) for i, (value, time) in enumerate(messages_of(batch))]
        assert [row for b in batches_of(0, 0, len(messages), messages) for row in b.records.to_pylist()] == batch.to_pylist()


def cut(data: bytes) -> list[bytes]:
    return [data[:n] for n in range(4, len(data) - 8, 41)]


def test_a_stream_that_was_cut_is_one_record_of_its_bytes() -> None:
    for data in cut(stream(events(40))):
        [batch] = batches_of(0, 3, 4, [message(3, data)])
        assert batch.records.schema == RAW_SCHEMA
        assert batch.records.to_pylist() == [{"value": data, "timestamp": 5}]


def test_records_that_are_declared_and_not_there_are_one_record_of_bytes() -> None:
    """A column of nulls has no bytes, so any number of them is a whole stream of Arrow."""
    for n in (1 << 22, 1 << 21):
        batch = pa.record_batch({"nothing": pa.nulls(n)})
        data = stream(batch)
        assert len(data) < 1_000
        [found] = batches_of(0, 0, 1, [message(0, data)])
        assert found.records.to_pylist() == [{"value": data, "timestamp": 5}]


DAMAGE = """
import sys
import numpy as np
from tests.kafka.test_messages import batches_of, events, message, stream
from flows.decode import Decoder
from flows.vocabulary import Vocabulary

random = np.random.default_rng(int(sys.argv[1]))
decoder = Decoder(Vocabulary.load(None))
whole = 0
for compression in (None, "lz4"):
    data = np.frombuffer(stream(events(50), compression), np.uint8)
    for _ in range(500):
        damaged = data.copy()
        at = random.integers(4, len(data), random.integers(1, 6))
        damaged[at] = random.integers(0, 256, len(at))
        batches = batches_of(0, 0, 1, [message(0, damaged.tobytes())])
        columns = decoder.decode(*(batch.records for batch in batches))
        columns.raw(sorted(columns.faults))
        whole += len(columns) > 1
print(whole)
"""


def test_damaged_arrow_harms_nobody() -> None:
    """Bytes of a stranger: offsets and dictionary codes that point outside would be read from anywhere. In a process of its own, for that ends it."""
    seed = int(np.random.default_rng().integers(2**32))
    done = subprocess.run([sys.executable, "-c", DAMAGE, str(seed)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-2000:]}"
    assert int(done.stdout) > 0, "some were still Arrow"
