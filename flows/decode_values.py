"""The values of records' columns → numbers and texts, with the reasons why one can't be taken: what `flows.decode` is made of.

Takes columns of any type and values of any shape; never raises.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from flows.events import EVENT_SCHEMA, INT64_MAX, INT64_MIN, MAX_RAW_BYTES, SCHEMA_VERSION, id_of
from flows.kernels.texts import hash_each

Faults = dict[int, tuple[str, str]]
"""Of each bad record: the reason, and a detail."""

REASONS = (
    "not_json",
    "oversize",
    "missing_field",
    "wrong_type",
    "unknown_action",
    "unknown_surface",
    "impossible_time",
    "negative_duration",
    "unknown_schema_version",
    "wrong_partition",
    "future_time",
)
# Stands between values that are parsed in one call. Values like `{},{}` and `{"a":[1` + `2]}` would pass for others if it could be guessed.
_BETWEEN = str(int.from_bytes(os.urandom(8), "little") >> 1).encode()
_RANK = {reason: i for i, reason in enumerate(REASONS)}
INTEGERS = ("event_id", "user_id", "pin_id", "event_time", "duration_ms", "schema_version")
TEXTS = ("action", "surface", "request_id", "topic", "producer")
_IDS = ("event_id", "user_id", "pin_id")


def note_fault(faults: Faults, i: int, reason: str, detail: str) -> None:
    """Note a fault; of several the one that REASONS names first stays."""
    if i not in faults or _RANK[reason] < _RANK[faults[i][0]]:
        faults[i] = (reason, detail)


class _Unreadable:
    """Stands for an Arrow value that Python has no form for (a text that is no UTF-8, a time after the year 9999)."""

    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind

    def __str__(self) -> str:
        return f"a {self._kind} that can't be read"


def _python_value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):
        return _Unreadable(scalar.type)


def python_values(column: pa.Array) -> list[Any]:
    """A column as Python has it."""
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):
        return [_python_value(scalar) for scalar in column]


def column_named(records: pa.RecordBatch, name: str) -> pa.Array | None:
    """A column, None if there is none of that name (or several: no one knows which is meant)."""
    at = records.schema.get_field_index(name)
    return records.column(at) if at >= 0 else None


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is text as the contract has it."""
    return bool(pa.types.is_string(kind) or (pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type)))


def hash_texts(texts: pa.Array) -> np.ndarray:
    """The hash of each text of a column (`flows.kernels.texts`), int64[n]; 0 for an empty one and for none at all."""
    if pa.types.is_dictionary(texts.type):
        codes = texts.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return np.append(hash_texts(texts.dictionary), 0)[codes]
    out = np.zeros(len(texts), np.int64)
    _, bounds, data = texts.buffers()
    if bounds is not None and data is not None:
        hash_each(np.frombuffer(data, np.uint8), np.frombuffer(bounds, np.int32, len(texts) + 1, texts.offset * 4), out)
    if texts.null_count:
        out[texts.is_null().to_numpy(zero_copy_only=False)] = 0
    return out


def rows_without(column: pa.Array | None, n: int) -> range | np.ndarray:
    """Rows without a value."""
    if column is None:
        return range(n)
    if pa.types.is_dictionary(column.type) and column.dictionary.null_count:
        column = column.dictionary_decode()
    return np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)) if column.null_count else range(0)


def timestamps_of(records: pa.RecordBatch) -> np.ndarray:
    """The records' own times in ms, int64[n], 0 for none."""
    column = column_named(records, "timestamp")
    if column is None:
        return np.zeros(records.num_rows, np.int64)
    if not pa.types.is_integer(column.type):
        return python_integers(python_values(column), "timestamp", 0, {})
    return (column.fill_null(0) if column.null_count else column).to_numpy(zero_copy_only=False).astype(np.int64)


def integers_of(records: pa.RecordBatch, name: str, n: int, faults: Faults) -> np.ndarray:
    """A column of whole numbers, int64[n], of whatever type it is."""
    default = SCHEMA_VERSION if name == "schema_version" else 0
    column = column_named(records, name)
    if column is None:
        return np.full(n, default, np.int64)
    if column.type != EVENT_SCHEMA.field(name).type:
        return python_integers(python_values(column), name, default, faults)
    if column.null_count:
        column = column.fill_null(default)
    return column.to_numpy().astype(np.int64, copy=True)


def dictionary_of(records: pa.RecordBatch, name: str, n: int, faults: Faults) -> tuple[list[Any], np.ndarray] | None:
    """Distinct texts of a column and each row's index into them (the index after the last stands for null)."""
    column = column_named(records, name)
    if column is None:
        return None
    if pa.types.is_string(column.type):
        column = column.dictionary_encode()
    names = python_values(column.dictionary) if is_text(column.type) else [None]
    if not all(type(text) is str for text in names):
        column = pa.array(python_texts(python_values(column), name, faults), pa.string()).dictionary_encode()
        names = column.dictionary.to_pylist()
    index = column.indices.cast(pa.int64())
    if index.null_count:
        index = pc.fill_null(index, len(names))
    return names, index.to_numpy()


