"""Arrow messages with columns of any type: those that aren't plain tell only whether there is a value. Nothing fails or fills the memory.

Needs no broker.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pytest

from flows import kafka_messages
from flows.arrow_size import uncompressed_bytes
from flows.decode import Columns, Decoder
from flows.kafka_messages import batches_of
from flows.vocabulary import Vocabulary
from tests.kafka.test_messages import message, stream
from tests.processes import ROOT

N = 3
GOOD = {"event_id": [1, 2, 3], "user_id": [7, 8, 9], "pin_id": [1, 1, 1], "action": ["save"] * N, "event_time": [5, 6, 7]}
_ZEROS = pa.array([0, 0, 0], pa.int8())

ODD = {
    "unknown zone": pa.array([1, 2, 3], pa.timestamp("ms", tz="No/Where")),
    "odd zone": pa.array([1, 2, 3], pa.timestamp("ms", tz="+25:00")),
    "zone of seconds": pa.array([1, 2, 3], pa.timestamp("ms", tz="+00:00:30")),
    "zone in a list": pa.array([[1], [2], [3]], pa.list_(pa.timestamp("ms", tz="No/Where"))),
    "runs": pa.RunEndEncodedArray.from_arrays([3], [3]),
    "sparse union": pa.UnionArray.from_sparse(_ZEROS, [pa.array([1, 2, 3])]),
    "extension": pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{"] * N)),
    "list view": pa.array([[1], [2], [3]], pa.list_view(pa.int8())),
    "dictionary of lists": pa.DictionaryArray.from_arrays(_ZEROS, pa.array([[1, 2]])),
    "dictionary of fixed size": pa.DictionaryArray.from_arrays(_ZEROS, pa.array([b"ab"], pa.binary(2))),
    "list of nulls": pa.array([[None], [None], [None]], pa.list_(pa.null())),
    "list of shared texts": pa.array([["a"], ["a"], ["a"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
    "struct of nothing": pa.StructArray.from_arrays([], fields=[], mask=pa.array([False] * N))
    if hasattr(pa.StructArray, "from_arrays")
    else None,
    "interval": pa.array([(1, 2, 3)] * N, pa.month_day_nano_interval()),
}
ODD = {name: column for name, column in ODD.items() if column is not None and len(column) == N}


def decoded(batch: pa.RecordBatch, compression: str | None = None) -> Columns:
    """What becomes of a message, given twice, so that parts are joined."""
    batches = batches_of(0, 0, 2, [message(0, stream(batch, compression)), message(1, stream(batch, compression))])
    columns = Decoder(Vocabulary.load(None)).decode(*(one.records for one in batches))
    assert len(columns) == 2 * N
    columns.raw(range(2 * N))
    return columns


def reasons(columns: Columns) -> set[str]:
    return {reason for reason, _ in columns.faults.values()}


@pytest.mark.parametrize("compression", [None, "lz4"])
@pytest.mark.parametrize("kind", ODD)
def test_a_column_that_nobody_reads_harms_nothing(kind: str, compression: str | None) -> None:
    columns = decoded(pa.record_batch({**GOOD, "other": ODD[kind]}), compression)
    assert not columns.faults
    assert columns.user_id.tolist() == [7, 8, 9] * 2


PLAIN = {
    "half floats": pa.array(np.array([1, 2, np.nan], np.float16)),
    "decimals": pa.array([1, 2, None], pa.decimal128(5)),
    "maps": pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int64())),
    "structs": pa.array([{"a": 1}, {"a": None}, None]),
    "large lists": pa.array([[1], [], None], pa.large_list(pa.int8())),
    "fixed size": pa.array([b"ab", b"cd", None], pa.binary(2)),
    "durations": pa.array([2**62, 1, None], pa.duration("s")),
    "times": pa.array([1, 2, None], pa.time64("ns")),
    "days": pa.array([2**31 - 1, 0, None], pa.int32()).view(pa.date32()),
    "a known zone": pa.array([1, 2, 2**62], pa.timestamp("us", tz="Europe/Berlin")),
    "nothing": pa.nulls(N),
    "bytes": pa.array([b"\xff", b"", None], pa.large_binary()),
    "numbers of a dictionary": pa.array([1.5, 1.5, None]).dictionary_encode(),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_a_dead_letter_shows_any_plain_column(kind: str) -> None:
    columns = decoded(pa.record_batch({**GOOD, "event_time": [-1] * N, "other": PLAIN[kind]}))
    assert reasons(columns) == {"impossible_time"}
    shown = [orjson.loads(value).get("other") for value, _ in columns.raw(range(N))]
    # JSON has no number for what is no number.
    there = [True, True, False] if kind == "half floats" else PLAIN[kind].is_valid().to_pylist()
    assert [value is not None for value in shown] == there


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["user_id", "event_time", "topic", "action", "producer"])
def test_a_column_that_is_read_is_of_the_wrong_type(name: str, kind: str) -> None:
    columns = decoded(pa.record_batch({**GOOD, name: ODD[kind]}))
    assert reasons(columns) == {"wrong_type"}
    assert len(columns.faults) == 2 * N
    for value, _ in columns.raw(range(2 * N)):
        assert orjson.loads(value)["pin_id"] == 1


@pytest.mark.parametrize("kind", ODD)
def test_a_time_of_another_type_is_the_messages(kind: str) -> None:
    columns = decoded(pa.record_batch({**GOOD, "timestamp": ODD[kind]}))
    assert not columns.faults
    assert columns.timestamp.tolist() == [5] * 2 * N


@pytest.mark.parametrize("kind", [*ODD, "string view", "binary view"])
def test_a_value_of_another_type_is_no_json(kind: str) -> None:
    views = {"string view": pa.array(["[]"] * N, pa.string_view()), "binary view": pa.array([b"[]"] * N, pa.binary_view())}
    column = (ODD | views)[kind]
    columns = decoded(pa.record_batch({"value": column, "timestamp": pa.array([1, 2, 3])}))
    assert reasons(columns) == {"not_json"}


def test_views_of_texts_are_texts() -> None:
    texts = {"action": pa.array(["save"] * N, pa.string_view()), "topic": pa.array(["a", None, "b"], pa.string_view())}
    columns = decoded(pa.record_batch({**GOOD, **texts}))
    assert not columns.faults
    assert set(columns.topics.values()) == {"a", "b"}


@pytest.mark.parametrize("name", ["timestamp", "user_id", "other"])
def test_two_columns_of_one_name(name: str) -> None:
    batch = pa.record_batch({**GOOD, "timestamp": pa.array([1, 2, 3])})
    twice = pa.RecordBatch.from_arrays([*batch.columns, pa.array([4, 5, 6]), pa.array([4, 5, 6])], names=[*batch.schema.names, name, name])
    columns = decoded(twice)
    assert reasons(columns) == ({"missing_field"} if name == "user_id" else set())


def test_large_lists_are_only_said_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.arrow_types._MOST_NESTED_BYTES", 100)
    lists = pa.array([list(range(100))] * N)
    batch = pa.record_batch({**GOOD, "event_time": [-1] * N, "other": lists})
    for value, _ in decoded(batch).raw(range(N)):
        assert orjson.loads(value)["other"] is True


def test_shared_buffers_are_counted_for_each_that_shares_them() -> None:
    """Twelve columns of the same bytes, as a writer may lay them out."""
    column = pa.array(np.arange(1_000))
    data = bytearray(stream(pa.record_batch({"a": column, "b": column})))
    assert uncompressed_bytes(bytes(data)) == 2 * 8_000


def test_offsets_beyond_all_bounds() -> None:
    """Each eight bytes of a message in turn, as the largest number and others at the edges: it is its records, or its bytes."""
    whole = stream(pa.record_batch(GOOD), "lz4")
    for at in range(0, len(whole) - 8, 4):
        for number in (2**63 - 1, -(2**63), -1, 2**31):
            data = whole[:at] + number.to_bytes(8, "little", signed=True) + whole[at + 8 :]
            batches = batches_of(0, 0, 1, [message(0, data)])
            columns = Decoder(Vocabulary.load(None)).decode(*(one.records for one in batches))
            columns.raw(sorted(columns.faults))


_BOUNDED = """
import resource, sys
import numpy as np, pyarrow as pa
from tests.kafka.test_messages import message, stream
from flows.decode import Decoder
from flows.kafka_messages import batches_of
from flows.vocabulary import Vocabulary

