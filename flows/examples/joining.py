"""Several stretches of examples as one. What rows share stays shared; nothing goes through rows one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from flows.examples.record import SEQUENCE_ENTRY
from flows.examples.rows import ExampleRows, FeatureRows, joined_users
from flows.kernels.requests import requests_in_order

Rows = TypeVar("Rows", bound=FeatureRows)

# Columns that point into a tuple beside them.
_CODES = (("topic", "topics"), ("fingerprint", "fingerprints"), ("position", "positions"))


def joined(parts: Sequence[ExampleRows]) -> ExampleRows:
    """One or more stretches, one after the other."""
    if len(parts) == 1:
        return parts[0]
    out: dict[str, Any] = {}
    shared = {"request_id", "request", "users", *(name for pair in _CODES for name in pair)}
    for name in (field.name for field in fields(ExampleRows)):
        if name not in shared:
            out[name] = np.concatenate([getattr(part, name) for part in parts])
    for code, values in _CODES:
        out[code], out[values] = _united([(getattr(part, code), getattr(part, values)) for part in parts])
    first = np.cumsum([0, *(len(part.users) for part in parts)])
    out["request"] = np.concatenate([part.request + before for part, before in zip(parts, first[:-1].tolist(), strict=True)]).astype(
        np.int32
    )
    out["users"] = joined_users([part.users for part in parts])
    out["request_id"] = pa.chunked_array([part.request_id for part in parts], pa.string()).combine_chunks()
    return ExampleRows(**out)


def cut(stretches: Iterable[ExampleRows], rows: int) -> Iterator[ExampleRows]:
    """Stretches of any length as parts of so many rows; the last one may have fewer."""
    waiting: list[ExampleRows] = []
    count = 0
    for stretch in stretches:
        waiting.append(stretch)
        count += len(stretch)
        if count >= rows:
            whole, at = joined(waiting), 0
            while count - at >= rows:
                yield whole.take(np.arange(at, at + rows))
                at += rows
            waiting, count = [whole.take(np.arange(at, count))], count - at
    if count:
        yield joined(waiting)


def with_requests_in_order(rows: Rows, starts: Sequence[int] = (0,)) -> Rows:
    """The same rows, with their user features numbered by first use: one number for each user, time of request and content.

    How features are numbered and shared otherwise says how records were read, and who computes in that order would too.

    Parameters
    ----------
    rows : FeatureRows
        n of them.
    starts : sequence of int
        Where batches begin that are to share no number; ascending from 0.
    """
    if not len(rows):
        return rows
    users, bounds = rows.users, np.array([*starts, len(rows)], np.int64)
    entries = users.sequence.view(np.uint8).reshape(-1, SEQUENCE_ENTRY.itemsize)
    request, code = requests_in_order(bounds, rows.user_id, rows.request_time, rows.request, users.counters, users.offsets, entries)
    return replace(rows, request=request, users=users.take(code))


def _united(parts: Sequence[tuple[np.ndarray, tuple]]) -> tuple[np.ndarray, tuple]:
    """Codes of several parts as codes of one tuple, in which each value is once."""
    place: dict[object, int] = {}
    codes = []
    for code, values in parts:
        own = np.array([*(place.setdefault(value, len(place)) for value in values), -1], np.int32)
        codes.append(own[code])
    return np.concatenate(codes), tuple(place)
