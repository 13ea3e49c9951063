"""What a message holds, whatever it holds: records of any bytes, Arrow streams, and what pretends to be one. Needs no broker."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import Message

import flows.kafka_messages
from flows.arrow_size import uncompressed_bytes
from flows.events import EVENT_SCHEMA, RAW_SCHEMA
from flows.kafka_messages import batches_of, messages_of
from flows.log import READ_BYTES, LogBatch
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


HOSTILE = """
import pathlib, resource, sys
import pyarrow as pa
from flows.decode import Decoder
from flows.kafka_messages import batches_of
from flows.log import READ_BYTES
from flows.vocabulary import Vocabulary
from tests.kafka.test_messages import message

messages = [message(i, pathlib.Path(path).read_bytes()) for i, path in enumerate(sys.argv[1:])]
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 8 * READ_BYTES, used + 8 * READ_BYTES))
for one in messages:
    [batch] = batches_of(0, one.offset(), one.offset() + 1, [one])
    assert batch.records.to_pylist() == [{"value": one.value(), "timestamp": 5}]
    columns = Decoder(Vocabulary.load(None)).decode(batch.records)
    assert columns.faults[0][0] == "not_json"
    [(kept, size)] = columns.raw([0])
    assert size == len(one.value())
assert pa.default_memory_pool().max_memory() < READ_BYTES, pa.default_memory_pool().max_memory()
"""


def declaring(n: int) -> bytes:
    """A message one buffer of which claims to become n bytes."""
    data = bytearray(stream(events(3), "zstd"))
    # The event IDs: 24 bytes, before them that they are so many.
    at = data.index((24).to_bytes(8, "little", signed=True) + b"\x28\xb5\x2f\xfd")
    data[at : at + 8] = n.to_bytes(8, "little", signed=True)
    return bytes(data)


def test_a_small_message_that_becomes_gigabytes_is_one_record_of_its_bytes(tmp_path: Path) -> None:
    zeros = pa.record_batch([pa.array([bytes(1 << 29)], pa.large_binary())], names=["unknown"])
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1 << 20, np.int32)), pa.array(["x" * (1 << 20)]))
    paths = []
    for k, data in enumerate((stream(zeros, "zstd"), stream(pa.record_batch([text], names=["action"]), "zstd"), declaring(1 << 40))):
        assert len(data) < 200_000
        paths.append(tmp_path / str(k))
        paths[-1].write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, *map(str, paths)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_a_message_becomes_is_told_before_it_is_decompressed() -> None:
    for compression in (None, "lz4", "zstd"):
        for n in (1, 3, 5_000):
            batch = events(n)
            declared = uncompressed_bytes(stream(batch, compression))
            assert batch.get_total_buffer_size() <= declared < batch.get_total_buffer_size() + 1_000
    assert uncompressed_bytes(declaring(1 << 40)) > 1 << 40
    # All buffers of several batches: their sum has no place in 64 bits.
    for buffers, batches in ((9, 1), (1, 9), (3, 7), (16, 16)):
        numbers = pa.record_batch([pa.array(np.zeros(500, np.int64))] * buffers, names=[f"c{i}" for i in range(buffers)])
        sink, magic = pa.BufferOutputStream(), b"\x28\xb5\x2f\xfd"
        with pa.ipc.new_stream(sink, numbers.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            for _ in range(batches):
                writer.write_batch(numbers)
        every, changed = re.subn(b"(?s).{8}" + re.escape(magic), (1 << 61).to_bytes(8, "little") + magic, sink.getvalue().to_pybytes())
        assert changed == buffers * batches
        assert uncompressed_bytes(every) == 1 << 60
    for bad in (declaring(-2), b"\xff\xff\xff\xff", b"\xff\xff\xff\xff\x00\x10\x00\x00", stream(events(3))[:-60], b"nothing"):
        with pytest.raises(ValueError, match=r"stream|message|bytes|body|outside"):
            uncompressed_bytes(bad)


def _of_dictionaries(texts: list[list[str]], **options: object) -> bytes:
    """A stream of a batch of one record for each dictionary, that names the last of its texts."""
    schema = pa.schema([("timestamp", pa.int64()), ("topic", pa.dictionary(pa.int32(), pa.string()))])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd", **options)) as writer:  # type: ignore[arg-type]
        for one in texts:
            named = pa.DictionaryArray.from_arrays(pa.array([len(one) - 1], pa.int32()), pa.array(one, pa.string()))
            writer.write_batch(pa.record_batch([pa.array([1], pa.int64()), named], schema=schema))
    return sink.getvalue().to_pybytes()


def test_what_small_batches_make_together_is_bounded() -> None:
    half = ["x" * (READ_BYTES // 2)]
    [batch] = batches_of(0, 0, 1, [message(0, _of_dictionaries([half, half, half]))])
    assert batch.records.schema.names == ["value", "timestamp"]
    [batch] = batches_of(0, 0, 1, [message(0, _of_dictionaries([["a"], ["a"], ["a"]]))])
    assert batch.records.column("topic").to_pylist() == ["a"] * 3


def test_dictionaries_that_grow_and_older_versions_are_not_taken() -> None:
    growing = [[str(i) for i in range(n)] for n in range(1, 4)]
    for data, why in (
        (_of_dictionaries(growing, emit_dictionary_deltas=True), "adds to a dictionary"),
        (_of_dictionaries([["a"]], metadata_version=pa.ipc.MetadataVersion.V4), "version before 5"),
    ):
        with pytest.raises(ValueError, match=why):
            uncompressed_bytes(data)
        [batch] = batches_of(0, 0, 1, [message(0, data)])
        assert batch.records.column("value").to_pylist() == [data]


def test_a_read_ends_where_it_has_become_large(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [message(i, data) for i, data in enumerate([b"{}", *[stream(events(100), "zstd")] * 5, b"[]"])]
    whole = values(batches_of(0, 0, 9, messages))
    monkeypatch.setattr(flows.kafka_messages, "READ_BYTES", 2 * events(100).nbytes - 1)
    got, at = [], 0
    ends = []
    while at < 9:
        batches = batches_of(0, at, 9, [one for one in messages if one.offset() >= at])
        assert batches[0].first_offset == at
        got += values(batches)
        at = batches[-1].end_offset
        ends.append(at)
    assert got == whole
    assert ends == [3, 5, 9]


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
