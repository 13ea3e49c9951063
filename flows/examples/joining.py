"""Several stretches of examples as one. What rows share stays shared; nothing goes through rows one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
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


def with_requests_in_order(rows: ExampleRows) -> ExampleRows:
    """The same rows, with their user features numbered by first use: one number for each user, time of request and content.

    How features are numbered and shared otherwise says how records were read, and who computes in that order would too.
    """
    if not len(rows):
        return rows
    code, time, user = rows.request, rows.request_time, rows.user_id
    order = np.lexsort((code, time, user))
    other = np.ones(len(order), bool)
    other[1:] = (user[order][1:] != user[order][:-1]) | (time[order][1:] != time[order][:-1])
    new = other.copy()
    new[1:] |= code[order][1:] != code[order][:-1]
    first = order[new]
    same = np.arange(len(first))
    # What was read apart may be there twice.
    for i in np.flatnonzero(~other[new]).tolist():
        low = i - 1
        while low >= 0 and user[first[low]] == user[first[i]] and time[first[low]] == time[first[i]]:
            if _equal(rows.users, int(code[first[low]]), int(code[first[i]])):
                same[i] = same[low]
                break
            low -= 1
    group = np.empty(len(order), np.int64)
    group[order] = same[np.cumsum(new) - 1]
    used, at, request = np.unique(group, return_index=True, return_inverse=True)
    rank = np.empty(len(used), np.int32)
    rank[np.argsort(at)] = np.arange(len(used))
    return replace(rows, request=rank[request], users=rows.users.take(code[np.sort(at)]))


def _equal(users: UserFeatures, one: int, other: int) -> bool:
    entries = [users.sequence[users.offsets[code] : users.offsets[code + 1]] for code in (one, other)]
    return np.array_equal(users.counters[one], users.counters[other]) and entries[0].tobytes() == entries[1].tobytes()


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
