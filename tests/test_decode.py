"""A record is judged well-formed in one place: every reason, in its order, the same on both lanes; and decoding never raises."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.decode import Decoder
from flows.decode_values import REASONS
from flows.events import EVENT_SCHEMA, MAX_EVENT_TIME, MAX_RAW_BYTES, hash_id
from tests.decoding import EVENTS, FAULTS, GOOD, VOCABULARY, WHOLE, decode, one, raw, reasons, rows, typed
from tests.oracles.partition import partition_of

# What is well-formed ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lane", [raw, typed])
def test_a_whole_record(lane: Any) -> None:
    columns = decode(lane(WHOLE))
    assert reasons(columns) == {}
    assert rows(columns) == [(1, 2, 3, VOCABULARY.actions["save"], VOCABULARY.surfaces["search"], 5, 7, hash_id("travel"), 0)]
    assert (columns.action.dtype, columns.surface.dtype, columns.topic.dtype) == (np.int16, np.int16, np.int64)


@pytest.mark.parametrize("lane", [raw, typed])
@pytest.mark.parametrize(
    "absent", [GOOD, WHOLE | dict.fromkeys(("surface", "duration_ms", "topic", "request_id", "producer", "schema_version"))]
)
def test_what_may_be_absent_or_null(lane: Any, absent: dict[str, Any]) -> None:
    assert rows(decode(lane(absent))) == [(1, 2, 3, VOCABULARY.actions["save"], VOCABULARY.surfaces["other"], 5, 0, 0, 0)]


def test_a_typed_batch_may_lack_what_is_optional() -> None:
    batch = typed(GOOD).select([*GOOD, "timestamp"])
    assert rows(decode(batch)) == rows(decode(typed(GOOD)))


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("3", 3), ("-0", 0), ("3.0", 3), ("1e3", 1000), ("-0.0", 0),
        ("9223372036854775807", 2**63 - 1), ("-9223372036854775808", -(2**63)),
        ("9007199254740991.0", 2**53 - 1), ('"12"', 12), ('"-9223372036854775808"', -(2**63)),
        ('"007"', hash_id("007")), ('"alice"', hash_id("alice")),
        ('"9223372036854775808"', hash_id("9223372036854775808")), ('""', hash_id("")), ('"\\ud83d\\ude00"', hash_id("😀")),
    ],
)  # fmt: skip
def test_numbers_and_ids_that_are_taken(written: str, value: int) -> None:
    columns = decode(raw(b'{"event_id":1,"user_id":%s,"pin_id":3,"action":"save","event_time":5}' % written.encode()))
    assert reasons(columns) == {}
    assert columns.user_id.tolist() == [value]


def test_the_last_of_equal_keys_counts() -> None:
    columns = decode(raw(b'{"event_id":1,"user_id":"x","user_id":2,"pin_id":3,"action":"flub","action":"save","event_time":5}'))
    assert rows(columns) == rows(decode(raw(GOOD)))


@pytest.mark.parametrize("spaces", [b" %s", b"%s\n", b"\t%s \r\n"])
def test_white_space_around_an_object(spaces: bytes) -> None:
    assert reasons(decode(raw(spaces % orjson.dumps(GOOD), GOOD))) == {}


# Every reason ----------------------------------------------------------------------------------------------------------------------------

BOTH_LANES = [
    ("missing_field", {"event_id": None}),
    ("missing_field", {"user_id": None}),
    ("missing_field", {"pin_id": None}),
    ("missing_field", {"action": None}),
    ("missing_field", {"event_time": None}),
    ("unknown_action", {"action": "flub"}),
    ("unknown_action", {"action": ""}),
    ("unknown_action", {"action": "Save"}),
    ("unknown_surface", {"surface": "moon"}),
    ("unknown_surface", {"surface": ""}),
    ("impossible_time", {"event_time": -1}),
    ("impossible_time", {"event_time": MAX_EVENT_TIME + 1}),
    ("impossible_time", {"event_time": 2**63 - 1}),
    ("negative_duration", {"duration_ms": -1}),
    ("unknown_schema_version", {"schema_version": 0}),
    ("unknown_schema_version", {"schema_version": 2}),
    ("unknown_schema_version", {"schema_version": -1}),
    (None, {"event_time": 0}),
    (None, {"event_time": MAX_EVENT_TIME}),
    (None, {"event_id": -(2**63), "user_id": 2**63 - 1, "pin_id": 0}),
]  # fmt: skip


@pytest.mark.parametrize("lane", [raw, typed])
@pytest.mark.parametrize(("reason", "change"), BOTH_LANES)
def test_a_reason_on_both_lanes(lane: Any, reason: str | None, change: dict[str, Any]) -> None:
    columns = decode(lane(GOOD | change))
    assert reasons(columns) == ({} if reason is None else {0: reason})
    if reason is not None:
        assert rows(columns) == [(*[0] * 8, 1)], "nothing of a bad record is left"


NOT_JSON = [
    b"", b"no json", b"[1]", b"1", b"null", b'"x"', b"{", b"{}}", b"{},{}", b'{"a":[1', b"2]}", b"{}," + b"1," + b"{}", b"\xff", b'{"a":"\xff"}',
    b'{"a":NaN}', b'{"a":Infinity}', b"{'a':1}", b'{"a":1,}', b"\xef\xbb\xbf{}", b'{"a":"\\ud800"}', b"{}\x00", b"[" * 5_000 + b"]" * 5_000,
    b'{"a":' * 5_000 + b"1" + b"}" * 5_000, None,
]  # fmt: skip


@pytest.mark.parametrize("value", NOT_JSON, ids=range(len(NOT_JSON)))
def test_not_json(value: bytes | None) -> None:
    columns = decode(raw(GOOD, value, GOOD))
    assert reasons(columns) == {1: "not_json"}
    assert rows(columns, [0, 2]) == rows(decode(raw(GOOD, GOOD)))
    assert columns.raw([1])[0][0] == (value or b"")


@pytest.mark.parametrize("values", [(b"{},{}",), (b'{"a":[1', b"2]}"), (b"{}", b"{},{}", b"{}"), (b'{"a":"', b'"}'), (b"[", b"]")])
def test_values_that_would_only_together_be_json(values: tuple[bytes, ...]) -> None:
    """Values are parsed in one call: none may pass for another number of objects, or reach over into the next."""
    assert reasons(decode(raw(*values))) == {i: "missing_field" if v == b"{}" else "not_json" for i, v in enumerate(values)}


def test_oversize() -> None:
    fits = b" " * (MAX_RAW_BYTES - len(orjson.dumps(GOOD))) + orjson.dumps(GOOD)
    large = orjson.dumps(GOOD | FAULTS["missing_field"] | {"topic": "x" * MAX_RAW_BYTES})
    assert reasons(decode(raw(fits, fits + b" ", large))) == {1: "oversize", 2: "oversize"}
    assert reasons(decode(raw(fits, b"x" * (MAX_RAW_BYTES + 1)))) == {1: "not_json"}, "of several reasons the first"
    long = WHOLE | {"topic": "x" * (MAX_RAW_BYTES + 1)}
    assert reasons(decode(typed(WHOLE, long))) == {1: "oversize"}


WRONG_JSON = ['"5"', "true", "false", "1.5", "1e400", "-1e-5", "9223372036854775808", "-9223372036854775809", "18446744073709551616", "1e19",
              "9007199254740993.0", "[]", "{}"]  # fmt: skip


@pytest.mark.parametrize("name", ["event_time", "duration_ms", "schema_version"])
@pytest.mark.parametrize("written", WRONG_JSON)
def test_wrong_types_of_numbers(name: str, written: str) -> None:
    fields = {k: orjson.dumps(v) for k, v in GOOD.items()} | {name: written.encode()}
    value = b"{" + b",".join(b'"%s":%s' % (k.encode(), v) for k, v in fields.items()) + b"}"
    got = reasons(decode(raw(value)))
    assert got in ({0: "wrong_type"}, {0: "not_json"})  # 1e400 is no number that JSON's readers agree on
    assert written == "1e400" or got == {0: "wrong_type"}


@pytest.mark.parametrize("name", ["action", "surface", "request_id", "topic", "producer"])
@pytest.mark.parametrize("value", [7, True, 1.5, [], {}, ["save"]])
def test_wrong_types_of_texts(name: str, value: object) -> None:
    assert reasons(decode(raw(GOOD | {name: value}))) == {0: "wrong_type"}


def test_true_is_not_1() -> None:
    """Python says that True == 1; the contract doesn't."""
    assert reasons(decode(raw(*(GOOD | {name: True} for name in ("event_id", "user_id", "pin_id"))))) == dict.fromkeys(
        range(3), "wrong_type"
    )
    for name in ("user_id", "event_time", "duration_ms", "schema_version"):
        assert reasons(decode(one(name, pa.array([True])))) == {0: "wrong_type"}


