"""Vectors of a batch: gathered, and moved by row-wise Adagrad with duplicates summed in the order in which they come.

Every sum is taken in an order that the code fixes (no reassociation, one thread), so a result depends neither on threads nor on how wide a machine's
vectors are. A row that isn't in the batch is never touched.
"""

from __future__ import annotations

import math

import numpy as np

from flows.compiled import compiled, compiled_in_place

# Rows whose memory is asked for before the first of them is worked on: 32 vectors of 64 values are 8 KiB, a sixth of a small first-level cache.
_AHEAD = 32
_COUNT, _MARK, _CHANGED = 1, 3, 1  # of kernels/index.py, which numba's cache would not see change


@compiled_in_place
def first_outside(rows, handed):  # type: ignore[no-untyped-def]
    """The place of the first row that was never handed out, or -1."""
    for i in range(rows.shape[0]):
        if rows[i] < 0 or rows[i] >= handed:
            return i
    return -1


@compiled_in_place
def gather(weights, slots, out):  # type: ignore[no-untyped-def]
    """Copy vectors out: f32[n, d]."""
    for i in range(slots.shape[0]):
        slot = slots[i]
        for k in range(weights.shape[1]):
            out[i, k] = weights[slot, k]


@compiled_in_place
def gather_within(weights, slots, out, limit):  # type: ignore[no-untyped-def]
    """The same, and how many values are NaN or beyond a limit: told in passing, in half the time of looking at the copy afterwards."""
    bad = 0
    for i in range(slots.shape[0]):
        slot = slots[i]
        for k in range(weights.shape[1]):
            value = weights[slot, k]
            out[i, k] = value
            bad += 0 if abs(value) <= limit else 1
    return bad


@compiled_in_place
def first_unusable(gradients, limit):  # type: ignore[no-untyped-def]
    """The place of the first gradient with a value that is NaN or beyond a limit, or -1."""
    for i in range(gradients.shape[0]):
        bad = 0
        for k in range(gradients.shape[1]):
            # NaN compares false. No early end: without it, the loop is one over whole vectors.
            bad += 0 if abs(gradients[i, k]) <= limit else 1
        if bad:
            return i
    return -1


@compiled_in_place
def group(entries, rows, distinct, first, following, last):  # type: ignore[no-untyped-def]
    """Chain the places of each row in a batch, in order; row 0 is left out.

    Parameters
    ----------
    entries : int64[rows, 4]
        Its marks are used, and left as they were but for CHANGED.
    rows : int64[n]
    distinct : int64[n]
        Filled in: each row once, in the order of its first place.
    first, last : int64[n]
        Filled in beside `distinct`: its first and last place in the batch.
    following : int64[n]
        Filled in: the next place of the same row, -1 at the end.

    Returns
    -------
    int
        How many distinct rows; `-1 - i` if the row at place i is free, and then nothing has changed.
    """
    found = 0
    free = -1
    for i in range(rows.shape[0]):
        row = rows[i]
        if row == 0:
            continue
        if entries[row, _COUNT] == 0:
            free = i
            break
        following[i] = -1
        place = entries[row, _MARK] >> 1
        if place == 0:
            distinct[found] = row
            first[found] = i
            last[found] = i
            found += 1
            entries[row, _MARK] |= found << 1
        else:
            following[last[place - 1]] = i
            last[place - 1] = i
    for u in range(found):
        entries[distinct[u], _MARK] &= _CHANGED
        if free < 0:
            entries[distinct[u], _MARK] = _CHANGED
    return found if free < 0 else -1 - free


@compiled_in_place
def mean_square(vector):  # type: ignore[no-untyped-def]
    """The mean of a vector's squares, by eight running sums."""
    d = vector.shape[0]
    a = b = c = e = f = g = h = j = np.float32(0)
    whole = d - d % 8
    for k in range(0, whole, 8):
        a += vector[k] * vector[k]
        b += vector[k + 1] * vector[k + 1]
        c += vector[k + 2] * vector[k + 2]
        e += vector[k + 3] * vector[k + 3]
        f += vector[k + 4] * vector[k + 4]
        g += vector[k + 5] * vector[k + 5]
        h += vector[k + 6] * vector[k + 6]
        j += vector[k + 7] * vector[k + 7]
    for k in range(whole, d):
        a += vector[k] * vector[k]
    return (((a + b) + (c + e)) + ((f + g) + (h + j))) / np.float32(d)


@compiled
def update(weights, accumulators, slots, first, following, gradients, learning_rate, epsilon):  # type: ignore[no-untyped-def]
    """One step of row-wise Adagrad for each distinct row.

    A row's accumulator grows by the mean of its gradient's squares, and the row moves by rate / (√accumulator + epsilon) times the gradient
    (Duchi et al., 2011, one accumulator for a row as in Mudigere et al., "Software-Hardware Co-design for Fast and Scalable Training of Deep
    Learning Recommendation Models", 2022).

    Parameters
    ----------
    weights : f32[slots, d]
    accumulators : f32[slots]
    slots, first : int64[u]
        Where each distinct row lies, and its first place in the batch.
    following : int64[n]
    gradients : f32[n, d]
    learning_rate, epsilon : f32

    Returns
    -------
    float
        Of no meaning: without it, the compiler would leave out the looking ahead.
    """
    d = weights.shape[1]
    total = np.empty(d, np.float32)
    touched = np.float32(0)
    for begin in range(0, slots.shape[0], _AHEAD):
        end = min(begin + _AHEAD, slots.shape[0])
        for u in range(begin, end):
            # One value of each cache line, for memory to fetch the lines of many rows at once; row by row it is waited for each time.
            touched += accumulators[slots[u]]
            for k in range(0, d, 16):
                touched += weights[slots[u], k]
        for u in range(begin, end):
            i = first[u]
            slot = slots[u]
            gradient = gradients[i]
            for k in range(d):
                total[k] = gradient[k]
            i = following[i]
            while i >= 0:
                gradient = gradients[i]
                for k in range(d):
                    total[k] += gradient[k]
                i = following[i]
            accumulators[slot] += mean_square(total)
            rate = learning_rate / (np.float32(math.sqrt(accumulators[slot])) + epsilon)
            vector = weights[slot]
            for k in range(d):
                vector[k] -= rate * total[k]
    return touched
