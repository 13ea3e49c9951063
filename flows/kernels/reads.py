"""What an entity's folded rows say at a time: sequences, revisit counters, topic statistics.

Pure functions of folded rows and `as_of`; online reads, exports and point-in-time answers all call these.
"""

from __future__ import annotations

import numpy as np

from flows.compiled import compiled
from flows.features import PIN_COUNTERS, SEQUENCE_LENGTH, WINDOW_DAYS
from flows.kernels.rows import CUT, SEQUENCE_CODES

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
WINDOWS_MS = np.array(WINDOW_DAYS, np.int64) * DAY_MS
N_WINDOWS = len(WINDOW_DAYS)
N_COUNTERS = len(PIN_COUNTERS)

# Columns of a sequence table and of a revisits table. `other` is the pin of a user's row, the user of a pin's row.
SEQUENCE_COLUMNS = ("user_id", "event_time", "event_id", "codes", "pin_id", "duration_ms")
REVISIT_COLUMNS = ("entity", "other", "kind", "time", "weight")


def group_bounds(entity: np.ndarray) -> np.ndarray:
    """Where each entity's rows start in a sorted column, and the end: int64[entities + 1]."""
    if not len(entity):
        return np.zeros(1, np.int64)
    return np.concatenate([[0], np.flatnonzero(entity[1:] != entity[:-1]) + 1, [len(entity)]]).astype(np.int64)


def newest(rows: np.ndarray, bounds: np.ndarray, as_of: int, length: int = SEQUENCE_LENGTH) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The newest rows of each entity at a time.

    Parameters
    ----------
    rows : int64[n, 6]
        Sorted sequence rows, columns SEQUENCE_COLUMNS.
    bounds : int64[m + 1]
        Rows of entity i are bounds[i] to bounds[i + 1].
    as_of : int
        Greatest event_time taken, ms.

    Returns
    -------
    index : int64[k]
        Rows taken, newest first within each entity.
    offsets : int64[m + 1]
        Where each entity's part of `index` lies.
    exact : bool[m]
        False where rows were cut off that this time would need.
    """
    index = np.empty(min(len(rows), length * max(len(bounds) - 1, 0)), np.int64)
    offsets = np.zeros(len(bounds), np.int64)
    exact = np.ones(len(bounds) - 1, np.bool_)
    taken = _newest(rows, bounds, _within(as_of), length, index, offsets, exact)
    return index[:taken], offsets, exact


def counters(rows: np.ndarray, bounds: np.ndarray, as_of: int) -> tuple[np.ndarray, np.ndarray]:
    """Revisit counters of each entity at a time.

    Parameters
    ----------
    rows : int64[n, 5]
        Folded revisit rows, columns REVISIT_COLUMNS.
    bounds : int64[m + 1]
        Rows of entity i are bounds[i] to bounds[i + 1].
    as_of : int
        ms.

    Returns
    -------
    values : int64[m, 24]
        In the order of features.PIN_COUNTERS.
    any_revisit : bool[m]
        Whether the entity has a revisit at or before `as_of` at all, in a window or not.
    """
    values = np.zeros((len(bounds) - 1, N_COUNTERS), np.int64)
    present = np.zeros(len(bounds) - 1, np.bool_)
    _counters(rows, bounds, _within(as_of), values, present)
    return values, present


def topic_statistics(rows: np.ndarray, bounds: np.ndarray, as_of: int) -> np.ndarray:
    """Topic statistics of each topic at a time that no save or click follows.

    Parameters
    ----------
    rows : int64[n, 4]
        Folded tiles: topic, kind (0 saves, 1 + age of the first click in days), hour of the save, weight.

    Returns
    -------
    float64[m, 15]
        In the order of features.TOPIC_STATS.
    """
    out = np.zeros((len(bounds) - 1, N_WINDOWS * 5), np.float64)
    topic = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    kind, hour, weight = rows[:, 1], rows[:, 2], rows[:, 3]
    for w in range(N_WINDOWS):
        inside = (hour + 1) * HOUR_MS > _within(as_of) - WINDOWS_MS[w]
        for column, chosen in enumerate((kind == 0, kind > 0, (kind >= 4) & (kind <= 7))):
            out[:, 5 * w + column] = np.bincount(topic, weight * (inside & chosen), len(out))
        saves, clicked, days_3_6 = out[:, 5 * w], out[:, 5 * w + 1], out[:, 5 * w + 2]
        out[:, 5 * w + 3] = np.divide(clicked, saves, out=np.zeros_like(saves), where=saves > 0)
        out[:, 5 * w + 4] = np.divide(days_3_6, clicked, out=np.zeros_like(saves), where=clicked > 0)
    return out


def _within(as_of: int) -> int:
    """A time that reads the same, and from which a window can be taken without leaving int64."""
    return min(max(as_of, -1), 2**62)


@compiled
def _newest(rows, bounds, as_of, length, index, offsets, exact):  # type: ignore[no-untyped-def]
    taken = 0
    for e in range(bounds.shape[0] - 1):
        k = bounds[e + 1] - 1
        # Rows below one marked CUT are not all there, whatever run they lie in: also when the mark lies above as_of.
        missing = False
        while k >= bounds[e] and rows[k, 1] > as_of:
            missing |= (rows[k, SEQUENCE_CODES] & CUT) != 0
            k -= 1
        count = 0
        cut = False
        while k >= bounds[e] and count < length and not cut:
            index[taken] = k
            taken += 1
            count += 1
            cut = (rows[k, SEQUENCE_CODES] & CUT) != 0
            k -= 1
        exact[e] = not missing and (count == length or not cut)
        offsets[e + 1] = taken
    return taken


@compiled
def _counters(rows, bounds, as_of, values, present):  # type: ignore[no-untyped-def]
    newest_end = np.empty(4, np.int64)
    for e in range(bounds.shape[0] - 1):
        i = bounds[e]
        while i < bounds[e + 1]:
            other = rows[i, 1]
            newest_end[:] = -(2**62)
            while i < bounds[e + 1] and rows[i, 1] == other:
                kind, time, weight = rows[i, 2], rows[i, 3], rows[i, 4]
                i += 1
                if time > as_of:
                    continue
                present[e] = True
                hour_end = (time // HOUR_MS + 1) * HOUR_MS
                click = kind & 1
                for scope in range(2 if kind & 2 else 1):
                    slot = 2 * scope + click
                    newest_end[slot] = max(newest_end[slot], hour_end)
                    for w in range(N_WINDOWS):
                        if hour_end > as_of - WINDOWS_MS[w]:
                            values[e, (slot * N_WINDOWS + w) * 2] += weight
            for slot in range(4):
                for w in range(N_WINDOWS):
                    if newest_end[slot] > as_of - WINDOWS_MS[w]:
                        values[e, (slot * N_WINDOWS + w) * 2 + 1] += 1