def parse_json(values: list[bytes | None], faults: Faults) -> list[dict[str, Any]]:
    """JSON objects of raw values; {} where a value is none. The whole batch in one call if nothing in it is wrong."""
    for i, value in enumerate(values):
        if value is None:
            note_fault(faults, i, "not_json", "no value")
        elif len(value) > MAX_RAW_BYTES:
            note_fault(faults, i, "oversize", f"{len(value)} bytes")
    if not faults:
        try:
            parsed = orjson.loads(b"[" + (b"," + _BETWEEN + b",").join(values) + b"]")  # type: ignore[arg-type]
            objects = parsed[::2]
            if (
                len(parsed) == 2 * len(values) - 1
                and all(type(o) is dict for o in objects)
                and all(s == int(_BETWEEN) for s in parsed[1::2])
            ):
                return objects
        except orjson.JSONDecodeError:
            pass
    out: list[dict[str, Any]] = []
    for i, value in enumerate(values):
        one: Any = {}
        if value is not None:
            try:
                one = orjson.loads(value)
                if type(one) is not dict:
                    note_fault(faults, i, "not_json", f"a JSON {type(one).__name__}, not an object")
            except orjson.JSONDecodeError as error:
                note_fault(faults, i, "not_json", str(error))
        out.append(one if type(one) is dict else {})
    return out


def _as_json(value: Any) -> str:
    """The beginning of a value, as JSON has it; a text in quotes."""
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is float and value.is_integer() and abs(value) < 1e40:
        # What is too long for an integer comes as a float.
        return f"{Decimal(repr(value)):f}".removesuffix(".0")
    if type(value) in (int, float):
        return str(value)[:80]
    return repr(str(value)[:80])


def python_integers(values: list[Any], name: str, default: int, faults: Faults) -> np.ndarray:
    """int64 of JSON values: whole numbers within int64; for IDs also strings."""
    try:
        if all(type(v) is int for v in values):
            return np.array(values, np.int64)
    except OverflowError:
        pass
    out = np.full(len(values), default, np.int64)
    for i, value in enumerate(values):
        if value is None:
            continue
        if type(value) is str and name in _IDS:
            out[i] = id_of(value)
        elif type(value) is int and INT64_MIN <= value <= INT64_MAX:
            out[i] = value
        elif type(value) is float and value.is_integer() and abs(value) < 2**53:
            out[i] = int(value)
        else:
            note_fault(faults, i, "wrong_type", f"{name}: {_as_json(value)} is not a whole number within int64")
    return out


def python_texts(values: list[Any], name: str, faults: Faults) -> list[str | None]:
    """Texts of JSON values."""
    out: list[str | None] = []
    for i, value in enumerate(values):
        if value is None or type(value) is str:
            out.append(value)
        else:
            out.append(None)
            note_fault(faults, i, "wrong_type", f"{name}: {_as_json(value)} is not a string")
    return out


def codes_of(texts: list[str], known: Any, reason: str, faults: Faults) -> np.ndarray:
    """Codes of names, int16[n], 0 where one is unknown."""
    out = np.zeros(len(texts), np.int16)
    for i, text in enumerate(texts):
        code = known.get(text, -1)
        if code < 0:
            note_fault(faults, i, reason, text[:80])
        else:
            out[i] = code
    return out


def note_oversize(records: pa.RecordBatch, faults: Faults) -> None:
    """A typed row is too large if one of its texts is; in a raw record the whole of it counts."""
    for name in TEXTS:
        column = column_named(records, name)
        if column is None or not is_text(column.type):
            continue
        # The distinct texts tell at little cost that there is nothing to look for.
        texts = column.dictionary if pa.types.is_dictionary(column.type) else column
        if (pc.max(pc.binary_length(texts)).as_py() or 0) > MAX_RAW_BYTES:
            lengths = pc.binary_length(column.cast(pa.string())).fill_null(0).to_numpy(zero_copy_only=False)
            for i in np.flatnonzero(lengths > MAX_RAW_BYTES):
                note_fault(faults, int(i), "oversize", f"{name} of {lengths[i]} bytes")


def rows_as_json(records: pa.RecordBatch, rows: np.ndarray | None = None) -> Iterator[bytes]:
    """Typed records as JSON, each with what it has; of all rows or of some. One at a time: together they may be much larger than the columns."""
    at = np.arange(records.num_rows) if rows is None else rows
    columns = {name: _shown(column, at) for name, column in zip(records.schema.names, records.columns, strict=True) if name != "timestamp"}
    values = zip(*columns.values(), strict=True) if columns else iter([()] * len(at))
    for row in values:
        yield orjson.dumps({k: v for k, v in zip(columns, row, strict=True) if v is not None}, default=str)


def _shown(column: pa.Array, rows: np.ndarray) -> list[Any]:
    """Some rows of a column as Python has them; equal texts of a dictionary are one object."""
    if pa.types.is_dictionary(column.type):
        values = [*python_values(column.dictionary), None]
        return [values[i] for i in column.indices.cast(pa.int64()).fill_null(len(values) - 1).to_numpy(zero_copy_only=False)[rows].tolist()]
    return python_values(column.take(pa.array(rows)))
