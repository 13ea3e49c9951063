"""The compiled reader of JSON takes a record only as the reader that judges record by record would have it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows import decode_json
from flows.decode import Columns, Decoder
from flows.decode_json import JsonLane
from flows.events import MAX_EVENT_TIME, RAW_SCHEMA, hash_id
from flows.vocabulary import Vocabulary

VOCABULARY = Vocabulary()
WHOLE: dict[str, Any] = {"event_id": 1, "user_id": 2, "pin_id": 3, "action": "save", "surface": "search", "event_time": 5, "duration_ms": 7} | {
    "request_id": "r", "topic": "travel", "producer": "p", "schema_version": 1,
}  # fmt: skip
COLUMNS = ("event_id", "user_id", "pin_id", "action", "surface", "event_time", "duration_ms", "topic", "role", "bad", "request")


def raw(values: list[bytes | None], kind: pa.DataType | None = None) -> pa.RecordBatch:
    column = pa.array(values, kind or pa.binary())
    return pa.record_batch([column, pa.array(np.arange(len(values)))], names=RAW_SCHEMA.names)


class OneByOne(JsonLane):
    """Takes nothing, so that every record is judged by itself."""

    def take(self, values: pa.Array, columns: Any, request: Any = ()) -> np.ndarray:
        return np.ones(len(values), np.bool_)


def by_hand(values: list[bytes | None], monkeypatch: pytest.MonkeyPatch) -> Columns:
    with monkeypatch.context() as patched:
        patched.setattr("flows.decode.JsonLane", OneByOne)
        return Decoder(VOCABULARY, requests=True).decode(raw(values))


def taken(values: list[bytes | None]) -> list[bool]:
    """Which of them the compiled loop takes."""
    columns = [np.zeros(len(values), np.int64) for _ in range(8)]
    lane = JsonLane(VOCABULARY.actions, VOCABULARY.surfaces, hash_id)
    return (~lane.take(pa.array(values, pa.binary()), columns)).tolist()


def check(values: list[bytes | None]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        want = by_hand(values, monkeypatch)
    decoder = Decoder(VOCABULARY, requests=True)
    for _ in range(2):  # the second time every name is known
        got = decoder.decode(raw(values))
        for name in COLUMNS:
            assert getattr(got, name).tolist() == getattr(want, name).tolist(), name
        assert got.faults == want.faults
    assert {i: want.topics[i] for i in want.topic.tolist() if i} == {i: got.topics[i] for i in got.topic.tolist() if i}


PLAIN = [
    orjson.dumps(WHOLE),
    orjson.dumps(dict(reversed(WHOLE.items()))),
    orjson.dumps(WHOLE, option=orjson.OPT_INDENT_2),
    orjson.dumps({k: WHOLE[k] for k in ("event_id", "user_id", "pin_id", "action", "event_time")}),
    orjson.dumps(WHOLE | dict.fromkeys(("surface", "duration_ms", "request_id", "topic", "producer", "schema_version"))),
    orjson.dumps(WHOLE | {"user_id": "alice", "pin_id": "0b5e-77", "event_id": "12"}),
    orjson.dumps(WHOLE | {"topic": "旅行 ✈️", "producer": "é", "user_id": "żółw"}),
    orjson.dumps(WHOLE | {"more": None, "score": -0.25, "flag": True, "other": False, "n": -17, "text": "x"}),
    orjson.dumps(WHOLE | {"event_id": -(2**63), "user_id": 2**63 - 1, "pin_id": -(2**63) + 1, "event_time": MAX_EVENT_TIME}),
    b'{ "event_id":-0 ,"user_id" : 0,\t"pin_id":3,\r\n"action":"hide","event_time":0}  ',
    orjson.dumps(WHOLE | {"event_id": "9223372036854775807", "user_id": "-9223372036854775808", "pin_id": "-9223372036854775809"}),
    orjson.dumps(WHOLE | {"user_id": "-0", "pin_id": "", "event_id": "9223372036854775808"}),
    orjson.dumps(WHOLE | {"topic": ""}),
]


def test_what_is_plain_is_taken() -> None:
    assert taken(list(PLAIN)) == [True] * len(PLAIN)
    check(list(PLAIN))


ODD = [
    *(b'{"event_id":1,"user_id":2,"pin_id":3,"action":"save","event_time":5,' + tail for tail in (
        b'"user_id":9}', b'"x":{}}', b'"x":[1]}', b'"x":1e5}', b'"x":01}', b'"x":-}', b'"x":1.}', b'"x":.5}', b'"x":tru}', b'"x":nul}', b'"x":}',
        b'"x"}', b'x:1}', b'}', b',"x":1}', b'"x":1,}', b'"x":1}}', b'"x":1}{', b'"x":1', b'"x":"', b'"x":"\\n"}', b'"x":"\n"}', b'"x":"\x7f"}',
        b'"x":"\xc0\x80"}', b'"x":"\xed\xa0\x80"}', b'"x":"\xf4\x90\x80\x80"}', b'"x":"\xe0\x80\x80"}', b'"x":"\xf0\x8f\xbf\xbf"}', b'"x":"\xc3"}',
        b'"x":"\xf4\x8f\xbf\xbf\xee\x80\x80"}', b'"\\u0075ser_id":9}', b'"topic":"a\\u0062"}', b'"topic":7}', b'"surface":"moon"}',
        b'"x":' + b"9" * 400 + b"}",
        b'"x":0.' + b"1" * 400 + b"}", b'"duration_ms":1.0}', b'"duration_ms":-1}', b'"duration_ms":"1"}', b'"schema_version":2}',
        b'"schema_version":"1"}',
        b'"x":NaN}', b'"x":+1}', b'"x":-0}', b'"x":-0.0}', b'"x":00}', b'"":1}', b'"x":1;}', b'"x" 1}', b"\"x':1}", b'"topic":"' + b"t" * 300 + b'"}',
        b'"event_time":5}', b'"request_id":1}', b'"producer":{}}',
    )),
    b"", b"{}", b"{ }", b"{", b" ", b"[]", b"null", b"\xef\xbb\xbf{}", None,
    orjson.dumps(WHOLE | {"event_id": 2**63}), orjson.dumps(WHOLE).replace(b":2,", b":-9223372036854775809,"),
    orjson.dumps(WHOLE).replace(b":2,", b":18446744073709551616,"), orjson.dumps(WHOLE).replace(b":2,", b":9223372036854775810,"),
    orjson.dumps(WHOLE | {"user_id": None}), orjson.dumps(WHOLE | {"user_id": True}), orjson.dumps(WHOLE | {"user_id": 2.0}),
    orjson.dumps(WHOLE | {"action": None}), orjson.dumps(WHOLE | {"action": "Save"}), orjson.dumps(WHOLE | {"action": ["save"]}),
    orjson.dumps(WHOLE | {"event_time": -1}), orjson.dumps(WHOLE | {"event_time": MAX_EVENT_TIME + 1}), orjson.dumps(WHOLE | {"event_time": "5"}),
    b" " * 65_536 + orjson.dumps(WHOLE),
]  # fmt: skip


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_what_is_odd_is_judged_as_by_hand(value: bytes | None) -> None:
    check([PLAIN[0], value, PLAIN[1]])


@pytest.mark.parametrize("cut", range(len(PLAIN[0])))
def test_a_record_that_ends_too_early(cut: int) -> None:
    """Its neighbour's bytes lie right behind it."""
    check([PLAIN[0][:cut], PLAIN[0][cut:], PLAIN[0]])


