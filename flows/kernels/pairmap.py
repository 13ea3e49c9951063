"""A hash map from a pair of int64 to an int64, as one array that numba loops over.

A table is int64[capacity, 4] with capacity a power of two; a row is (first key, second key, value, used). Linear probing; deletion shifts the
following entries back, so that there are no tombstones and a table under a steady stream of inserts and deletes never degrades.
"""

from __future__ import annotations

import numpy as np

from flows.compiled import compiled_in_place

_FIRST, _SECOND, _VALUE, _USED = 0, 1, 2, 3


def new_table(entries: int) -> np.ndarray:
    """An empty table with room for `entries` at a load of at most a half."""
    capacity = 1024
    while capacity < 2 * entries:
        capacity *= 2
    return np.zeros((capacity, 4), np.int64)


def with_room(table: np.ndarray, used: int, more: int) -> np.ndarray:
    """The table itself, or a larger copy when `more` entries would load it over a half."""
    if 2 * (used + more) <= len(table):
        return table
    # Twice as large: capacities are powers of two.
    grown = new_table(used + more)
    _copy_entries(table, grown)
    return grown


@compiled_in_place
def slot_of(table, first, second):  # type: ignore[no-untyped-def]
    """The slot that holds the pair, or `-1 - slot` of the free one where it would go."""
    mask = table.shape[0] - 1
    mixed = np.uint64(first) * np.uint64(0x9E3779B97F4A7C15) ^ (np.uint64(second) + np.uint64(0xD1B54A32D192ED03)) * np.uint64(
        0xBF58476D1CE4E5B9
    )
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0x94D049BB133111EB)
    slot = np.int64(mixed >> np.uint64(20)) & mask
    while table[slot, _USED] != 0:
        if table[slot, _FIRST] == first and table[slot, _SECOND] == second:
            return slot
        slot = (slot + 1) & mask
    return -1 - slot


@compiled_in_place
def put_at(table, slot, first, second, value):  # type: ignore[no-untyped-def]
    """Fill a free slot, as `slot_of` gave it (already turned positive)."""
    table[slot, _FIRST] = first
    table[slot, _SECOND] = second
    table[slot, _VALUE] = value
    table[slot, _USED] = 1


@compiled_in_place
def delete_at(table, slot):  # type: ignore[no-untyped-def]
    """Remove the entry of a slot, and close the gap."""
    mask = table.shape[0] - 1
    gap = slot
    table[gap, _USED] = 0
    probe = (gap + 1) & mask
    while table[probe, _USED] != 0:
        first, second, value = table[probe, _FIRST], table[probe, _SECOND], table[probe, _VALUE]
        table[probe, _USED] = 0
        # With itself lifted out, the entry's place is the first free slot of its own probe sequence: the gap, or where it stood.
        put_at(table, -1 - slot_of(table, first, second), first, second, value)
        probe = (probe + 1) & mask


@compiled_in_place
def _copy_entries(source, target):  # type: ignore[no-untyped-def]
    for i in range(source.shape[0]):
        if source[i, _USED] != 0:
            first, second = source[i, _FIRST], source[i, _SECOND]
            put_at(target, -1 - slot_of(target, first, second), first, second, source[i, _VALUE])