# Of several reasons the first ------------------------------------------------------------------------------------------------------------


def test_the_reasons_are_those_of_the_contract() -> None:
    assert [r for r in REASONS if r in FAULTS] == list(FAULTS)
    assert set(REASONS) - set(FAULTS) == {"not_json", "oversize", "wrong_partition", "future_time"}


@given(st.sets(st.sampled_from(list(FAULTS)), min_size=1))
def test_of_several_reasons_the_first_applies(chosen: set[str]) -> None:
    record: dict[str, Any] = dict(GOOD)
    for name in chosen:
        record |= FAULTS[name]
    want = {0: next(name for name in FAULTS if name in chosen)}
    assert reasons(decode(raw(record))) == want
    if "wrong_type" not in chosen:
        assert reasons(decode(typed(record))) == want
    else:
        assert reasons(decode(typed(record, topic=pa.int64()))) == want


# Other types in an Arrow batch -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("user_id", pa.array([7], pa.int32()), 7),
        ("user_id", pa.array([2**63 - 1], pa.uint64()), 2**63 - 1),
        ("user_id", pa.array(["7"]), 7),
        ("user_id", pa.array(["alice"], pa.large_string()), hash_id("alice")),
        ("user_id", pa.array(["alice"]).dictionary_encode(), hash_id("alice")),
        ("user_id", pa.array([7.0]), 7),
        ("event_time", pa.array([7], pa.int16()), 7),
        ("duration_ms", pa.array([7], pa.uint8()), 7),
        ("schema_version", pa.array([1], pa.int64()), None),
        ("action", pa.array(["closeup"]), VOCABULARY.actions["closeup"]),
        ("action", pa.array(["closeup"], pa.large_string()), VOCABULARY.actions["closeup"]),
        ("surface", pa.array(["search"], pa.string_view()), VOCABULARY.surfaces["search"]),
        ("surface", pa.array(["search"], pa.large_string()).dictionary_encode(), VOCABULARY.surfaces["search"]),
        ("surface", pa.DictionaryArray.from_arrays(pa.array([0]), pa.array([None], pa.string())), VOCABULARY.surfaces["other"]),
        ("surface", pa.nulls(1), VOCABULARY.surfaces["other"]),
        ("topic", pa.DictionaryArray.from_arrays(pa.array([None], pa.int8()), pa.array([str(i) for i in range(128)])), 0),
        ("topic", pa.DictionaryArray.from_arrays(pa.array([1], pa.uint8()), pa.array(["a", "b", "a"])), hash_id("b")),
    ],
)  # fmt: skip
def test_other_types_with_the_same_meaning(name: str, column: pa.Array, value: int | None) -> None:
    columns = decode(one(name, column))
    assert reasons(columns) == {}
    if value is not None:
        assert getattr(columns, name).tolist() == [value]