PIECES = [
    b"{",
    b"}",
    b'"',
    b",",
    b":",
    b"\\",
    b" ",
    b"0",
    b"-",
    b".",
    b"e",
    b"null",
    b"\xc3",
    b"\xa9",
    b"\x00",
    b'"user_id"',
    b'"topic":"x",',
]


@given(st.integers(0, 2**32))
def test_any_change_of_a_few_bytes(seed: int) -> None:
    chosen = random.Random(seed)
    values: list[bytes | None] = []
    for _ in range(20):
        value = bytearray(chosen.choice(PLAIN))
        for _ in range(chosen.choice((1, 1, 1, 2, 3))):
            at = chosen.randrange(len(value) + 1)
            upto = min(len(value), at + chosen.choice((0, 0, 1, 1, 2)))
            value[at:upto] = chosen.choice((b"", chosen.choice(PIECES), bytes([chosen.randrange(256)])))
        values.append(bytes(value))
    check(values)


def test_slices_and_texts() -> None:
    values = [*PLAIN, None, b"x"] * 3
    decoder = Decoder(VOCABULARY)
    whole = decoder.decode(raw(values))
    for start, stop in ((0, 0), (3, 9), (11, 15), (5, len(values))):
        part = decoder.decode(raw(values).slice(start, stop - start))
        assert part.user_id.tolist() == whole.user_id.tolist()[start:stop]
        assert sorted(part.faults) == [i - start for i in sorted(whole.faults) if start <= i < stop]
    assert decoder.decode(raw(list(PLAIN), pa.string())).pin_id.tolist() == whole.pin_id.tolist()[: len(PLAIN)]
    # A null's bytes are not its value.
    hidden = pa.Array.from_buffers(
        pa.binary(), 1, [pa.py_buffer(b"\x00"), pa.py_buffer(np.array([0, len(PLAIN[0])], np.int32)), pa.py_buffer(PLAIN[0])]
    )
    columns = decoder.decode(pa.record_batch([hidden, pa.array([1])], names=RAW_SCHEMA.names))
    assert columns.faults[0][0] == "not_json"


def test_names_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of names that is full takes no more; their records are read by hand."""
    monkeypatch.setattr(decode_json, "_MOST_NAMES", 40)
    values: list[bytes | None] = [orjson.dumps(WHOLE | {"topic": f"t{i % 90}"}) for i in range(300)]
    check(values)
    assert 0 < sum(taken(values)) < 300


def test_more_names_than_the_table_began_with() -> None:
    values: list[bytes | None] = [orjson.dumps(WHOLE | {"topic": f"t{i}"}) for i in range(3_000)]
    assert all(taken(values))
    check(values)
