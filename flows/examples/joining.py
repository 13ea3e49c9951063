"""Several stretches of examples as one. What rows share stays shared; nothing goes through rows one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa

from flows.examples.rows import ExampleRows, UserFeatures

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
    out["users"] = _users([part.users for part in parts])
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


def _united(parts: Sequence[tuple[np.ndarray, tuple]]) -> tuple[np.ndarray, tuple]:
    """Codes of several parts as codes of one tuple, in which each value is once."""
    place: dict[object, int] = {}
    codes = []
    for code, values in parts:
        own = np.array([*(place.setdefault(value, len(place)) for value in values), -1], np.int32)
        codes.append(own[code])
    return np.concatenate(codes), tuple(place)


def _users(parts: Sequence[UserFeatures]) -> UserFeatures:
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    # A part may be some of the requests whose entries it holds.
    entries = [part.sequence[part.offsets[0] : part.offsets[-1]] for part in parts]
    return UserFeatures(np.concatenate([part.counters for part in parts]), offsets, np.concatenate(entries))
