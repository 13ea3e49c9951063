"""What the joining of examples remembers: rows of what was seen, outcomes that came before, and a heap of what falls due.

Compiled; plain bookkeeping, no rule of docs/semantics.md is decided here. A row or a node that is free is chained into its free list.
"""

from __future__ import annotations

import numpy as np

from flows.compiled import compiled_in_place
from flows.kernels.pairmap import delete_at, put_at, slot_of

# Scalars.
N_ROWS, FREE_ROW, N_NODES, FREE_NODE, N_DUE, SEQUENCE, N_SAVED, PUT_OUT = 0, 1, 2, 3, 4, 5, 6, 7
JOIN_SCALARS = 8

# Columns of `rows`: one (user, request, pin). R_DUE is the number of its entry in the heap that counts; R_LINK the next row of its user and pin
# that has a save, or of the free list; R_NODE its first outcome that waits for an impression.
R_USER, R_REQUEST, R_PIN, R_STATE, R_SEEN, R_TOPIC, R_NUMBER, R_INDEX, R_LABELS, R_SAVE_TIME, R_SAVE_ID, R_NODE, R_LINK, R_LINKED, R_DUE, R_BORN = (
    range(16)
)  # fmt: skip
ROW_COLUMNS = 16
# Its states: nothing, outcomes alone, an impression without a served row, an example, a saved example that waits for its save's label.
FREE, EARLY, UNSERVED, EXAMPLE, SAVED = 0, 1, 2, 3, 4

# Columns of `nodes`: outcomes that wait.
O_HEAD, O_TIME, O_ID, O_REVISITED, O_ROW, O_NEXT, O_DUE = range(7)
NODE_COLUMNS = 7

# Columns of `heap`: what falls due once the watermark is at D_TIME, in the order of (D_TIME, D_NUMBER).
D_TIME, D_NUMBER, D_WHAT, D_OF = range(4)
DUE_COLUMNS = 4
# What falls due: an impression's labels, a save's, an outcome that has found no impression. An entry whose number its row no longer names is void.
LABELS_DUE, SAVE_DUE, OUTCOME_DUE = 0, 1, 2


@compiled_in_place
def mixed(user, request):  # type: ignore[no-untyped-def]
    """One key of a user and a request."""
    return np.int64(
        (np.uint64(user) * np.uint64(0x9E3779B97F4A7C15))
        ^ ((np.uint64(request) + np.uint64(0xD1B54A32D192ED03)) * np.uint64(0xBF58476D1CE4E5B9))
    )


@compiled_in_place
def row_of(user, request, pin, keys):  # type: ignore[no-untyped-def]
    """The row of a triple, -1 if there is none."""
    slot = slot_of(keys, mixed(user, request), pin)
    return keys[slot, 2] if slot >= 0 else np.int64(-1)


@compiled_in_place
def add_row(user, request, pin, state, scalars, rows, keys):  # type: ignore[no-untyped-def]
    """A new row, of which there is none."""
    r = scalars[FREE_ROW]
    scalars[FREE_ROW] = rows[r, R_LINK]
    scalars[N_ROWS] += 1
    key = mixed(user, request)
    put_at(keys, -1 - slot_of(keys, key, pin), key, pin, r)
    for column in range(rows.shape[1]):
        rows[r, column] = 0
    rows[r, R_USER], rows[r, R_REQUEST], rows[r, R_PIN], rows[r, R_STATE] = user, request, pin, state
    rows[r, R_NUMBER] = rows[r, R_NODE] = rows[r, R_LINK] = rows[r, R_DUE] = -1
    rows[r, R_BORN] = scalars[SEQUENCE]
    scalars[SEQUENCE] += 1
    return r


@compiled_in_place
def free_row(r, scalars, rows, keys, saved):  # type: ignore[no-untyped-def]
    """Forget a row, which has no nodes."""
    delete_at(keys, slot_of(keys, mixed(rows[r, R_USER], rows[r, R_REQUEST]), rows[r, R_PIN]))
    if rows[r, R_LINKED]:
        slot = slot_of(saved, rows[r, R_USER], rows[r, R_PIN])
        at = saved[slot, 2]
        if at == r:
            if rows[r, R_LINK] < 0:
                delete_at(saved, slot)
                scalars[N_SAVED] -= 1
            else:
                saved[slot, 2] = rows[r, R_LINK]
        else:
            while rows[at, R_LINK] != r:
                at = rows[at, R_LINK]
            rows[at, R_LINK] = rows[r, R_LINK]
    rows[r, R_STATE], rows[r, R_DUE], rows[r, R_LINK] = FREE, -1, scalars[FREE_ROW]
    scalars[FREE_ROW] = r
    scalars[N_ROWS] -= 1


