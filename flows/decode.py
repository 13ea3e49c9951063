"""Records as they lie in the ACTIONS log → validated columns. The one place where a record is judged well-formed.

Column by column: no Python per record on the fast lane, one orjson call per batch on the JSON lane. A bad record gets a reason and changes
nothing else; it must never raise.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from flows.events import (
    EVENT_SCHEMA,
    INT64_MAX,
    INT64_MIN,
    MAX_EVENT_TIME,
    MAX_RAW_BYTES,
    RAW_SCHEMA,
    REQUIRED_FIELDS,
    SCHEMA_VERSION,
    hash_id,
    id_of,
)
from flows.kernels.layout import ROLE_CLICK, ROLE_RELATED_PINS, ROLE_REVISIT, ROLE_SAVE
from flows.vocabulary import GRID_CLICK, IMPRESSION, OWN_PROFILE, RELATED_PINS, SAVE, Vocabulary

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
    "future_time",
)
# Stands between values that are parsed in one call. Values like `{},{}` and `{"a":[1` + `2]}` would pass for others if it could be guessed.
_BETWEEN = str(int.from_bytes(os.urandom(8), "little") >> 1).encode()
_RANK = {reason: i for i, reason in enumerate(REASONS)}
_INTEGERS = ("event_id", "user_id", "pin_id", "event_time", "duration_ms", "schema_version")
_TEXTS = ("action", "surface", "request_id", "topic", "producer")
_IDS = ("event_id", "user_id", "pin_id")


@dataclass
class Columns:
    """Validated columns of consecutive records; row i of a bad record holds zeros.

    Attributes
    ----------
    event_id, user_id, pin_id, event_time, duration_ms, topic, timestamp : int64[n]
        `topic` is `hash_id` of its name, 0 for none.
    action, surface : int16[n]
        Codes of the vocabulary.
    bad : bool[n]
    faults : dict of int to (reason, detail)
        Of each bad record.
    raw : callable
        Index → the record as JSON bytes, for a dead letter.
    topics : dict of int to str
        The name of every topic among them, and maybe of others.
    """

    event_id: np.ndarray
    user_id: np.ndarray
    pin_id: np.ndarray
    action: np.ndarray
    surface: np.ndarray
    event_time: np.ndarray
    duration_ms: np.ndarray
    topic: np.ndarray
    timestamp: np.ndarray
    bad: np.ndarray
    faults: dict[int, tuple[str, str]]
    raw: Callable[[int], bytes]
    topics: dict[int, str]

    def __len__(self) -> int:
        return len(self.event_id)


class Decoder:
    """Decodes and validates against one vocabulary.

    Attributes
    ----------
    topics : dict of int to str
        Every topic seen so far, by its ID.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._actions = vocabulary.actions
        self._surfaces = vocabulary.surfaces
        self._roles = np.zeros((128, 128), np.uint8)
        own, related = vocabulary.surfaces[OWN_PROFILE], vocabulary.surfaces[RELATED_PINS]
        self._roles[vocabulary.actions[SAVE], :] = ROLE_SAVE
        self._roles[vocabulary.actions[SAVE], related] |= ROLE_RELATED_PINS
        self._roles[vocabulary.actions[IMPRESSION], own] = ROLE_REVISIT
        self._roles[vocabulary.actions[GRID_CLICK], own] = ROLE_REVISIT | ROLE_CLICK
        self.topics: dict[int, str] = {}
        self._topic_ids: dict[str, int] = {"": 0}

    def roles(self, columns: Columns) -> np.ndarray:
        """What the kernel must know of each record: uint8[n] of its ROLE_ bits."""
        return self._roles[columns.action, columns.surface]

    def decode(self, records: pa.RecordBatch) -> Columns:
        """Columns of a batch of either kind."""
        if records.schema.names == RAW_SCHEMA.names:
            return self._decode_raw(records)
        return self._decode_typed(records)

    def _decode_typed(self, records: pa.RecordBatch) -> Columns:
        n = records.num_rows
        faults: dict[int, tuple[str, str]] = {}
        integers = {name: _integers(records, name, n, faults) for name in _INTEGERS}
        timestamp = _timestamps(records)
        action = self._codes(records, "action", self._actions, "unknown_action", n, faults)
        surface = self._codes(records, "surface", self._surfaces, "unknown_surface", n, faults)
        topic = self._topics(records, n, faults)
        _note_oversize(records, faults)
        for name in ("request_id", "producer"):
            column = _column(records, name)
            if column is not None and not _is_text(column.type):
                _python_texts(_python_values(column), name, faults)
        for name in REQUIRED_FIELDS:
            for i in _nulls(_column(records, name), n):
                _fault(faults, int(i), "missing_field", name)
        return self._checked(integers, action, surface, topic, timestamp, faults, lambda i: _row_as_json(records, i))

    def _decode_raw(self, records: pa.RecordBatch) -> Columns:
        values = [v.encode() if type(v) is str else v if type(v) is bytes else None for v in _python_values(records.column("value"))]
        n = len(values)
        faults: dict[int, tuple[str, str]] = {}
        objects = _parse(values, faults)
        integers: dict[str, np.ndarray] = {}
        for name in _INTEGERS:
            default = SCHEMA_VERSION if name == "schema_version" else 0
            integers[name] = _python_integers([o.get(name) for o in objects], name, default, faults)
        texts = {name: _python_texts([o.get(name) for o in objects], name, faults) for name in _TEXTS}
        for name in REQUIRED_FIELDS:
            for i, o in enumerate(objects):
                if o.get(name) is None:
                    _fault(faults, i, "missing_field", name)
        action = _lookup([t or "" for t in texts["action"]], self._actions, "unknown_action", faults)
        surface = _lookup(["other" if t is None else t for t in texts["surface"]], self._surfaces, "unknown_surface", faults)
        topic = np.fromiter((self._topic_id(t or "") for t in texts["topic"]), np.int64, n)
        timestamp = _timestamps(records)
        return self._checked(integers, action, surface, topic, timestamp, faults, lambda i: values[i] or b"")

    def _checked(
        self,
        integers: dict[str, np.ndarray],
        action: np.ndarray,
        surface: np.ndarray,
        topic: np.ndarray,
        timestamp: np.ndarray,
        faults: dict[int, tuple[str, str]],
        raw: Callable[[int], bytes],
    ) -> Columns:
        time, duration, version = integers["event_time"], integers["duration_ms"], integers["schema_version"]
        for wrong, reason, values in (
            ((time < 0) | (time > MAX_EVENT_TIME), "impossible_time", time),
            (duration < 0, "negative_duration", duration),
            (version != SCHEMA_VERSION, "unknown_schema_version", version),
        ):
            if wrong.any():
                for i in np.flatnonzero(wrong):
                    _fault(faults, int(i), reason, str(values[i]))
        n = len(time)
        bad = np.zeros(n, np.bool_)
        if faults:
            at = np.fromiter(faults, np.int64, len(faults))
            bad[at] = True
            for column in (*integers.values(), action, surface, topic):
                column[at] = 0
        return Columns(
            integers["event_id"], integers["user_id"], integers["pin_id"], action, surface, time, duration, topic, timestamp, bad, faults, raw,
            self.topics,
        )  # fmt: skip

    def _codes(self, records: pa.RecordBatch, name: str, known: Any, reason: str, n: int, faults: dict[int, tuple[str, str]]) -> np.ndarray:
        """Codes of a name column: the distinct names are looked up, not the rows."""
        default = known["other"] if name == "surface" else 0
        texts = _dictionary(records, name, n, faults)
        if texts is None:
            return np.full(n, default, np.int16)
        names, index = texts
        codes = np.array([known.get(text, -1) for text in names] + [default], np.int16)
        column = codes[index]
        if (codes < 0).any():
            for i in np.flatnonzero(column < 0):
                _fault(faults, int(i), reason, str(names[index[i]]))
        return column

    def _topics(self, records: pa.RecordBatch, n: int, faults: dict[int, tuple[str, str]]) -> np.ndarray:
        texts = _dictionary(records, "topic", n, faults)
        if texts is None:
            return np.zeros(n, np.int64)
        names, index = texts
        return np.array([self._topic_id(name or "") for name in names] + [0], np.int64)[index]

    def _topic_id(self, name: str) -> int:
        known = self._topic_ids.get(name)
        if known is None:
            known = self._topic_ids[name] = hash_id(name)
            self.topics[known] = name
        return known


