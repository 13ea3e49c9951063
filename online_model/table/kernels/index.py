"""From IDs to rows: an open-addressing hash that a batch is looked up in, counted in and admitted by, one sighting after another.

A map is int64[capacity, 2], capacity a power of two; an entry is (ID, value), and a value of 0 says that nothing is there, so every int64 may be an
ID. Linear probing at a load of at most a half; deletion shifts the following entries back, so there are no tombstones. No result may depend on
where a batch was cut.
"""

from __future__ import annotations

import numpy as np

from flows.compiled import compiled, compiled_in_place

# Columns of `entries`, int64[rows, 4]: one cache line tells all of a row but its vector. A COUNT of 0: the row is free.
ID, COUNT, LAST_SEEN, MARK = 0, 1, 2, 3
# In MARK: whether the row has changed since it was last asked. The bits above are a batch's, while it is grouped (kernels/updates.py).
CHANGED = 1

# Of `tally`, int64[6]. HANDED: rows that have ever been handed out, row 0 among them. FREE: how many lie in `free`. LIVE: IDs that have a row.
# NEWER: which of the two maps of candidates is the newer one; IN_NEWER: how many it holds. ADMITTED: by this call.
HANDED, FREE, LIVE, NEWER, IN_NEWER, ADMITTED = 0, 1, 2, 3, 4, 5


@compiled_in_place
def home_of(table, key):  # type: ignore[no-untyped-def]
    """The slot where a key is looked for first."""
    # The finalizer of SplitMix64 (Steele et al., 2014), less its last step: all bits of an ID reach the low ones.
    mixed = np.uint64(key)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64(mixed >> np.uint64(20)) & (table.shape[0] - 1)


@compiled_in_place
def slot_of(table, key):  # type: ignore[no-untyped-def]
    """The slot that holds a key, or `-1 - slot` of the free one where it would go."""
    mask = table.shape[0] - 1
    slot = home_of(table, key)
    while table[slot, 1] != 0:
        if table[slot, 0] == key:
            return slot
        slot = (slot + 1) & mask
    return -1 - slot


@compiled_in_place
def remove_at(table, slot):  # type: ignore[no-untyped-def]
    """Remove the entry of a slot, and close the gap."""
    mask = table.shape[0] - 1
    table[slot, 1] = 0
    probe = (slot + 1) & mask
    while table[probe, 1] != 0:
        key, value = table[probe, 0], table[probe, 1]
        table[probe, 1] = 0
        # With itself lifted out, the entry's place is the first free slot of its own probe sequence: the gap, or where it stood.
        place = -1 - slot_of(table, key)
        table[place, 0] = key
        table[place, 1] = value
        probe = (probe + 1) & mask


@compiled_in_place
def put_all(table, keys, values):  # type: ignore[no-untyped-def]
    """Put keys that aren't there yet; the table has room for them."""
    for i in range(keys.shape[0]):
        place = -1 - slot_of(table, keys[i])
        table[place, 0] = keys[i]
        table[place, 1] = values[i]


@compiled_in_place
def copy_all(source, target):  # type: ignore[no-untyped-def]
    """Put every entry of a map into a larger, empty one."""
    for i in range(source.shape[0]):
        if source[i, 1] != 0:
            place = -1 - slot_of(target, source[i, 0])
            target[place, 0] = source[i, 0]
            target[place, 1] = source[i, 1]


@compiled_in_place
def look_up(index, ids, rows, pending):  # type: ignore[no-untyped-def]
    """The row of each ID, 0 for one that has none.

    Many go one step at a time, those that are not done together, without a branch on what is found: a processor guesses wrong at about every other
    ID, which takes as long as twenty steps.

    Parameters
    ----------
    index : map
    ids : int64[n]
    rows : int64[n]
        Filled in.
    pending : int64[2, m]
        Of any use to nobody: places and slots of those that are not done, of m at a time.
    """
    mask = index.shape[0] - 1
    for begin in range(0, ids.shape[0], pending.shape[1]):
        left = 0
        for i in range(begin, min(begin + pending.shape[1], ids.shape[0])):
            slot = home_of(index, ids[i])
            # That of another ID, if it is not done: then it is written again.
            rows[i] = index[slot, 1]
            pending[0, left] = i
            pending[1, left] = slot
            left += 1 if (rows[i] != 0) & (index[slot, 0] != ids[i]) else 0
        while left:
            still = 0
            for j in range(left):
                i = pending[0, j]
                slot = (pending[1, j] + 1) & mask
                rows[i] = index[slot, 1]
                pending[0, still] = i
                pending[1, still] = slot
                still += 1 if (rows[i] != 0) & (index[slot, 0] != ids[i]) else 0
            left = still


