"""User features of requests: out of packed values, gathered, and numbered so that nothing tells how they were read.

Places in bytes are unsigned: of a signed one it is asked each time whether it counts from the end, and a loop is then thirty times as slow as a copy.
"""

from __future__ import annotations

import numpy as np

from flows.compiled import compiled_in_place
from flows.kernels.pairmap import new_table, put_at, slot_of


@compiled_in_place
def unpack(data, offsets, counters, sequence):  # type: ignore[no-untyped-def]
    """Take values apart: the first bytes of each are counters, and all others follow one another in `sequence`.

    Parameters
    ----------
    data : uint8[s]
    offsets : int32[c + 1]
        Where each value begins; none is shorter than its counters.
    counters : uint8[c, k]
        Filled in.
    sequence : uint8[t]
        Filled in.
    """
    at = np.uintp(0)
    width = np.uintp(counters.shape[1])
    for i in range(counters.shape[0]):
        begin = np.uintp(offsets[i])
        for k in range(width):
            counters[i, k] = data[begin + k]
        begin += width
        size = np.uintp(offsets[i + 1]) - begin
        for k in range(size):
            sequence[at + k] = data[begin + k]
        at += size


@compiled_in_place
def copy_spans(source, starts, stops, width, out, at):  # type: ignore[no-untyped-def]
    """Copy spans of entries of `width` bytes out, each to where `at` says.

    Parameters
    ----------
    source, out : uint8[…]
    starts, stops, at : int64[n]
        In entries.
    """
    for i in range(starts.shape[0]):
        begin, size, to = np.uintp(starts[i] * width), np.uintp((stops[i] - starts[i]) * width), np.uintp(at[i] * width)
        for k in range(size):
            out[to + k] = source[begin + k]


@compiled_in_place
def number_by_first_use(codes, number_of, numbers, distinct):  # type: ignore[no-untyped-def]
    """Number codes from 0 in the order in which they come first.

    Parameters
    ----------
    codes : int64[n]
    number_of : int32[c]
        Zeros; a code is below c.
    numbers : int32[n]
        Filled in.
    distinct : int64[n]
        Filled in: the code of each number.

    Returns
    -------
    int
        How many numbers there are.
    """
    found = 0
    for i in range(codes.shape[0]):
        code = codes[i]
        if number_of[code] == 0:
            distinct[found] = code
            found += 1
            number_of[code] = found
        numbers[i] = number_of[code] - 1
    return found


def requests_in_order(
    bounds: np.ndarray,
    user_id: np.ndarray,
    request_time: np.ndarray,
    code: np.ndarray,
    counters: np.ndarray,
    offsets: np.ndarray,
    entries: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Which request each row is of: one for each user, time and content in each batch, numbered by their first rows.

    Parameters
    ----------
    bounds : int64[b + 1]
        Batch i is of the rows from bounds[i] up to bounds[i + 1].
    user_id, request_time : int64[n]
    code : int32[n]
        Which of the next three are a row's.
    counters : int64[c, k]
    offsets : int64[c + 1]
    entries : uint8[s, w]

    Returns
    -------
    request : int32[n]
    code : int64[r]
        Of each request, where its first row has it.
    """
    n, c = len(code), len(counters)
    request, first = np.empty(n, np.int32), np.empty(n, np.int64)
    last, following = np.full(c, -1, np.int64), np.empty(n, np.int64)
    found = _number(bounds, user_id, request_time, code, counters, offsets, entries, new_table(n), request, first, last, following)
    return request, code[first[:found]].astype(np.int64)


@compiled_in_place
def _number(bounds, user_id, request_time, code, counters, offsets, entries, table, request, first, last, following):  # type: ignore[no-untyped-def]
    found = 0
    for batch in range(bounds.shape[0] - 1):
        # What lies below is of batches before.
        least = found
        for i in range(bounds[batch], bounds[batch + 1]):
            own = code[i]
            at = last[own]
            # Rows of a request follow one another, mostly.
            if at >= least and user_id[first[at]] == user_id[i] and request_time[first[at]] == request_time[i]:
                request[i] = at
                continue
            slot = slot_of(table, user_id[i], request_time[i])
            at = table[slot, 2] if slot >= 0 else -1
            end = -1
            while at >= least and not _equal(counters, offsets, entries, code[first[at]], own):
                end, at = at, following[at]
            if at < least:
                at = found
                found += 1
                first[at], following[at] = i, -1
                if slot < 0:
                    put_at(table, -1 - slot, user_id[i], request_time[i], at)
                elif end < 0:
                    table[slot, 2] = at
                else:
                    following[end] = at
            request[i] = last[own] = at
    return found


@compiled_in_place
def _equal(counters, offsets, entries, one, other):  # type: ignore[no-untyped-def]
    if one == other:
        return True
    size = offsets[one + 1] - offsets[one]
    at, there = np.uintp(offsets[one]), np.uintp(offsets[other])
    if offsets[other + 1] - offsets[other] != size:
        return False
    for k in range(counters.shape[1]):
        if counters[one, k] != counters[other, k]:
            return False
    for i in range(np.uintp(size)):
        for k in range(entries.shape[1]):
            if entries[at + i, k] != entries[there + i, k]:
                return False
    return True