def concatenated(parts: Sequence[Columns]) -> Columns:
    """One `Columns` of several, in order."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0] + [len(p) for p in parts])
    faults = {int(start) + i: fault for start, part in zip(starts, parts, strict=False) for i, fault in part.faults.items()}

    def raw(i: int) -> bytes:
        part = int(np.searchsorted(starts, i, "right")) - 1
        return parts[part].raw(i - int(starts[part]))

    names = ("event_id", "user_id", "pin_id", "action", "surface", "event_time", "duration_ms", "topic", "timestamp", "bad")
    arrays = {name: np.concatenate([getattr(p, name) for p in parts]) for name in names}
    topics: dict[int, str] = {}
    for table in {id(p.topics): p.topics for p in parts}.values():
        # Not a loop over its items: a decoder that reads ahead in another thread goes on adding to it.
        topics.update(table)
    return Columns(**arrays, faults=faults, raw=raw, topics=topics)


def _fault(faults: dict[int, tuple[str, str]], i: int, reason: str, detail: str) -> None:
    """Note a fault; of several the one that REASONS names first stays."""
    if i not in faults or _RANK[reason] < _RANK[faults[i][0]]:
        faults[i] = (reason, detail)


class _Unreadable:
    """Stands for an Arrow value that Python has no form for: a text that is no UTF-8, a time after the year 9999."""

    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind

    def __str__(self) -> str:
        return f"a {self._kind} that can't be read"


def _python(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):
        return _Unreadable(scalar.type)


def _python_values(column: pa.Array) -> list[Any]:
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):
        return [_python(scalar) for scalar in column]


def _column(records: pa.RecordBatch, name: str) -> pa.Array | None:
    """A column, None if there is none of that name (or several: no one knows which is meant)."""
    at = records.schema.get_field_index(name)
    return records.column(at) if at >= 0 else None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or (pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type)))


def _nulls(column: pa.Array | None, n: int) -> range | np.ndarray:
    """Rows without a value."""
    if column is None:
        return range(n)
    if pa.types.is_dictionary(column.type) and column.dictionary.null_count:
        column = column.dictionary_decode()
    return np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)) if column.null_count else range(0)


def _timestamps(records: pa.RecordBatch) -> np.ndarray:
    column = _column(records, "timestamp")
    if column is None:
        return np.zeros(records.num_rows, np.int64)
    return (column.fill_null(0) if column.null_count else column).to_numpy(zero_copy_only=False).astype(np.int64, copy=True)


def _integers(records: pa.RecordBatch, name: str, n: int, faults: dict[int, tuple[str, str]]) -> np.ndarray:
    default = SCHEMA_VERSION if name == "schema_version" else 0
    column = _column(records, name)
    if column is None:
        return np.full(n, default, np.int64)
    if column.type != EVENT_SCHEMA.field(name).type:
        return _python_integers(_python_values(column), name, default, faults)
    if column.null_count:
        column = column.fill_null(default)
    return column.to_numpy().astype(np.int64, copy=True)


def _dictionary(records: pa.RecordBatch, name: str, n: int, faults: dict[int, tuple[str, str]]) -> tuple[list[Any], np.ndarray] | None:
    """Distinct texts of a column and each row's index into them (the index after the last stands for null)."""
    column = _column(records, name)
    if column is None:
        return None
    if pa.types.is_string(column.type):
        column = column.dictionary_encode()
    names = _python_values(column.dictionary) if _is_text(column.type) else [None]
    if not all(type(text) is str for text in names):
        column = pa.array(_python_texts(_python_values(column), name, faults), pa.string()).dictionary_encode()
        names = column.dictionary.to_pylist()
    index = column.indices.cast(pa.int64())
    if index.null_count:
        index = pc.fill_null(index, len(names))
    return names, index.to_numpy()


