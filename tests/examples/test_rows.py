"""Records of EXAMPLES keep every value on their way into a log and back."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from flows.errors import CorruptionError
from flows.examples.joining import joined, with_requests_in_order
from flows.examples.record import EXAMPLE_SCHEMA, HEADS, SEQUENCE_ENTRY
from flows.examples.rows import ExampleRows, UserFeatures, batch_of, rows_of


def made(seed: int, n: int, requests: int) -> ExampleRows:
    """Any rows; of user features, some of no action."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 5, requests)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    sequence = np.zeros(offsets[-1], SEQUENCE_ENTRY)
    for name in SEQUENCE_ENTRY.names:
        sequence[name] = rng.integers(0, 100, len(sequence))
    whole = {name: rng.integers(-(2**62), 2**62, n) for name in ("user_id", "pin_id")}
    times = {name: rng.integers(0, 2**45, n) for name in ("ready_time", "request_time", "impression_time")}
    maybe = {name: rng.integers(-1, 9, n) for name in ("base", "delta", "as_of")}
    return ExampleRows(
        **whole,
        **times,
        **maybe,
        kind=rng.integers(0, 3, n).astype(np.int8),
        request_id=pa.array([f"r{i}" for i in range(n)]),
        surface=rng.integers(-1, 6, n).astype(np.int16),
        slot=rng.integers(-1, 6, n).astype(np.int16),
        propensity=np.where(rng.random(n) < 0.3, np.nan, rng.random(n)).astype(np.float32),
        score=np.where(rng.random(n) < 0.3, np.nan, rng.random(n)).astype(np.float32),
        explored=rng.random(n) < 0.5,
        labels=rng.integers(-1, 2, (n, len(HEADS))).astype(np.int8),
        topic=rng.integers(-1, 2, n).astype(np.int32),
        topics=("a", "b"),
        fingerprint=np.zeros(n, np.int32),
        fingerprints=("f",),
        position=rng.integers(-1, 2, n).astype(np.int32),
        positions=(b"p", b"q"),
        pin_counters=rng.integers(0, 2**40, (n, 24)),
        request=rng.integers(0, requests, n).astype(np.int32),
        users=UserFeatures(rng.integers(0, 2**40, (requests, 24)), offsets, sequence),
    )


def values_of(rows: ExampleRows) -> dict[str, list]:
    """Row by row, with what it points at in its place."""
    out = {f.name: getattr(rows, f.name) for f in fields(rows)}
    users = out.pop("users")
    said = {code: out.pop(names) for code, names in (("topic", "topics"), ("fingerprint", "fingerprints"), ("position", "positions"))}
    out |= {name: [None if code < 0 else said[name][code] for code in out[name].tolist()] for name in said}
    spans = [(users.offsets[i], users.offsets[i + 1]) for i in out.pop("request").tolist()]
    out["counters"] = users.counters[rows.request].tolist()
    out["actions"] = [users.sequence[start:stop].tolist() for start, stop in spans]
    return {name: [repr(one) for one in (values.tolist() if hasattr(values, "tolist") else values)] for name, values in out.items()}


@pytest.mark.parametrize("seed", range(5))
def test_records_keep_every_value(seed: int) -> None:
    rows = made(seed, 40, 7)
    first, second = batch_of(rows.take(np.arange(25)), 0, 3, 0), batch_of(rows.take(np.arange(25, 40)), 0, 3, 25)
    back = rows_of([first, second], "log 'examples', partition 3")
    assert values_of(back) == values_of(rows)
    assert first.column("sequence").to_pylist() + second.column("sequence").to_pylist() == list(range(40))


def test_some_rows_have_their_own_user_features_alone() -> None:
    rows = made(1, 40, 7)
    mask = np.arange(40) % 9 == 2
    some = rows.take(mask)
    assert values_of(some) == {
        name: [one for one, kept in zip(values, mask, strict=True) if kept] for name, values in values_of(rows).items()
    }
    assert len(some.users) == len(set(rows.request[mask].tolist()))


def test_no_records_at_all() -> None:
    assert len(rows_of([], "nowhere")) == 0


def test_what_is_no_example_is_refused() -> None:
    with pytest.raises(CorruptionError, match="none of EXAMPLES'"):
        rows_of([pa.RecordBatch.from_pydict({"a": [1]})], "log 'examples', partition 0")
    short = pa.RecordBatch.from_pylist([{"user_features": b"123"}], EXAMPLE_SCHEMA)
    with pytest.raises(CorruptionError, match="as long as"):
        rows_of([short], "log 'examples', partition 0")
    none = pa.RecordBatch.from_pylist([{"user_features": None}], EXAMPLE_SCHEMA)
    batch = batch_of(made(1, 4, 2), 0, 0, 0)
    beyond = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 0], pa.int32()), batch.column("user_features").dictionary, safe=False)
    at = EXAMPLE_SCHEMA.get_field_index("user_features")
    columns = [*batch.columns[:at], beyond, *batch.columns[at + 1 :]]
    for records in (none, pa.RecordBatch.from_arrays(columns, schema=EXAMPLE_SCHEMA)):
        with pytest.raises(CorruptionError, match="has no user features"):
            rows_of([batch, records], "log 'examples', partition 0")


@pytest.mark.parametrize("seed", range(3))
def test_requests_in_order_say_the_same_however_rows_were_read(seed: int) -> None:
    rows = made(seed, 60, 12)
    rng = np.random.default_rng(seed)
    # Few users and times, so that some share both and not what was served of them.
    rows = replace(rows, user_id=rows.request.astype(np.int64) % 3, request_time=rng.integers(0, 2, 60))
    once = with_requests_in_order(rows)
    assert values_of(once) == values_of(rows)
    number: dict[tuple, int] = {}
    said = values_of(rows)
    for i, request in enumerate(once.request.tolist()):
        what = (said["user_id"][i], said["request_time"][i], said["counters"][i], said["actions"][i])
        assert number.setdefault(what, len(number)) == request
    assert len(number) == len(once.users) < 60
    for _ in range(5):
        cuts = [0, *np.sort(rng.integers(0, 61, 4)).tolist(), 60]
        parts = [rows.take(np.arange(low, high)) for low, high in pairwise(cuts)]
        again = with_requests_in_order(joined(parts))
        assert again.request.tolist() == once.request.tolist()
        for name in ("counters", "offsets", "sequence"):
            assert getattr(again.users, name).tobytes() == getattr(once.users, name).tobytes()
    assert len(with_requests_in_order(rows.take(np.arange(0)))) == 0
