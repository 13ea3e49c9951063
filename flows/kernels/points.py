"""Features of entities at moments: each query sees the rows of its own prefix and time, out of all rows of its entity.

The rows of an entity are looked at once for a whole *track* of queries, whose times and prefixes only grow from one to the next: then a row is there
from one query on and out of a window from another one on, and what a query counts is a running sum over these. So a pin with many revisits that is
asked for many times costs the sum of the two, not their product. It must give what `flows.kernels.reads` gives of the folded rows of each prefix.
"""

from __future__ import annotations

import numpy as np

from flows.compiled import compiled
from flows.kernels.gathering import CLICK_SHIFT, ENTRY_COLUMNS
from flows.kernels.layout import DAY_MS, HOUR_MS, NEVER
from flows.kernels.reads import N_COUNTERS, N_WINDOWS, WINDOWS_MS
from flows.kernels.rows import sort_rows
from flows.kernels.tracks import Tracks, from_prefix, from_time


class Revisits:
    """Revisit rows, ready for queries.

    Parameters
    ----------
    rows : int64[k, 5]
        Credit changes, columns REVISIT_COLUMNS, in any order.
    entities : int
        How many there are.
    """

    def __init__(self, rows: np.ndarray, entities: int) -> None:
        self._rows = sort_rows(rows, 3)
        self._bounds = np.searchsorted(self._rows[:, 0], np.arange(entities + 1))

    def at(self, tracks: Tracks) -> tuple[np.ndarray, np.ndarray]:
        """Revisit counters of queries.

        Returns
        -------
        values : int64[n, 24]
            In the order in which the queries were asked.
        found : bool[n]
            Whether the entity has a revisit in the prefix at or before the time at all.
        """
        values = np.zeros((len(tracks.order), N_COUNTERS), np.int64)
        found = np.zeros(len(tracks.order), np.int64)
        _revisits_at(self._rows, self._bounds, tracks.entity, tracks.time, tracks.mark, tracks.bounds, tracks.limits, values, found)
        return _as_asked(values, tracks.order), _as_asked(found > 0, tracks.order)


