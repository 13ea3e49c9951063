"""From a file's columns to records: what fits `EVENT_SCHEMA` becomes an event, every other row a raw record that shows the same fault.

Nothing is judged here (an unknown action or an impossible time is an event like any other): that is done once, in the actions flow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.events import EVENT_SCHEMA, MAX_EVENT_TIME, SCHEMA_VERSION
from flows.ingest import convert
from flows.ingest.convert import Column, Numbers, Texts
from flows.ingest.frames import Frame
from flows.ingest.options import IngestOptions

PRODUCER = "tidemark-ingest/1"
_SCALE = {"s": (1000, 1), "ms": (1, 1), "us": (1, 1_000), "ns": (1, 1_000_000)}


@dataclass(frozen=True)
class RawRecord:
    """A row that is no event: its number, its user if it names one, its bytes and its own time (None: none that can be used)."""

    row: int
    user_id: int | None
    value: bytes
    timestamp: int | None


@dataclass(frozen=True)
class Normalised:
    """Events (rows ascending) and raw records of a frame."""

    rows: np.ndarray
    events: pa.RecordBatch
    raw: list[RawRecord]


def derived_ids(digest: bytes, rows: np.ndarray) -> np.ndarray:
    """An event_id for each row of a file without: a bijective mix of the row number, keyed by the digest of the file's content.

    So no two rows of a file share one, and the same file gives the same ids whenever and however often it is ingested.
    """
    key = np.frombuffer(digest[:16], np.uint64)
    x = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + key[0]
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x ^= x >> np.uint64(31)
    return (x ^ key[1]).view(np.int64)


def normalise(frame: Frame, options: IngestOptions, digits: bool, digest: bytes, now: int | None) -> Normalised:
    """Records of a frame.

    Parameters
    ----------
    frame : Frame
    options : IngestOptions
    digits : bool
        Text may stand for a number.
    digest : bytes
        Of the file's content.
    now : int or None
        The timestamp of records without an arrival of their own; None: their event time.
    """
    count = len(frame.rows)
    columns: dict[str, Column] = {}
    good = np.ones(count, bool)
    for name, column in frame.columns.items():
        columns[name], bad = convert.readable(column)
        if bad is not None:
            good &= ~bad
    absent = pa.nulls(count)

    numbers = {name: convert.ids(columns.get(name, absent), digits) for name in ("user_id", "pin_id")}
    if "event_id" in frame.columns:
        numbers["event_id"] = convert.ids(columns["event_id"], digits)
    else:
        numbers["event_id"] = _always(derived_ids(digest, frame.rows))
    numbers["event_time"] = convert.times(columns.get("event_time", absent), options.time_unit, digits)
    source = convert.texts(columns.get("action", absent), numbers=True)
    action, surface = _named(source, columns.get("action", absent), columns.get("surface", absent), options)
    for required in [number.ok for number in numbers.values()] + [action.ok]:
        good &= required

    numbers["duration_ms"] = convert.integers(columns.get("duration_ms", absent), digits)
    numbers["schema_version"] = _version(convert.integers(columns.get("schema_version", absent), digits))
    labels = {name: convert.texts(columns.get(name, absent), numbers=True) for name in ("topic", "request_id", "producer")}
    arrival = convert.times(columns.get("arrival_time", absent), options.time_unit, digits)
    for number in (numbers["duration_ms"], numbers["schema_version"], arrival):
        good &= number.ok | number.null
    for text in (surface, *labels.values()):
        good &= text.ok | text.null
    stamps, stamped = _stamps(arrival, numbers["event_time"], now)

    labels["action"], labels["surface"] = action, surface
    labels["producer"] = _default(labels["producer"], PRODUCER)
    raw = []
    user = numbers["user_id"]
    for i in np.flatnonzero(~good).tolist():
        value = _as_json(i, frame.columns, numbers, labels, arrival, options)
        owner = int(user.values[i]) if user.ok[i] else None
        raw.append(RawRecord(int(frame.rows[i]), owner, value, int(stamps[i]) if stamped[i] else None))
    chosen = slice(None) if good.all() else np.flatnonzero(good)
    return Normalised(frame.rows[chosen], _events(chosen, numbers, labels, stamps), raw)


def _always(values: np.ndarray) -> Numbers:
    return Numbers(values, np.ones(values.size, bool), np.zeros(values.size, bool))


def _version(given: Numbers) -> Numbers:
    values = np.where(given.ok, given.values, SCHEMA_VERSION)
    return Numbers(values, given.ok & (np.abs(values) < 2**15), given.null)


def _named(source: Texts, column: Column, surfaces: Column, options: IngestOptions) -> tuple[Texts, Texts]:
    """Actions by their Tidemark names, and surfaces: the row's own by its Tidemark name, else by its action, else the one for the rest."""
    given = source.dictionary.to_pylist()
    mapped = [options.actions.get(name, name) for name in given]
    action = _recoded(source.codes, mapped, _named_ok(column, source, options.actions), source.null)

    own = convert.texts(surfaces, numbers=True)
    own_names = [options.surfaces.get(name, name) for name in own.dictionary.to_pylist()]
    implied = [options.surface_for(name, target) for name, target in zip(given, mapped, strict=True)]
    names = [*own_names, *(name or "" for name in implied), options.surface or ""]
    # Codes into `names`: the row's own, else the one of its action (the last, -1, if it has no action).
    codes = np.where(own.null, len(own_names) + np.where(source.codes < 0, len(given), source.codes), own.codes)
    empty = np.array([False] * len(own_names) + [name is None for name in implied] + [options.surface is None], bool)
    filled = _named_ok(surfaces, own, options.surfaces) | (own.null & ~empty[codes])
    return action, _recoded(codes, names, filled, own.null & ~filled)