NOT_UTF8 = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 1], np.int32).tobytes()), pa.py_buffer(b"\xff"))


@pytest.mark.parametrize(
    ("name", "column", "reason"),
    [
        ("user_id", pa.array([2**63], pa.uint64()), "wrong_type"),
        ("user_id", pa.array([b"7"]), "wrong_type"),
        ("user_id", pa.array([[7]]), "wrong_type"),
        ("user_id", pa.array([float("nan")]), "wrong_type"),
        ("user_id", pa.nulls(1), "missing_field"),
        ("event_time", pa.array(["7"]), "wrong_type"),
        ("event_time", pa.array([7], pa.timestamp("ms")), "wrong_type"),
        ("event_time", pa.array([2**62], pa.timestamp("ms")), "wrong_type"),
        ("event_time", pa.array([-(2**62)], pa.date64()), "wrong_type"),
        ("action", pa.array([4]), "wrong_type"),
        ("action", pa.array([4]).dictionary_encode(), "wrong_type"),
        ("action", pa.DictionaryArray.from_arrays(pa.array([0]), pa.array([None], pa.string())), "missing_field"),
        ("topic", pa.array([4]).dictionary_encode(), "wrong_type"),
        ("topic", NOT_UTF8, "wrong_type"),
        ("topic", NOT_UTF8.dictionary_encode(), "wrong_type"),
        ("request_id", pa.array([4]), "wrong_type"),
        ("producer", pa.array([4]).dictionary_encode(), "wrong_type"),
        ("schema_version", pa.array([70_000], pa.int64()), "unknown_schema_version"),
    ],
)  # fmt: skip
def test_other_types_with_another_meaning(name: str, column: pa.Array, reason: str) -> None:
    columns = decode(one(name, column))
    assert reasons(columns) == {0: reason}
    assert type(orjson.loads(columns.raw([0])[0][0])) is dict, "a dead letter can be written"


