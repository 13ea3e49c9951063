"""Rows that a point-in-time read gathers: of the entities that are asked for alone, each with what says whether it lies in a prefix.

One pass over the records of a partition, columns in and columns out; what the rows then say of a query is `flows.kernels.points`' matter.
"""

from __future__ import annotations

import numpy as np

from flows.compiled import compiled
from flows.kernels.layout import ACCEPTED
from flows.kernels.pairmap import new_table, put_at, slot_of
from flows.kernels.rows import OFFSET_SHIFT

# Columns of rows that are gathered for queries. `entity` is an index into those asked for; `key` is of `revisit_keys`, `place` of `places`.
ENTRY_COLUMNS = ("entity", "event_time", "event_id", "codes", "pin_id", "duration_ms", "order")
REVISIT_COLUMNS = ("entity", "other", "key", "order", "place")
MOVE_COLUMNS = ("entity", "save_time", "click_time", "order", "place")

# Above any event time.
CLICK_SHIFT = 50


def table_of(ids: np.ndarray) -> np.ndarray:
    """A hash table of distinct IDs: `indexes` gives each one's place among them."""
    table = new_table(len(ids))
    _fill(table, ids)
    return table


@compiled
def _fill(table, ids):  # type: ignore[no-untyped-def]
    for i in range(ids.shape[0]):
        slot = slot_of(table, ids[i], 0)
        put_at(table, -1 - slot, ids[i], 0, i)


@compiled
def indexes(table: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The index of each ID, -1 for one that isn't in the table: int64[n]."""
    out = np.empty(ids.shape[0], np.int64)
    for i in range(ids.shape[0]):
        slot = slot_of(table, ids[i], 0)
        out[i] = table[slot, 2] if slot >= 0 else -1
    return out


@compiled
def entry_rows(table, status, action, surface, user_id, event_time, event_id, pin_id, duration_ms, impression, offsets, first):  # type: ignore[no-untyped-def]
    """Rows of accepted engagements of wanted users, int64[m, 7]; record i has the order first + i."""
    index = np.empty(status.shape[0], np.int64)
    m = 0
    for i in range(status.shape[0]):
        index[i] = -1
        if status[i] == ACCEPTED and action[i] != impression:
            slot = slot_of(table, user_id[i], 0)
            if slot >= 0:
                index[i] = table[slot, 2]
                m += 1
    rows = np.empty((m, 7), np.int64)
    at = 0
    for i in range(status.shape[0]):
        if index[i] >= 0:
            row = rows[at]
            row[0], row[1], row[2], row[4], row[5], row[6] = index[i], event_time[i], event_id[i], pin_id[i], duration_ms[i], first + i
            row[3] = np.int64(action[i]) | np.int64(surface[i]) << 8 | offsets[i] << OFFSET_SHIFT
            at += 1
    return rows


def revisit_keys(time: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Type, time and scope of revisits as one number each, in this order."""
    return (kind & 1) << CLICK_SHIFT | time << 1 | (kind >> 1 & 1)


def places(stream: int, weight: np.ndarray) -> np.ndarray:
    """Stream and sign of rows as one number each."""
    return np.int64(stream) << 1 | (weight > 0)


@compiled
def numbered(partition, counts):  # type: ignore[no-untyped-def]
    """The place of each record among those of its partition, int64[n]; moves the counts on."""
    out = np.empty(partition.shape[0], np.int64)
    for i in range(partition.shape[0]):
        out[i] = counts[partition[i]]
        counts[partition[i]] += 1
    return out