n = 1 << 18
zeros = pa.array(np.zeros(n, np.int8))
made = {
    "fixed size": lambda: {"user_id": pa.DictionaryArray.from_arrays(zeros, pa.array([bytes(1 << 20)], pa.binary(1 << 20)))},
    "lists": lambda: {"user_id": pa.DictionaryArray.from_arrays(zeros, pa.array([[1] * 1_000_000, None], pa.list_(pa.int8())))},
    "nulls": lambda: {"a": pa.nulls(1 << 20)},
    "columns": lambda: {f"c{i}": pa.nulls(n) for i in range(400)},
}[sys.argv[1]]
data = stream(pa.record_batch(made()), "lz4")
assert len(data) < 200_000
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
batches = batches_of(0, 0, 4, [message(i, data) for i in range(4)])
columns = Decoder(Vocabulary.load(None), (0, 4)).decode(*(one.records for one in batches))
assert len(columns.raw(sorted(columns.faults))) == len(columns)
"""


@pytest.mark.parametrize("kind", ["fixed size", "lists", "nulls", "columns"])
def test_small_messages_do_not_fill_the_memory(kind: str, tmp_path: Path) -> None:
    script = tmp_path / "bounded.py"
    script.write_text(_BOUNDED)
    subprocess.run([sys.executable, str(script), kind], check=True, env={"PYTHONPATH": str(ROOT), "PATH": ""}, timeout=240)


def test_a_read_ends_with_the_message_in_which_it_has_many_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_messages, "_MOST_RECORDS", 2 * N)
    data = stream(pa.record_batch(GOOD))
    [*batches] = batches_of(0, 0, 4, [message(i, data) for i in range(4)])
    assert [(one.first_offset, one.end_offset) for one in batches] == [(0, 1), (1, 2)]