@pytest.mark.parametrize("name", GOOD)
def test_a_batch_without_a_required_column(name: str) -> None:
    batch = typed(GOOD, GOOD)
    batch = batch.select([n for n in batch.schema.names if n != name])
    assert reasons(decode(batch)) == {0: "missing_field", 1: "missing_field"}


def test_a_batch_of_something_else() -> None:
    assert reasons(decode(pa.RecordBatch.from_pydict({"a": [1], "timestamp": [2]}))) == {0: "missing_field"}
    assert reasons(decode(typed(GOOD).select(list(GOOD)))) == {}
    twice = pa.RecordBatch.from_arrays([*typed(GOOD).columns, pa.array([9])], names=[*EVENT_SCHEMA.names, "user_id"])
    assert reasons(decode(twice)) == {0: "missing_field"}
    texts = pa.RecordBatch.from_pydict({"value": [orjson.dumps(GOOD).decode()], "timestamp": [2]})
    assert reasons(decode(texts)) == {}


# One bad record changes nothing else -----------------------------------------------------------------------------------------------------


@given(st.lists(EVENTS, min_size=1, max_size=8))
def test_both_lanes_give_the_same(events: list[dict[str, Any]]) -> None:
    from_json, from_columns = Decoder(VOCABULARY), Decoder(VOCABULARY)
    one, other = from_json.decode(raw(*events)), from_columns.decode(typed(*events))
    assert reasons(one) == reasons(other) == {}
    assert rows(one) == rows(other)
    assert one.timestamp.tolist() == other.timestamp.tolist() == list(range(len(events)))
    assert from_json.topics == from_columns.topics
    assert one.role.tolist() == other.role.tolist()


@given(st.lists(EVENTS, min_size=1, max_size=6), st.data())
def test_bad_records_leave_the_good_ones_as_they_are(events: list[dict[str, Any]], data: st.DataObject) -> None:
    alone = rows(decode(raw(*events)))
    mixed: list[Any] = list(events)
    for value in data.draw(st.lists(st.sampled_from(NOT_JSON) | st.binary(max_size=20), min_size=1, max_size=3)):
        mixed.insert(data.draw(st.integers(0, len(mixed))), value)
    good = [i for i, v in enumerate(mixed) if isinstance(v, dict)]
    columns = decode(raw(*mixed))
    assert rows(columns, good) == alone
    assert not columns.bad[good].any()


@given(st.lists(EVENTS, min_size=1, max_size=6), st.sampled_from(list(FAULTS)), st.data())
def test_bad_rows_leave_the_good_ones_as_they_are(events: list[dict[str, Any]], fault: str, data: st.DataObject) -> None:
    alone = rows(decode(typed(*events)))
    at = data.draw(st.integers(0, len(events)))
    change = {"user_id": None} if fault == "wrong_type" else FAULTS[fault]
    columns = decode(typed(*events[:at], GOOD | change, *events[at:]))
    assert list(reasons(columns)) == [at]
    assert rows(columns, [i for i in range(len(events) + 1) if i != at]) == alone


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)
ANYTHING = st.dictionaries(st.sampled_from(EVENT_SCHEMA.names), JSON, max_size=11).map(
    lambda changes: orjson.dumps(GOOD | {k: v for k, v in changes.items() if not (type(v) is int and not -(2**63) <= v < 2**64)})
    if all(_plain(v) for v in changes.values()) else b"{"
)  # fmt: skip


