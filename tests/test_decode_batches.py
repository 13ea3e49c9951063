"""Several batches decoded at once, and what a dead letter shows of a record."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.decode import Decoder
from flows.events import MAX_RAW_BYTES
from tests.decoding import EVENTS, FAULTS, GOOD, VOCABULARY, WHOLE, decode, one, raw, reasons, rows, typed


@pytest.mark.parametrize("name", ["action", "surface", "topic", "request_id", "producer"])
def test_small_batches_with_null_in_a_dictionary(name: str) -> None:
    """Which Arrow can't join: each is then looked at by itself."""
    batch = typed(WHOLE, WHOLE)
    nulls = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int32()), pa.array([None, WHOLE.get(name) or "x"]))
    at = batch.schema.get_field_index(name)
    batch = batch.set_column(at, batch.schema.field(at), nulls.cast(batch.schema.field(at).type))
    together, alone = decode(batch, batch), decode(batch)
    assert reasons(together) == {**reasons(alone), **{2 + i: reason for i, reason in reasons(alone).items()}}
    assert together.user_id.tolist() == alone.user_id.tolist() * 2


def test_batches_in_one() -> None:
    batches = [raw(GOOD, b"x"), typed(WHOLE, GOOD | {"action": "flub"}, GOOD), typed(WHOLE), raw(), typed(), raw(b"y")]
    parts = [decode(b) for b in batches]
    columns = decode(*batches)
    assert reasons(columns) == {1: "not_json", 3: "unknown_action", 6: "not_json"}
    assert rows(columns) == [row for part in parts for row in rows(part)]
    assert columns.role.tolist() == [role for part in parts for role in part.role.tolist()]
    assert [value for value, _ in columns.raw([0, 1, 6])] == [orjson.dumps(GOOD), b"x", b"y"]
    assert orjson.loads(columns.raw([3])[0][0]) == GOOD | {"action": "flub"}
    assert len(decode()) == 0


@given(
    st.lists(EVENTS | st.sampled_from([GOOD | fault for name, fault in FAULTS.items() if name != "wrong_type"]), min_size=1, max_size=8),
    st.data(),
)
def test_small_batches_that_are_joined_give_the_same(events: list[dict[str, Any]], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(events)))) | {0, len(events)})
    parts = [typed(*events[a:b]) for a, b in itertools.pairwise(cuts)]
    joined, alone = Decoder(VOCABULARY), Decoder(VOCABULARY)
    columns, ones = joined.decode(*parts), [alone.decode(part) for part in parts]
    assert columns.faults == {cut + i: fault for cut, one in zip(cuts, ones, strict=False) for i, fault in one.faults.items()}
    assert rows(columns) == [row for one in ones for row in rows(one)]
    assert columns.raw(range(len(events))) == [value for one in ones for value in one.raw(range(len(one)))]
    assert joined.topics == alone.topics


def test_a_dead_letter_shows_the_record() -> None:
    columns = decode(typed(WHOLE | {"duration_ms": -4}))
    assert orjson.loads(columns.raw([0])[0][0]) == WHOLE | {"duration_ms": -4}
    assert columns.faults == {0: ("negative_duration", "-4")}


def test_of_a_large_record_the_start_is_kept() -> None:
    """Whatever made it large: a letter must have room in its log."""
    huge, bad = "x" * 5_000_000, GOOD | {"action": "flub"}
    for batch, whole in (
        (raw(bad | {"unknown": huge}), orjson.dumps(bad | {"unknown": huge})),
        (raw(b"[" + b"1" * 5_000_000), b"[" + b"1" * 5_000_000),
        (typed(GOOD | {"producer": huge}), None),
        (one("producer", pa.array([huge], pa.large_string())), None),
        (one("topic", pa.array([[huge]])), None),
    ):
        [(kept, size)] = decode(batch).raw([0])
        assert len(kept) == MAX_RAW_BYTES
        assert (kept, size) == (whole[:MAX_RAW_BYTES], len(whole)) if whole is not None else size > 5_000_000
        assert kept.startswith(b"{" if whole is None else whole[:1])


@pytest.mark.parametrize(("values", "kind"), [(128, pa.int8()), (256, pa.uint8()), (32_768, pa.int16())])
def test_a_dead_letter_beside_a_dictionary_as_large_as_its_codes_allow(values: int, kind: pa.DataType) -> None:
    topics = pa.DictionaryArray.from_arrays(pa.array([1, None], kind), pa.array([f"t{i}" for i in range(values)]))
    columns = decode(typed(GOOD, GOOD).set_column(typed(GOOD).schema.get_field_index("topic"), "topic", topics).drop_columns(["pin_id"]))
    assert reasons(columns) == {0: "missing_field", 1: "missing_field"}
    assert [orjson.loads(value).get("topic") for value, _ in columns.raw([0, 1])] == ["t1", None]