def _parse(values: list[bytes | None], faults: dict[int, tuple[str, str]]) -> list[dict[str, Any]]:
    """JSON objects of raw values; {} where a value is none. The whole batch in one call if nothing in it is wrong."""
    for i, value in enumerate(values):
        if value is None:
            _fault(faults, i, "not_json", "no value")
        elif len(value) > MAX_RAW_BYTES:
            _fault(faults, i, "oversize", f"{len(value)} bytes")
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
                    _fault(faults, i, "not_json", f"a JSON {type(one).__name__}, not an object")
            except orjson.JSONDecodeError as error:
                _fault(faults, i, "not_json", str(error))
        out.append(one if type(one) is dict else {})
    return out


def _python_integers(values: list[Any], name: str, default: int, faults: dict[int, tuple[str, str]]) -> np.ndarray:
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
            _fault(faults, i, "wrong_type", f"{name}: {str(value)[:80]!r} is not a whole number within int64")
    return out


def _python_texts(values: list[Any], name: str, faults: dict[int, tuple[str, str]]) -> list[str | None]:
    out: list[str | None] = []
    for i, value in enumerate(values):
        if value is None or type(value) is str:
            out.append(value)
        else:
            out.append(None)
            _fault(faults, i, "wrong_type", f"{name}: {str(value)[:80]!r} is not a string")
    return out


def _lookup(texts: list[str], known: Any, reason: str, faults: dict[int, tuple[str, str]]) -> np.ndarray:
    out = np.zeros(len(texts), np.int16)
    for i, text in enumerate(texts):
        code = known.get(text, -1)
        if code < 0:
            _fault(faults, i, reason, text[:80])
        else:
            out[i] = code
    return out


def _note_oversize(records: pa.RecordBatch, faults: dict[int, tuple[str, str]]) -> None:
    """A typed row is too large if one of its texts is; in a raw record the whole of it counts."""
    for name in _TEXTS:
        column = _column(records, name)
        if column is None or not _is_text(column.type):
            continue
        # The distinct texts tell at little cost that there is nothing to look for.
        texts = column.dictionary if pa.types.is_dictionary(column.type) else column
        if (pc.max(pc.binary_length(texts)).as_py() or 0) > MAX_RAW_BYTES:
            lengths = pc.binary_length(column.cast(pa.string())).fill_null(0).to_numpy(zero_copy_only=False)
            for i in np.flatnonzero(lengths > MAX_RAW_BYTES):
                _fault(faults, int(i), "oversize", f"{name} of {lengths[i]} bytes")


def _row_as_json(records: pa.RecordBatch, i: int) -> bytes:
    row = {name: _python(column[i]) for name, column in zip(records.schema.names, records.columns, strict=True) if name != "timestamp"}
    return orjson.dumps({k: v for k, v in row.items() if v is not None}, default=str)
