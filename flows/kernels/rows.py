"""Sorted rows: how state that is only ever added to is sorted, merged and folded.

A table's rows are int64[n, columns], sorted by their key columns (the first of them is the entity). A run is such an array. Merging runs in any
grouping and order gives the same folded rows: that is what makes state independent of batches and restarts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flows.compiled import compiled
from flows.kernels.layout import ACCEPTED

HOUR_MS = 3_600_000

# Rows of a sequence are kept past the declared length so that a read a little before the newest event is still answered from state.
SEQUENCE_KEPT = 128
# Column of a sequence row: action | surface << 8 | CUT where older rows of this user were cut off | offset << 17. By the offset it breaks ties.
SEQUENCE_CODES = 3
CUT = 1 << 16
OFFSET_SHIFT = 17


@compiled
def sequence_rows(status, action, surface, user_id, event_time, event_id, pin_id, duration_ms, impression, offsets):  # type: ignore[no-untyped-def]
    """Rows of accepted records other than impressions, int64[m, 6], in the order of their offsets."""
    m = 0
    for i in range(status.shape[0]):
        m += status[i] == ACCEPTED and action[i] != impression
    rows = np.empty((m, 6), np.int64)
    at = 0
    for i in range(status.shape[0]):
        if status[i] == ACCEPTED and action[i] != impression:
            row = rows[at]
            row[0], row[1], row[2], row[4], row[5] = user_id[i], event_time[i], event_id[i], pin_id[i], duration_ms[i]
            row[SEQUENCE_CODES] = np.int64(action[i]) | np.int64(surface[i]) << 8 | offsets[i] << OFFSET_SHIFT
            at += 1
    return rows


def sort_rows(rows: np.ndarray, keys: int) -> np.ndarray:
    """Rows sorted by their first `keys` columns."""
    if len(rows) < 2:
        return rows
    order = np.argsort(np.ascontiguousarray(rows[:, 0]))
    scratch = np.empty(len(rows), np.int64)
    _order_groups(rows, keys, order, scratch)
    # Not rows[order], which keeps Python's lock and copies number by number.
    return np.take(rows, order, axis=0)


def merge_rows(runs: Sequence[np.ndarray], keys: int) -> np.ndarray:
    """One sorted array of the rows of several."""
    level = [run for run in runs if len(run)]
    if not level:
        return runs[0]
    while len(level) > 1:
        pairs = [_merge_two(level[i], level[i + 1], keys) for i in range(0, len(level) - 1, 2)]
        level = pairs + ([level[-1]] if len(level) % 2 else [])
    return level[0]


def fold_sums(rows: np.ndarray, keys: int) -> np.ndarray:
    """Add up the last column of sorted rows with equal keys; rows that come to 0 vanish."""
    out = np.empty_like(rows)
    return out[: _fold_sums(rows, keys, out)]


def fold_groups(rows: np.ndarray, bounds: np.ndarray, keys: int) -> tuple[np.ndarray, np.ndarray]:
    """`fold_sums` within groups of rows, of which group i is bounds[i] to bounds[i + 1]: the rows, and the bounds of their groups."""
    out, ends = np.empty_like(rows), np.zeros_like(bounds)
    return out[: _fold_groups(rows, bounds, keys, out, ends)], ends


def fold_sequences(rows: np.ndarray, kept: int = SEQUENCE_KEPT) -> np.ndarray:
    """Keep the newest `kept` rows of each entity; the oldest kept one is marked CUT where any was ever cut off."""
    out = np.empty_like(rows)
    return out[: _fold_sequences(rows, kept, out)]


def unexpired(rows: np.ndarray, time: int, unit_ms: int, before: int) -> np.ndarray:
    """Rows whose UTC hour ends after `before`, and of each entity the newest other one that adds, so that it is still known to have been there.

    The last column is the row's weight.

    Parameters
    ----------
    time : int
        Column with the row's time, in units of `unit_ms`.
    before : int
        ms.
    """
    keep = np.zeros(len(rows), np.bool_)
    _unexpired(rows, time, unit_ms, before, keep)
    return rows if keep.all() else rows[keep]


@compiled
def _less(a, i, b, j, keys):  # type: ignore[no-untyped-def]
    for c in range(keys):
        if a[i, c] != b[j, c]:
            return a[i, c] < b[j, c]
    return False


@compiled
def _order_groups(rows, keys, order, scratch):  # type: ignore[no-untyped-def]
    """`order` sorts by the first column; sort each stretch of equal ones by the rest (bottom-up merge sort from runs of 8)."""
    n = order.shape[0]
    start = 0
    while start < n:
        end = start + 1
        while end < n and rows[order[end], 0] == rows[order[start], 0]:
            end += 1
        if end - start > 1:
            for low in range(start, end, 8):
                for i in range(low + 1, min(low + 8, end)):
                    item = order[i]
                    j = i
                    while j > low and _less(rows, item, rows, order[j - 1], keys):
                        order[j] = order[j - 1]
                        j -= 1
                    order[j] = item
            width = 8
            while width < end - start:
                for low in range(start, end, 2 * width):
                    middle, high = min(low + width, end), min(low + 2 * width, end)
                    a, b = low, middle
                    for at in range(low, high):
                        if a < middle and (b >= high or not _less(rows, order[b], rows, order[a], keys)):
                            scratch[at] = order[a]
                            a += 1
                        else:
                            scratch[at] = order[b]
                            b += 1
                for i in range(start, end):
                    order[i] = scratch[i]
                width *= 2
        start = end


@compiled
def _merge_two(a, b, keys):  # type: ignore[no-untyped-def]
    out = np.empty((a.shape[0] + b.shape[0], a.shape[1]), np.int64)
    i = j = 0
    for at in range(out.shape[0]):
        if i < a.shape[0] and (j >= b.shape[0] or not _less(b, j, a, i, keys)):
            for c in range(a.shape[1]):
                out[at, c] = a[i, c]
            i += 1
        else:
            for c in range(a.shape[1]):
                out[at, c] = b[j, c]
            j += 1
    return out


@compiled
def _fold_sums(rows, keys, out):  # type: ignore[no-untyped-def]
    n, width = rows.shape
    done = 0
    i = 0
    while i < n:
        total = rows[i, width - 1]
        j = i + 1
        while j < n and not _less(rows, i, rows, j, keys):
            total += rows[j, width - 1]
            j += 1
        if total != 0:
            for c in range(width - 1):
                out[done, c] = rows[i, c]
            out[done, width - 1] = total
            done += 1
        i = j
    return done


@compiled
def _fold_groups(rows, bounds, keys, out, ends):  # type: ignore[no-untyped-def]
    for i in range(bounds.shape[0] - 1):
        ends[i + 1] = ends[i] + _fold_sums(rows[bounds[i] : bounds[i + 1]], keys, out[ends[i] :])
    return ends[-1]


@compiled
def _fold_sequences(rows, kept, out):  # type: ignore[no-untyped-def]
    n, width = rows.shape
    done = 0
    i = 0
    while i < n:
        j = i
        cut = False
        while j < n and rows[j, 0] == rows[i, 0]:
            cut |= (rows[j, SEQUENCE_CODES] & CUT) != 0
            j += 1
        first = max(i, j - kept)
        cut |= first > i
        for k in range(first, j):
            for c in range(width):
                out[done, c] = rows[k, c]
            out[done, SEQUENCE_CODES] &= ~CUT
            if cut and k == first:
                out[done, SEQUENCE_CODES] |= CUT
            done += 1
        i = j
    return done


@compiled
def _unexpired(rows, time, unit, before, keep):  # type: ignore[no-untyped-def]
    i = 0
    while i < rows.shape[0]:
        entity = rows[i, 0]
        marker = -1
        while i < rows.shape[0] and rows[i, 0] == entity:
            if (rows[i, time] * unit // HOUR_MS + 1) * HOUR_MS > before:
                keep[i] = True
            elif rows[i, rows.shape[1] - 1] > 0 and (marker < 0 or rows[i, time] >= rows[marker, time]):
                # Not one that takes another back: the two would come to 0, and the entity would be gone.
                marker = i
            i += 1
        if marker >= 0:
            keep[marker] = True