def _plain(value: object) -> bool:
    """Whether orjson writes it."""
    try:
        orjson.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


@given(st.lists(ANYTHING | st.binary(max_size=30) | st.none(), max_size=6))
def test_decoding_json_never_raises(values: list[bytes | None]) -> None:
    columns = decode(raw(*values))
    for i in range(len(values)):
        reason = columns.faults.get(i, (None,))[0]
        assert reason is None or reason in REASONS
        # A value is judged alone, whatever its neighbours.
        assert decode(raw(values[i])).faults.get(0, (None,))[0] == reason
        assert columns.raw([i])[0][0] == (values[i] or b"")


TYPES = [
    pa.int64(),
    pa.int32(),
    pa.float64(),
    pa.bool_(),
    pa.string(),
    pa.large_string(),
    pa.timestamp("s"),
    pa.date32(),
    pa.binary(),
    pa.null(),
]


@given(st.data())
def test_decoding_columns_of_any_type_never_raises(data: st.DataObject) -> None:
    n = data.draw(st.integers(0, 4))
    columns = {}
    for name in data.draw(st.lists(st.sampled_from(EVENT_SCHEMA.names), unique=True)):
        kind = data.draw(st.sampled_from(TYPES))
        if pa.types.is_null(kind):
            array = pa.nulls(n)
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
            array = pa.array(data.draw(st.lists(st.none() | st.binary(max_size=3), min_size=n, max_size=n)), pa.binary())
            array = (
                array
                if pa.types.is_binary(kind)
                else array.cast(pa.large_binary()).view(kind)
                if kind == pa.large_string()
                else array.view(kind)
            )
        elif pa.types.is_floating(kind):
            array = pa.array(data.draw(st.lists(st.none() | st.floats(), min_size=n, max_size=n)), kind)
        elif pa.types.is_boolean(kind):
            array = pa.array(data.draw(st.lists(st.none() | st.booleans(), min_size=n, max_size=n)), kind)
        else:
            bits = 32 if kind in (pa.int32(), pa.date32()) else 64
            numbers = st.none() | st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            whole = pa.array(data.draw(st.lists(numbers, min_size=n, max_size=n)), pa.int32() if bits == 32 else pa.int64())
            array = whole.view(kind)
        if data.draw(st.booleans()) and kind != pa.null():
            array = array.dictionary_encode()
        columns[name] = array
    if not columns:
        return
    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    decoded = decode(batch)
    assert len(decoded) == n
    for i in reasons(decoded):
        assert type(orjson.loads(decoded.raw([i])[0][0])) is dict


# Where a record lies ---------------------------------------------------------------------------------------------------------------------


def test_a_user_of_another_partition_is_not_taken() -> None:
    users = [2, 7, 0, -3, 17850, 2**63 - 1, -(2**63), 10**12]
    records = [GOOD | {"event_id": i, "user_id": user} for i, user in enumerate(users)]
    homes = [partition_of(user, 3) for user in users]
    assert len(set(homes)) == 3
    odd = (raw(*records), typed(*records), typed(*records, pin_id=pa.int32()), raw(*({**r, "user_id": str(r["user_id"])} for r in records)))
    for partition in range(3):
        columns = Decoder(VOCABULARY, (partition, 3)).decode(*odd)
        wrong = [i for i, home in enumerate(homes * 4) if home != partition]
        assert reasons(columns) == dict.fromkeys(wrong, "wrong_partition")
        assert rows(columns, wrong) == [(0, 0, 0, 0, 0, 0, 0, 0, 1)] * len(wrong)
        assert columns.user_id[~columns.bad].tolist() == [user for user, home in zip(users, homes, strict=True) if home == partition] * 4
        for i in wrong:
            detail = f"user {users[i % 8]} belongs in partition {homes[i % 8]}, the record is in partition {partition}"
            assert columns.faults[i][1] == detail
            assert int(orjson.loads(columns.raw([i])[0][0])["user_id"]) == users[i % 8]


def test_a_bad_record_of_another_partition_keeps_its_reason() -> None:
    for home in ((0, 2), (1, 2)):
        columns = Decoder(VOCABULARY, home).decode(raw(b"x", *(GOOD | changed for changed in FAULTS.values())))
        assert list(reasons(columns).values()) == ["not_json", *FAULTS]
