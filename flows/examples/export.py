"""Final examples as a table that anything reads: one Parquet file with a column for each label and feature, a row for each example."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from flows.examples.record import HEADS, MASKED
from flows.examples.rows import ExampleRows
from flows.export import write_tables
from flows.features import PIN_COUNTERS, SEQUENCE_FIELDS, USER_COUNTERS
from flows.vocabulary import Vocabulary

_NAMES = ("action", "surface")
TABLE_SCHEMA = pa.schema(
    [
        ("user_id", pa.int64()),
        ("pin_id", pa.int64()),
        ("request_id", pa.string()),
        ("surface", pa.string()),
        ("topic", pa.string()),
        ("request_time", pa.int64()),
        ("impression_time", pa.int64()),
        ("ready_time", pa.int64()),
        ("slot", pa.int16()),
        ("propensity", pa.float32()),
        ("explored", pa.bool_()),
        ("score", pa.float32()),
        ("base", pa.int64()),
        ("delta", pa.int64()),
        *((f"label_{head}", pa.bool_()) for head in HEADS),
        ("fingerprint", pa.string()),
        ("as_of", pa.int64()),
        *((f"sequence_{name}", pa.list_(pa.string() if name in _NAMES else pa.int64())) for name in SEQUENCE_FIELDS),
        *((f"user_{name}", pa.int64()) for name in USER_COUNTERS),
        *((f"pin_{name}", pa.int64()) for name in PIN_COUNTERS),
    ]
)
"""Nulls where something is not known; a label is null where the row says nothing of it. Both entities' counters have names of their own."""


def write_examples(out: Path, chunks: Iterator[ExampleRows], vocabulary: Vocabulary) -> int:
    """Write final rows as one Parquet file, which is there when it is whole; returns the number of rows."""
    return write_tables(out, TABLE_SCHEMA, (table_of(rows, vocabulary) for rows in chunks), {})


def table_of(rows: ExampleRows, vocabulary: Vocabulary) -> pa.Table:
    """Rows with plain columns, in order."""
    columns: dict[str, pa.Array] = {
        name: pa.array(getattr(rows, name)) for name in ("user_id", "pin_id", "request_time", "impression_time", "ready_time", "explored")
    }
    columns["request_id"] = rows.request_id
    columns["surface"] = _named(rows.surface, vocabulary.surface_names())
    columns["topic"] = _coded(rows.topic, rows.topics)
    columns["fingerprint"] = _coded(rows.fingerprint, rows.fingerprints)
    columns |= {name: pa.array(getattr(rows, name), mask=getattr(rows, name) < 0) for name in ("slot", "base", "delta", "as_of")}
    columns |= {name: pa.array(getattr(rows, name), mask=np.isnan(getattr(rows, name))) for name in ("propensity", "score")}
    for i, head in enumerate(HEADS):
        columns[f"label_{head}"] = pa.array(rows.labels[:, i] == 1, mask=rows.labels[:, i] == MASKED)
    columns |= _sequences(rows, vocabulary)
    columns |= {f"user_{name}": pa.array(rows.users.counters[rows.request, i]) for i, name in enumerate(USER_COUNTERS)}
    columns |= {f"pin_{name}": pa.array(np.ascontiguousarray(rows.pin_counters[:, i])) for i, name in enumerate(PIN_COUNTERS)}
    return pa.table([columns[name] for name in TABLE_SCHEMA.names], schema=TABLE_SCHEMA)


def _sequences(rows: ExampleRows, vocabulary: Vocabulary) -> dict[str, pa.Array]:
    users = rows.users.take(rows.request)
    names = {"action": vocabulary.action_names(), "surface": vocabulary.surface_names()}
    offsets = pa.array(users.offsets.astype(np.int32))
    out = {}
    for field in SEQUENCE_FIELDS:
        values = np.ascontiguousarray(users.sequence[field])
        out[f"sequence_{field}"] = pa.ListArray.from_arrays(offsets, _named(values, names[field]) if field in names else pa.array(values))
    return out


def _named(codes: np.ndarray, names: dict[int, str]) -> pa.Array:
    table = pa.array([names.get(code) for code in range(256)], pa.string())
    return table.take(pa.array(codes.astype(np.int16), mask=codes < 0))


def _coded(codes: np.ndarray, values: tuple[str, ...]) -> pa.Array:
    return pa.array(list(values), pa.string()).take(pa.array(codes, mask=codes < 0))