def _as_asked(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    out = np.empty_like(values)
    out[order] = values
    return out


@compiled
def _revisits_at(rows, bounds, entity, time, mark, tracks, limits, values, found):  # type: ignore[no-untyped-def]
    longest = 1
    for e in range(bounds.shape[0] - 1):
        longest = max(longest, bounds[e + 1] - bounds[e])
    # Of one other side and type, by scope and window: for which queries it counts, as intervals that don't touch, in order.
    starts = np.empty((2 * N_WINDOWS, longest), np.int64)
    ends = np.empty((2 * N_WINDOWS, longest), np.int64)
    size = np.zeros(2 * N_WINDOWS, np.int64)
    # Of rows that are equal but for weight and cause: from which query on each is there.
    there = np.empty(longest, np.int64)
    sign = np.empty(longest, np.int64)
    leaves = np.empty(N_WINDOWS, np.int64)
    for t in range(tracks.shape[0] - 1):
        low, high = tracks[t], tracks[t + 1]
        e = entity[low]
        i = bounds[e]
        while i < bounds[e + 1]:
            other, click = rows[i, 1], rows[i, 2] >> CLICK_SHIFT
            size[:] = 0
            while i < bounds[e + 1] and rows[i, 1] == other and rows[i, 2] >> CLICK_SHIFT == click:
                key = rows[i, 2]
                moment, related = (key & ((1 << CLICK_SHIFT) - 1)) >> 1, key & 1
                happened = from_time(time, low, high, moment)
                n = 0
                while i < bounds[e + 1] and rows[i, 1] == other and rows[i, 2] == key:
                    at = from_prefix(mark, limits, happened, high, rows[i, 4] >> 1, rows[i, 3])
                    weight = 1 if rows[i, 4] & 1 else -1
                    k = n
                    while k > 0 and there[k - 1] > at:
                        there[k], sign[k] = there[k - 1], sign[k - 1]
                        k -= 1
                    there[k], sign[k] = at, weight
                    n += 1
                    i += 1
                if there[0] >= high:
                    continue
                hour_end = (moment // HOUR_MS + 1) * HOUR_MS
                for w in range(N_WINDOWS):
                    leaves[w] = from_time(time, low, high, hour_end + WINDOWS_MS[w])
                weight = 0
                for k in range(n):
                    if there[k] >= high:
                        break
                    weight += sign[k]
                    for scope in range(1 + related):
                        for w in range(N_WINDOWS):
                            if there[k] < leaves[w]:
                                column = ((2 * scope + click) * N_WINDOWS + w) * 2
                                values[there[k], column] += sign[k]
                                if leaves[w] < high:
                                    values[leaves[w], column] -= sign[k]
                    end = there[k + 1] if k + 1 < n else high
                    if weight == 0 or end == there[k]:
                        continue
                    found[there[k]] += 1
                    if end < high:
                        found[end] -= 1
                    for scope in range(1 + related):
                        for w in range(N_WINDOWS):
                            until = min(end, leaves[w])
                            if there[k] < until:
                                of = scope * N_WINDOWS + w
                                size[of] = _with_interval(starts[of], ends[of], size[of], there[k], until)
            for scope in range(2):
                for w in range(N_WINDOWS):
                    column = ((2 * scope + click) * N_WINDOWS + w) * 2 + 1
                    of = scope * N_WINDOWS + w
                    for k in range(size[of]):
                        values[starts[of, k], column] += 1
                        if ends[of, k] < high:
                            values[ends[of, k], column] -= 1
        for j in range(low + 1, high):
            found[j] += found[j - 1]
            for column in range(values.shape[1]):
                values[j, column] += values[j - 1, column]


@compiled
def _with_interval(starts, ends, size, start, end):  # type: ignore[no-untyped-def]
    """Put an interval among others that don't touch and lie in order, most often behind them; returns how many there are then."""
    above = size
    while above > 0 and starts[above - 1] > end:
        above -= 1
    first = above
    while first > 0 and ends[first - 1] >= start:
        first -= 1
        start, end = min(start, starts[first]), max(end, ends[first])
    if first == above:
        for k in range(size, above, -1):
            starts[k], ends[k] = starts[k - 1], ends[k - 1]
        size += 1
    else:
        for k in range(above, size):
            starts[k - above + first + 1], ends[k - above + first + 1] = starts[k], ends[k]
        size -= above - first - 1
    starts[first], ends[first] = start, end
    return size


def topics_at(rows: np.ndarray, entities: int, tracks: Tracks) -> tuple[np.ndarray, np.ndarray]:
    """Topic statistics of queries.

    Parameters
    ----------
    rows : int64[k, 5]
        Moves, columns MOVE_COLUMNS, in any order.

    Returns
    -------
    values : float64[n, 15]
        In the order in which the queries were asked.
    found : bool[n]
        Whether the topic has a save in the prefix at or before the time.
    """
    order = np.argsort(rows[:, 0], kind="stable")
    rows = np.take(rows, order, axis=0)
    bounds = np.searchsorted(rows[:, 0], np.arange(entities + 1))
    counts = np.zeros((len(tracks.order), 3 * N_WINDOWS), np.int64)
    found = np.zeros(len(tracks.order), np.int64)
    _topics_at(rows, bounds, tracks.entity, tracks.time, tracks.mark, tracks.bounds, tracks.limits, counts, found)
    counts = _as_asked(counts, tracks.order).astype(np.float64)
    out = np.zeros((len(counts), 5 * N_WINDOWS), np.float64)
    for w in range(N_WINDOWS):
        saves, clicked, days_3_6 = (counts[:, 3 * w + k] for k in range(3))
        out[:, 5 * w], out[:, 5 * w + 1], out[:, 5 * w + 2] = saves, clicked, days_3_6
        out[:, 5 * w + 3] = np.divide(clicked, saves, out=np.zeros_like(saves), where=saves > 0)
        out[:, 5 * w + 4] = np.divide(days_3_6, clicked, out=np.zeros_like(saves), where=clicked > 0)
    return out, _as_asked(found > 0, tracks.order)


@compiled
def _topics_at(rows, bounds, entity, time, mark, tracks, limits, counts, found):  # type: ignore[no-untyped-def]
    for t in range(tracks.shape[0] - 1):
        low, high = tracks[t], tracks[t + 1]
        e = entity[low]
        for i in range(bounds[e], bounds[e + 1]):
            save, click = rows[i, 1], rows[i, 2]
            at = from_time(time, low, high, save if click == NEVER else click)
            at = from_prefix(mark, limits, at, high, rows[i, 4] >> 1, rows[i, 3])
            if at >= high:
                continue
            weight = 1 if rows[i, 4] & 1 else -1
            if click == NEVER:
                found[at] += weight
            age = (click - save) // DAY_MS
            hour_end = (save // HOUR_MS + 1) * HOUR_MS
            for w in range(N_WINDOWS):
                leaves = from_time(time, low, high, hour_end + WINDOWS_MS[w])
                if at >= leaves:
                    continue
                for k in range(3):
                    if (k == 0) == (click == NEVER) and (k < 2 or 3 <= age <= 6):
                        counts[at, 3 * w + k] += weight
                        if leaves < high:
                            counts[leaves, 3 * w + k] -= weight
        for j in range(low + 1, high):
            found[j] += found[j - 1]
            for column in range(counts.shape[1]):
                counts[j, column] += counts[j - 1, column]


class Entries:
    """The newest entries of queries.

    Parameters
    ----------
    rows : int64[k, 7]
        Columns ENTRY_COLUMNS, in any order.
    entities : int
        How many there are.
    entity, time, limit : int64[n]
        A query takes the rows of its entity that are not after its time and whose order is below its limit.
    length : int
        At most so many of them.

    Attributes
    ----------
    offsets : int64[n + 1]
        Where each query's entries lie among those of all queries, in the order in which they were asked.
    """

    def __init__(self, rows: np.ndarray, entities: int, entity: np.ndarray, time: np.ndarray, limit: np.ndarray, length: int) -> None:
        self._rows, self._limit = sort_rows(rows, 6), limit
        bounds = np.searchsorted(self._rows[:, 0], np.arange(entities + 1))
        self.offsets = np.zeros(len(entity) + 1, np.int64)
        self._tops = np.empty(len(entity), np.int64)
        by_entity = np.argsort(entity, kind="stable")
        _entries_at(self._rows, bounds, by_entity, entity, time, limit, length, self._tops, self.offsets)
        np.cumsum(self.offsets, out=self.offsets)

    def of(self, begin: int, end: int) -> np.ndarray:
        """Entries of queries from `begin` to `end`, newest first within each: int64[m, 7]."""
        out = np.empty((int(self.offsets[end] - self.offsets[begin]), len(ENTRY_COLUMNS)), np.int64)
        _entries_of(self._rows, self._tops, self._limit, self.offsets, begin, end, out)
        return out


@compiled
def _entries_at(rows, bounds, by_entity, entity, time, limit, length, tops, lengths):  # type: ignore[no-untyped-def]
    """Where each query begins to look, and how many it finds."""
    i = 0
    while i < by_entity.shape[0]:
        e = entity[by_entity[i]]
        low, high = bounds[e], bounds[e + 1]
        # What a prefix can hold of the entity lies at or before the newest of its rows in it: rows behind are not looked at one by one.
        orders = np.sort(rows[low:high, 6])
        newest = np.empty(high - low, np.int64)
        by_order = np.argsort(rows[low:high, 6])
        for k in range(high - low):
            newest[k] = by_order[k] if k == 0 else max(newest[k - 1], by_order[k])
        while i < by_entity.shape[0] and entity[by_entity[i]] == e:
            q = by_entity[i]
            top = low - 1
            seen = np.searchsorted(orders, limit[q])
            if seen > 0:
                top = low + newest[seen - 1]
                if rows[top, 1] > time[q]:
                    a, b = low, top
                    while a < b:
                        middle = (a + b) // 2
                        if rows[middle, 1] <= time[q]:
                            a = middle + 1
                        else:
                            b = middle
                    top = a - 1
            tops[q] = top
            count = 0
            k = top
            while k >= low and count < length:
                count += rows[k, 6] < limit[q]
                k -= 1
            lengths[q + 1] = count
            i += 1


@compiled
def _entries_of(rows, tops, limit, offsets, begin, end, out):  # type: ignore[no-untyped-def]
    at = 0
    for q in range(begin, end):
        k = tops[q]
        until = offsets[q + 1] - offsets[begin]
        while at < until:
            if rows[k, 6] < limit[q]:
                for column in range(rows.shape[1]):
                    out[at, column] = rows[k, column]
                at += 1
            k -= 1