@compiled_in_place
def link_saved(r, scalars, rows, saved):  # type: ignore[no-untyped-def]
    """Have a row found by its user and pin: it has a save. Rows of one pair are linked in the order in which they began, whatever came first."""
    if rows[r, R_LINKED]:
        return
    rows[r, R_LINKED] = 1
    slot = slot_of(saved, rows[r, R_USER], rows[r, R_PIN])
    if slot < 0:
        put_at(saved, -1 - slot, rows[r, R_USER], rows[r, R_PIN], r)
        scalars[N_SAVED] += 1
        rows[r, R_LINK] = -1
        return
    at = saved[slot, 2]
    if rows[at, R_BORN] > rows[r, R_BORN]:
        rows[r, R_LINK] = at
        saved[slot, 2] = r
        return
    while rows[at, R_LINK] >= 0 and rows[rows[at, R_LINK], R_BORN] < rows[r, R_BORN]:
        at = rows[at, R_LINK]
    rows[r, R_LINK] = rows[at, R_LINK]
    rows[at, R_LINK] = r


@compiled_in_place
def add_node(r, head, time, event, scalars, rows, nodes):  # type: ignore[no-untyped-def]
    """Append an outcome to those of a row."""
    k = scalars[FREE_NODE]
    scalars[FREE_NODE] = nodes[k, O_NEXT]
    scalars[N_NODES] += 1
    nodes[k, O_HEAD], nodes[k, O_TIME], nodes[k, O_ID], nodes[k, O_REVISITED] = head, time, event, 0
    nodes[k, O_ROW], nodes[k, O_NEXT], nodes[k, O_DUE] = r, -1, -1
    if rows[r, R_NODE] < 0:
        rows[r, R_NODE] = k
    else:
        at = rows[r, R_NODE]
        while nodes[at, O_NEXT] >= 0:
            at = nodes[at, O_NEXT]
        nodes[at, O_NEXT] = k
    return k


@compiled_in_place
def free_node(k, scalars, rows, nodes):  # type: ignore[no-untyped-def]
    """Take an outcome from its row."""
    r = nodes[k, O_ROW]
    if rows[r, R_NODE] == k:
        rows[r, R_NODE] = nodes[k, O_NEXT]
    else:
        at = rows[r, R_NODE]
        while nodes[at, O_NEXT] != k:
            at = nodes[at, O_NEXT]
        nodes[at, O_NEXT] = nodes[k, O_NEXT]
    nodes[k, O_DUE], nodes[k, O_NEXT] = -1, scalars[FREE_NODE]
    scalars[FREE_NODE] = k
    scalars[N_NODES] -= 1


@compiled_in_place
def _before(heap, a, b):  # type: ignore[no-untyped-def]
    return heap[a, D_TIME] < heap[b, D_TIME] or (heap[a, D_TIME] == heap[b, D_TIME] and heap[a, D_NUMBER] < heap[b, D_NUMBER])


@compiled_in_place
def _swap(heap, a, b):  # type: ignore[no-untyped-def]
    for column in range(heap.shape[1]):
        kept = heap[a, column]
        heap[a, column] = heap[b, column]
        heap[b, column] = kept


@compiled_in_place
def push_due(time, what, of, scalars, heap):  # type: ignore[no-untyped-def]
    """Have something fall due; returns the number of the entry."""
    number = scalars[SEQUENCE]
    scalars[SEQUENCE] += 1
    at = scalars[N_DUE]
    scalars[N_DUE] += 1
    heap[at, D_TIME], heap[at, D_NUMBER], heap[at, D_WHAT], heap[at, D_OF] = time, number, what, of
    while at > 0 and _before(heap, at, (at - 1) // 2):
        _swap(heap, at, (at - 1) // 2)
        at = (at - 1) // 2
    return number


@compiled_in_place
def pop_due(scalars, heap):  # type: ignore[no-untyped-def]
    """Take away the first entry, heap[0]."""
    scalars[N_DUE] -= 1
    last = scalars[N_DUE]
    _swap(heap, 0, last)
    at = 0
    while True:
        least = at
        for child in (2 * at + 1, 2 * at + 2):
            if child < last and _before(heap, child, least):
                least = child
        if least == at:
            return
        _swap(heap, at, least)
        at = least
