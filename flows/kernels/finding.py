"""Rows of many entities out of blocks that lie in memory: every run of every partition in one pass, and each entity's rows merged from them."""

from __future__ import annotations

import numpy as np

from flows.compiled import compiled
from flows.kernels.rows import _less


@compiled
def spans_of(ids, homes, runs_from, blocks_from, firsts, slots, lengths, arena, tick, used, spans, ends, missing):  # type: ignore[no-untyped-def]
    """Where the rows of entities lie.

    Parameters
    ----------
    ids : int64[n]
        In any order, and as often as one likes.
    homes : int32[n]
        Partition of each.
    runs_from : int64[partitions + 1]
        Runs of partition p are runs_from[p] to runs_from[p + 1].
    blocks_from : int64[runs + 1]
        Blocks of run r are blocks_from[r] to blocks_from[r + 1].
    firsts : int64[blocks]
        First entity of each block.
    slots : int32[blocks]
        Where a block lies in the arena, -1 if it doesn't.
    lengths : int32[slots]
        Rows of the block that lies there.
    arena : int64[slots, rows, columns]
    tick : int
        Of this request.
    used : int64[slots]
        Gets the tick of each slot that is looked at.
    spans : int64[k, 3]
        Gets slot, first row, row behind the last, in the order of ids.
    ends : int64[n]
        Gets, of each entity, where its spans end.
    missing : int64[m]
        Gets blocks that are wanted and not there.

    Returns
    -------
    found, lacking, total : int
        How many spans and missing blocks there are, which may be more than there is room for, and are then to be asked for again; and rows.
    """
    found = lacking = total = 0
    for i in range(ids.shape[0]):
        entity = ids[i]
        for run in range(runs_from[homes[i]], runs_from[homes[i] + 1]):
            low, high = blocks_from[run], blocks_from[run + 1]
            # The first block that begins with the entity or later; its rows may begin in the block before.
            a, b = low, high
            while a < b:
                middle = (a + b) // 2
                if firsts[middle] < entity:
                    a = middle + 1
                else:
                    b = middle
            block = max(a - 1, low)
            while block < high and firsts[block] <= entity:
                slot = slots[block]
                if slot < 0:
                    if lacking < missing.shape[0]:
                        missing[lacking] = block
                    lacking += 1
                else:
                    used[slot] = tick
                    rows = arena[slot]
                    a, b = 0, np.int64(lengths[slot])
                    while a < b:
                        middle = (a + b) // 2
                        if rows[middle, 0] < entity:
                            a = middle + 1
                        else:
                            b = middle
                    first = a
                    b = np.int64(lengths[slot])
                    while a < b:
                        middle = (a + b) // 2
                        if rows[middle, 0] <= entity:
                            a = middle + 1
                        else:
                            b = middle
                    if a > first:
                        if found < spans.shape[0]:
                            spans[found, 0], spans[found, 1], spans[found, 2] = slot, first, a
                        found += 1
                        total += a - first
                block += 1
        ends[i] = found
    return found, lacking, total


@compiled
def merged(spans, ends, arena, keys, rows, bounds):  # type: ignore[no-untyped-def]
    """Each entity's rows out of its spans, sorted by their first `keys` columns.

    Parameters
    ----------
    spans, ends
        Of `spans_of`.
    rows : int64[m, columns]
        Gets the rows, entity by entity.
    bounds : int64[n + 1]
        Gets where each entity's rows lie.
    """
    held = np.empty_like(rows)
    at = span = 0
    bounds[0] = 0
    for i in range(ends.shape[0]):
        first = at
        while span < ends[i]:
            start = at
            block = arena[spans[span, 0]]
            for row in range(spans[span, 1], spans[span, 2]):
                for column in range(rows.shape[1]):
                    rows[at, column] = block[row, column]
                at += 1
            span += 1
            # Spans are sorted; one that begins before the last has ended is merged into what is there.
            if start > first and _less(rows, start, rows, start - 1, keys):
                for row in range(first, start):
                    for column in range(rows.shape[1]):
                        held[row, column] = rows[row, column]
                a, b, to = first, start, first
                while a < start:
                    if b < at and _less(rows, b, held, a, keys):
                        for column in range(rows.shape[1]):
                            rows[to, column] = rows[b, column]
                        b += 1
                    else:
                        for column in range(rows.shape[1]):
                            rows[to, column] = held[a, column]
                        a += 1
                    to += 1
        bounds[i + 1] = at
