"""Column conversions: any Arrow array to int64 numbers, ids, times or texts, each with masks of what is missing and what went.

Nothing here raises at a bad value: it is not `ok`, and its row becomes a raw record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from flows.compiled import compiled
from flows.events import INT64_MAX, ids_of

# A column as a source gives it: an Arrow array, or a list where no Arrow type holds the values (JSON objects, integers past int64).
Column: TypeAlias = "pa.Array | list[Any]"

EXACT = 2.0**53  # a float64 beyond may stand for several integers
_PER_MS = {"us": 1_000, "ns": 1_000_000}
_OTHER, _CANONICAL, _PADDED, _POINT_ZERO = 0, 1, 2, 3


@dataclass(frozen=True)
class Numbers:
    """An int64 per row; meaningful where `ok`. A row is `ok`, `null` or neither (it holds something else)."""

    values: np.ndarray
    ok: np.ndarray
    null: np.ndarray


@dataclass(frozen=True)
class Texts:
    """A text per row: ``dictionary[codes[i]]``, code -1 where not `ok`."""

    codes: np.ndarray
    dictionary: pa.Array
    ok: np.ndarray
    null: np.ndarray


def integers(column: Column, digits: bool) -> Numbers:
    """Whole numbers; a float that is whole and exact counts, and so does text if `digits` (the file has no types of its own)."""
    column = _plain(column)
    if isinstance(column, list):
        return _unusable(column)
    null = _nulls(column)
    if pt.is_uint64(column.type):
        wide = column.fill_null(0).to_numpy(zero_copy_only=False)
        return Numbers(wide.astype(np.int64), ~null & (wide <= INT64_MAX), null)
    if pt.is_integer(column.type):
        return Numbers(column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False), ~null, null)
    if pt.is_floating(column.type):
        floats = column.cast(pa.float64()).fill_null(0).to_numpy(zero_copy_only=False)
        # pandas writes a missing integer as NaN.
        null = null | np.isnan(floats)
        whole = (np.abs(floats) <= EXACT) & (floats == np.floor(floats))
        return Numbers(np.where(whole, floats, 0).astype(np.int64), ~null & whole, null)
    if pt.is_decimal(column.type):
        values, form = _parse(column.cast(pa.string()))
        return Numbers(values, ~null & (form != _OTHER), null)
    if pt.is_string(column.type) and digits:
        values, form = _parse(column)
        return Numbers(values, ~null & (form != _OTHER), null)
    return Numbers(np.zeros(len(column), np.int64), np.zeros(len(column), bool), null)


def ids(column: Column, digits: bool) -> Numbers:
    """IDs: whole numbers as they are, texts as `flows.events.id_of` says; "3.0" counts as 3 if `digits`."""
    column = _plain(column)
    if isinstance(column, list) or not pt.is_string(column.type):
        return integers(column, digits)
    null = _nulls(column)
    values, form = _parse(column)
    hashed = ~null & (form != _CANONICAL)
    if digits:
        hashed &= form != _POINT_ZERO
    rows = np.flatnonzero(hashed)
    if rows.size:
        distinct = column.take(pa.array(rows)).dictionary_encode()
        values[rows] = ids_of(distinct.dictionary.to_pylist())[distinct.indices.to_numpy(zero_copy_only=False)]
    return Numbers(values, ~null, null)


def times(column: Column, unit: str, digits: bool) -> Numbers:
    """Milliseconds since 1970 UTC of Arrow timestamps and dates (their own unit and zone), of numbers in `unit`, and of ISO 8601 texts."""
    column = _plain(column)
    if isinstance(column, list):
        return _unusable(column)
    if pt.is_timestamp(column.type) or pt.is_date(column.type):
        own = column.type.unit if pt.is_timestamp(column.type) else "ms"
        stamps = column if pt.is_timestamp(column.type) else column.cast(pa.date64())
        values = stamps.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
        null = _nulls(column)
        return _scaled(Numbers(values, ~null, null), own)
    if pt.is_floating(column.type) and unit == "s":
        return _seconds(column.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False))
    if not pt.is_string(column.type):
        return _scaled(integers(column, digits), unit)
    found = _scaled(integers(column, digits), unit)
    values, ok = found.values.copy(), found.ok.copy()
    rest = ~ok & ~found.null
    if rest.any():
        rows = np.flatnonzero(rest)
        texts = column.take(pa.array(rows))
        if digits and unit == "s":
            fractions = pc.match_substring_regex(texts, r"^-?[0-9]+\.[0-9]+$").to_numpy(zero_copy_only=False)
            seconds = _seconds(texts.filter(pa.array(fractions)).cast(pa.float64()).to_numpy(zero_copy_only=False))
            values[rows[fractions]], ok[rows[fractions]] = seconds.values, seconds.ok
        dated = pc.match_substring_regex(texts, r"^[0-9]{4}-[0-9]{2}-[0-9]{2}").to_numpy(zero_copy_only=False)
        if dated.any():
            spelled = pc.replace_substring_regex(texts.filter(pa.array(dated)), r" ?(UTC|GMT)$", "Z")
            moments = pd.to_datetime(pd.Series(spelled.to_pylist(), dtype=object), format="ISO8601", errors="coerce", utc=True)
            read = moments.notna().to_numpy()
            stamps = moments.dt.tz_convert(None).to_numpy().astype("datetime64[ns]").astype(np.int64)
            values[rows[dated][read]] = stamps[read] // 1_000_000
            ok[rows[dated]] = read
    return Numbers(values, ok, found.null)


def texts(column: Column, numbers: bool) -> Texts:
    """Texts; whole numbers count too if `numbers` (a category is often one)."""
    column = _plain(column)
    if not isinstance(column, list) and not pt.is_string(column.type) and numbers and not pt.is_null(column.type):
        whole = integers(column, digits=False)
        column = pa.array(whole.values, mask=~whole.ok).cast(pa.string())
        return _encoded(column, whole.null)
    if isinstance(column, list) or not pt.is_string(column.type):
        null = _unusable(column).null if isinstance(column, list) else _nulls(column)
        return Texts(np.full(len(column), -1, np.int32), pa.array([], pa.string()), np.zeros(len(column), bool), null)
    return _encoded(column, _nulls(column))


def value_at(column: Column, row: int) -> Any:
    """One value as a Python object; text that is no UTF-8 keeps its bytes as surrogates."""
    value = column[row] if isinstance(column, list) else column[row].as_py()
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _plain(column: Column) -> Column:
    """Without dictionaries, extensions and the wide or binary forms of text."""
    if isinstance(column, list):
        return column
    if pt.is_dictionary(column.type):
        column = column.dictionary_decode()
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    text = pt.is_large_string, pt.is_string_view, pt.is_binary, pt.is_large_binary, pt.is_binary_view
    return column.cast(pa.string()) if any(is_it(column.type) for is_it in text) else column


def readable(column: Column) -> tuple[Column, np.ndarray | None]:
    """A column with what is no UTF-8 taken out, and the mask of the rows where that was, None if nowhere; the other functions need this."""
    if isinstance(column, list):
        return column, None
    if pt.is_dictionary(column.type) and not pt.is_string(column.type.value_type):
        column = column.dictionary_decode()
    if not (pt.is_binary(column.type) or pt.is_large_binary(column.type) or pt.is_binary_view(column.type)):
        return column, None
    try:
        return column.cast(pa.string()), None
    except pa.ArrowInvalid:
        bad = np.zeros(len(column), bool)
        out: list[str | None] = []
        for row, value in enumerate(column.to_pylist()):
            try:
                out.append(None if value is None else value.decode("utf-8"))
            except UnicodeDecodeError:
                bad[row] = True
                out.append(None)
        return pa.array(out, pa.string()), bad


def _encoded(column: pa.Array, null: np.ndarray) -> Texts:
    encoded = column.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    return Texts(codes, encoded.dictionary, codes >= 0, null)


def _nulls(column: pa.Array) -> np.ndarray:
    if column.null_count == 0:
        return np.zeros(len(column), bool)
    return column.is_null().to_numpy(zero_copy_only=False)


def _unusable(column: Sequence[Any]) -> Numbers:
    null = np.fromiter((value is None for value in column), bool, len(column))
    return Numbers(np.zeros(len(column), np.int64), np.zeros(len(column), bool), null)


def _scaled(numbers: Numbers, unit: str) -> Numbers:
    if unit == "ms":
        return numbers
    if unit == "s":
        fits = np.abs(numbers.values.astype(np.float64)) < INT64_MAX // 1000
        return Numbers(np.where(fits, numbers.values, 0) * 1000, numbers.ok & fits, numbers.null)
    return Numbers(numbers.values // _PER_MS[unit], numbers.ok, numbers.null)


def _seconds(floats: np.ndarray) -> Numbers:
    null = np.isnan(floats)
    ok = np.abs(floats) <= EXACT / 1000
    return Numbers(np.floor(np.where(ok, floats, 0) * 1000 + 0.5).astype(np.int64), ok, null)


def _parse(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The number that each text spells and the form that it has; a null has any."""
    values, form = np.zeros(len(column), np.int64), np.zeros(len(column), np.uint8)
    _, offsets, data = column.buffers()
    if len(column) and data is not None:
        bounds = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
        _parse_all(bounds, np.frombuffer(data, np.uint8), values, form)
    return values, form


@compiled
def _parse_all(bounds: np.ndarray, data: np.ndarray, values: np.ndarray, form: np.ndarray) -> None:
    for i in range(values.size):
        at, end = bounds[i], bounds[i + 1]
        negative = at < end and data[at] == 45
        if negative:
            at += 1
        first = at
        magnitude = np.uint64(0)
        fits = True
        while at < end and 48 <= data[at] <= 57:
            digit = np.uint64(data[at] - 48)
            # 922337203685477580|7 and, negative, |8
            limit = np.uint64(8 if negative else 7)
            if magnitude > np.uint64(922337203685477580) or (magnitude == np.uint64(922337203685477580) and digit > limit):
                fits = False
                break
            magnitude = magnitude * np.uint64(10) + digit
            at += 1
        if at == first or not fits:
            continue
        padded = (data[first] == 48 and at - first > 1) or (negative and magnitude == 0)
        kind = _PADDED if padded else _CANONICAL
        if at < end:
            if data[at] != 46:
                continue
            at += 1
            while at < end and data[at] == 48:
                at += 1
            if at < end:
                continue
            kind = _PADDED if padded else _POINT_ZERO
        form[i] = kind
        values[i] = np.int64(np.uint64(0) - magnitude) if negative else np.int64(magnitude)