def _named_ok(column: Column, source: Texts, names: Mapping[str, str]) -> np.ndarray:
    """Which rows say a name: a number is one only if the user says which."""
    if not isinstance(column, pa.Array) or _is_text(column):
        return source.ok
    return source.ok & np.array([name in names for name in source.dictionary.to_pylist()] + [False], bool)[source.codes]


def _is_text(column: pa.Array) -> bool:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _recoded(codes: np.ndarray, names: list[str], ok: np.ndarray, null: np.ndarray) -> Texts:
    """Texts over distinct names, where `names` may hold one several times."""
    distinct = {name: code for code, name in enumerate(dict.fromkeys(names))}
    table = np.array([*(distinct[name] for name in names), -1], np.int32)
    return Texts(np.where(ok, table[codes], -1).astype(np.int32), pa.array(list(distinct), pa.string()), ok, null)


def _default(given: Texts, text: str) -> Texts:
    """With `text` where there is none."""
    extended = pa.concat_arrays([given.dictionary.cast(pa.string()), pa.array([text])])
    codes = np.where(given.null, len(extended) - 1, given.codes).astype(np.int32)
    return Texts(codes, extended, given.ok | given.null, np.zeros(len(codes), bool))


def _stamps(arrival: Numbers, event_time: Numbers, now: int | None) -> tuple[np.ndarray, np.ndarray]:
    if now is not None:
        return np.where(arrival.ok, arrival.values, now), np.ones(arrival.values.size, bool)
    # A time that is none must not push the partition's arrival, which never runs back, past all that follows.
    possible = event_time.ok & (event_time.values >= 0) & (event_time.values <= MAX_EVENT_TIME)
    return np.where(arrival.ok, arrival.values, np.where(possible, event_time.values, 0)), arrival.ok | possible


def _events(chosen: slice | np.ndarray, numbers: dict[str, Numbers], labels: dict[str, Texts], stamps: np.ndarray) -> pa.RecordBatch:
    arrays = []
    for field in EVENT_SCHEMA:
        if field.name == "timestamp":
            array = pa.array(stamps[chosen])
        elif field.name in numbers:
            number = numbers[field.name]
            null = number.null[chosen] if field.name == "duration_ms" and number.null.any() else None
            array = pa.array(number.values[chosen], mask=null).cast(field.type)
        else:
            text = labels[field.name]
            codes = text.codes[chosen]
            missing = codes < 0
            indices = pa.array(codes, mask=missing if missing.any() else None)
            if pa.types.is_dictionary(field.type):
                array = pa.DictionaryArray.from_arrays(indices, text.dictionary.cast(pa.string()))
            else:
                array = pc.take(text.dictionary.cast(pa.string()), indices)
        arrays.append(array)
    return pa.record_batch(arrays, schema=EVENT_SCHEMA)


def _as_json(i: int, source: Any, numbers: dict[str, Numbers], labels: dict[str, Texts], arrival: Numbers, options: IngestOptions) -> bytes:
    """The row as a JSON object of the contract: converted where that went, else the file's own value, so that the fault stays."""
    out: dict[str, Any] = {}
    for name, number in numbers.items():
        value = int(number.values[i]) if number.ok[i] else _own(source, name, i)
        if name == "event_time" and not number.ok[i] and type(value) is int:
            times, divided = _SCALE[options.time_unit]
            value = value * times // divided
        out[name] = value
    for name, text in labels.items():
        out[name] = text.dictionary[int(text.codes[i])].as_py() if text.ok[i] else _own(source, name, i)
    if not arrival.null[i] and not arrival.ok[i]:
        out["arrival_time"] = _own(source, "arrival_time", i)
    present = {name: value for name, value in out.items() if value is not None}
    return json.dumps(present, ensure_ascii=False, default=_foreign).encode("utf-8", "surrogateescape")


def _own(source: Any, name: str, i: int) -> Any:
    if name not in source:
        return None
    value = convert.value_at(source[name], i)
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else _foreign(value)  # NaN is how pandas writes a missing number
    return value


def _foreign(value: Any) -> dict[str, str]:
    """What JSON has no form for, as an object: a text might pass for an ID."""
    return {type(value).__name__: str(value)}
