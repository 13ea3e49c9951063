"""Records as batches of both lanes, and what the decoder made of them, as tests compare it."""

from __future__ import annotations

from typing import Any

import orjson
import pyarrow as pa
from hypothesis import strategies as st

from flows.decode import Columns, Decoder
from flows.events import EVENT_SCHEMA, MAX_EVENT_TIME, RAW_SCHEMA
from flows.vocabulary import Vocabulary

VOCABULARY = Vocabulary()

GOOD = {"event_id": 1, "user_id": 2, "pin_id": 3, "action": "save", "event_time": 5}

NUMBERS = ("event_id", "user_id", "pin_id", "action", "surface", "event_time", "duration_ms", "topic", "timestamp", "bad")


def raw(*values: bytes | dict[str, Any] | None) -> pa.RecordBatch:
    """A batch of the JSON lane."""
    written = [orjson.dumps(v) if isinstance(v, dict) else v for v in values]
    return pa.RecordBatch.from_arrays([pa.array(written, pa.binary()), pa.array(range(len(values)), pa.int64())], schema=RAW_SCHEMA)


def typed(*records: dict[str, Any], **types: pa.DataType) -> pa.RecordBatch:
    """A batch of the typed lane; a column has the contract's type unless another is named."""
    arrays = []
    for field in EVENT_SCHEMA:
        values = [i if field.name == "timestamp" else r.get(field.name) for i, r in enumerate(records)]
        kind = types.get(field.name, field.type)
        if pa.types.is_dictionary(kind):
            arrays.append(pa.array(values, kind.value_type).dictionary_encode().cast(kind))
        else:
            arrays.append(pa.array(values, kind))
    return pa.RecordBatch.from_arrays(arrays, names=EVENT_SCHEMA.names)


def one(name: str, column: pa.Array) -> pa.RecordBatch:
    """One good record, with another column in one place."""
    batch = typed(GOOD)
    at = batch.schema.get_field_index(name)
    return pa.RecordBatch.from_arrays([column if i == at else c for i, c in enumerate(batch.columns)], names=batch.schema.names)


def decode(*batches: pa.RecordBatch) -> Columns:
    return Decoder(VOCABULARY).decode(*batches)


def reasons(columns: Columns) -> dict[int, str]:
    assert columns.bad.tolist() == [i in columns.faults for i in range(len(columns))]
    return {i: reason for i, (reason, _) in sorted(columns.faults.items())}


def rows(columns: Columns, chosen: list[int] | None = None) -> list[tuple[int, ...]]:
    picked = range(len(columns)) if chosen is None else chosen
    return [tuple(int(getattr(columns, name)[i]) for name in NUMBERS if name != "timestamp") for i in picked]


WHOLE = GOOD | {"surface": "search", "duration_ms": 7, "topic": "travel", "request_id": "r", "producer": "p", "schema_version": 1}

FAULTS: dict[str, dict[str, Any]] = {
    "missing_field": {"pin_id": None},
    "wrong_type": {"topic": 7},
    "unknown_action": {"action": "flub"},
    "unknown_surface": {"surface": "moon"},
    "impossible_time": {"event_time": -1},
    "negative_duration": {"duration_ms": -1},
    "unknown_schema_version": {"schema_version": 2},
}

EVENTS = st.fixed_dictionaries(
    {
        "event_id": st.integers(-(2**63), 2**63 - 1),
        "user_id": st.integers(-(2**63), 2**63 - 1),
        "pin_id": st.integers(-(2**63), 2**63 - 1),
        "action": st.sampled_from(list(VOCABULARY.actions)),
        "event_time": st.integers(0, MAX_EVENT_TIME),
    },
    optional={
        "surface": st.none() | st.sampled_from(list(VOCABULARY.surfaces)),
        "duration_ms": st.none() | st.integers(0, 2**63 - 1),
        "topic": st.none() | st.text(max_size=5),
        "request_id": st.none() | st.text(max_size=5),
        "producer": st.none() | st.text(max_size=5),
        "schema_version": st.none() | st.just(1),
    },
)