@compiled_in_place
def _sightings(candidates, tally, key, room):  # type: ignore[no-untyped-def]
    """How often a candidate has been seen, this time included.

    Two generations: a new candidate goes into the newer one, and so does one of the older that is seen again. When the newer is full it becomes the
    older, and what was left in that is forgotten. So a count is never too high, and right for whoever comes again before `room` others.
    """
    newer = tally[NEWER]
    slot = slot_of(candidates[newer], key)
    if slot >= 0:
        candidates[newer, slot, 1] += 1
        return candidates[newer, slot, 1]
    before = 0
    old = slot_of(candidates[1 - newer], key)
    if old >= 0:
        before = candidates[1 - newer, old, 1]
        remove_at(candidates[1 - newer], old)
    if tally[IN_NEWER] == room:
        newer = 1 - newer
        candidates[newer, :, :] = 0
        tally[NEWER] = newer
        tally[IN_NEWER] = 0
        slot = slot_of(candidates[newer], key)
    candidates[newer, -1 - slot, 0] = key
    candidates[newer, -1 - slot, 1] = before + 1
    tally[IN_NEWER] += 1
    return before + 1


@compiled_in_place
def forget_candidates(candidates, tally, ids):  # type: ignore[no-untyped-def]
    """Take IDs from the candidates, those that are among them."""
    for i in range(ids.shape[0]):
        for generation in range(2):
            slot = slot_of(candidates[generation], ids[i])
            if slot >= 0:
                remove_at(candidates[generation], slot)
                tally[IN_NEWER] -= 1 if generation == tally[NEWER] else 0


@compiled_in_place
def _take_row(free, tally):  # type: ignore[no-untyped-def]
    """A row for a new ID; there is one."""
    tally[LIVE] += 1
    if tally[FREE]:
        tally[FREE] -= 1
        return free[tally[FREE]]
    tally[HANDED] += 1
    return tally[HANDED] - 1


@compiled_in_place
def _has_room(index, entries, tally):  # type: ignore[no-untyped-def]
    return 2 * (tally[LIVE] + 1) <= index.shape[0] and (tally[FREE] > 0 or tally[HANDED] < entries.shape[0])


@compiled_in_place
def admit(index, entries, free, candidates, tally, ids, times, begin, admit_after, room, rows, new):  # type: ignore[no-untyped-def]
    """Count sightings from `begin` on, and give a row to each ID that has been seen often enough.

    Parameters
    ----------
    index, entries, free, candidates, tally
        The table; changed.
    ids, times : int64[n]
    begin : int
    admit_after, room : int
        Sightings that an ID needs, and how many candidates a generation holds.
    rows : int64[n]
        As `look_up` gave them: it doesn't wait for one row's memory after another's. Filled in where an ID gets a row.
    new : int64[n]
        Filled in: `tally[ADMITTED]` rows that were handed out, in order.

    Returns
    -------
    int
        Where it stopped: n, or the sighting before which index or rows must grow.
    """
    for i in range(begin, ids.shape[0]):
        if rows[i] == 0:
            # It may have been given one in this batch.
            slot = slot_of(index, ids[i])
            if slot >= 0:
                rows[i] = index[slot, 1]
        if rows[i] > 0:
            row = rows[i]
            entries[row, COUNT] += 1
            entries[row, LAST_SEEN] = max(entries[row, LAST_SEEN], times[i])
            continue
        key = ids[i]
        # Before it is counted: whoever grows them comes back to this very sighting.
        if not _has_room(index, entries, tally):
            return i
        seen = _sightings(candidates, tally, key, room) if admit_after > 1 else 1
        if seen < admit_after:
            continue
        if admit_after > 1:
            newer = tally[NEWER]
            remove_at(candidates[newer], slot_of(candidates[newer], key))
            tally[IN_NEWER] -= 1
        row = _take_row(free, tally)
        index[-1 - slot, 0] = key
        index[-1 - slot, 1] = row
        entries[row, ID] = key
        entries[row, COUNT] = seen
        entries[row, LAST_SEEN] = times[i]
        entries[row, MARK] = CHANGED
        rows[i] = row
        new[tally[ADMITTED]] = row
        tally[ADMITTED] += 1
    return ids.shape[0]


@compiled_in_place
def drop(index, entries, free, tally, rows):  # type: ignore[no-untyped-def]
    """Take rows from their IDs; they are given out again, the last one first."""
    for i in range(rows.shape[0]):
        row = rows[i]
        remove_at(index, slot_of(index, entries[row, ID]))
        entries[row, :] = 0
        free[tally[FREE]] = row
        tally[FREE] += 1
        tally[LIVE] -= 1


@compiled
def live_rows(entries, handed, count):  # type: ignore[no-untyped-def]
    """The `count` rows that an ID has, ascending: int64[count]."""
    rows = np.empty(count, np.int64)
    n = 0
    for row in range(1, handed):
        if entries[row, COUNT] > 0:
            rows[n] = row
            n += 1
    return rows
