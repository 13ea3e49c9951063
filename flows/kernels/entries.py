"""Entries of the working set: saves and revisit nodes in their buckets' lists, and the queues in which they wait to expire.

Compiled; plain bookkeeping, no rule of docs/semantics.md is decided here.
"""

from __future__ import annotations

import numpy as np

from flows.compiled import compiled, compiled_in_place
from flows.kernels.layout import (
    B_NODE,
    B_PIN,
    B_SAVE,
    B_USER,
    BUCKET_OLDER,
    FREE_BUCKET,
    FREE_NODE,
    FREE_SAVE,
    N_BUCKET,
    N_BUCKETS,
    N_CLICK,
    N_NEWER,
    N_NODES,
    N_OLDER,
    N_SAVE,
    N_SAVES,
    N_SEEN,
    N_TIME,
    NEVER,
    S_BUCKET,
    S_CLICK,
    S_ID,
    S_IMPRESSION,
    S_NEWER,
    S_OLDER,
    S_RELATED,
    S_SURFACE,
    S_TIME,
    S_TOPIC,
)
from flows.kernels.pairmap import delete_at, put_at, slot_of


@compiled_in_place
def push(queue):  # type: ignore[no-untyped-def]
    """Append to a queue that has room; returns the row to fill."""
    at = queue[0, 0] + queue[0, 1]
    capacity = queue.shape[0] - 1
    if at >= capacity:
        at -= capacity
    queue[0, 1] += 1
    return 1 + at


@compiled_in_place
def pop(queue):  # type: ignore[no-untyped-def]
    """Drop the oldest entry of a queue."""
    queue[0, 0] += 1
    queue[0, 1] -= 1
    if queue[0, 0] == queue.shape[0] - 1:
        queue[0, 0] = 0


@compiled_in_place
def bucket_of(user, pin, scalars, pairs, buckets):  # type: ignore[no-untyped-def]
    """The bucket of a pair, made if it isn't there."""
    slot = slot_of(pairs, user, pin)
    if slot >= 0:
        return pairs[slot, 2]
    bucket = scalars[FREE_BUCKET]
    scalars[FREE_BUCKET] = buckets[bucket, BUCKET_OLDER]
    scalars[N_BUCKETS] += 1
    buckets[bucket, B_USER], buckets[bucket, B_PIN], buckets[bucket, B_SAVE], buckets[bucket, B_NODE] = user, pin, -1, -1
    put_at(pairs, -1 - slot, user, pin, bucket)
    return bucket


@compiled_in_place
def drop_if_empty(bucket, scalars, pairs, buckets):  # type: ignore[no-untyped-def]
    """Free a bucket that has neither save nor node."""
    if buckets[bucket, B_SAVE] < 0 and buckets[bucket, B_NODE] < 0:
        delete_at(pairs, slot_of(pairs, buckets[bucket, B_USER], buckets[bucket, B_PIN]))
        buckets[bucket, BUCKET_OLDER] = scalars[FREE_BUCKET]
        scalars[FREE_BUCKET] = bucket
        scalars[N_BUCKETS] -= 1


@compiled_in_place
def unlink(entries, entry, older, newer, buckets, bucket, head):  # type: ignore[no-untyped-def]
    """Take an entry out of its bucket's list."""
    before, after = entries[entry, newer], entries[entry, older]
    if before >= 0:
        entries[before, older] = after
    else:
        buckets[bucket, head] = after
    if after >= 0:
        entries[after, newer] = before


@compiled_in_place
def _link(entries, entry, older, newer, buckets, bucket, head, before, after):  # type: ignore[no-untyped-def]
    """Put an entry between its newer and its older neighbour."""
    entries[entry, newer], entries[entry, older] = before, after
    if before >= 0:
        entries[before, older] = entry
    else:
        buckets[bucket, head] = entry
    if after >= 0:
        entries[after, newer] = entry


@compiled_in_place
def add_save(user, pin, time, event, surface, related, topic, scalars, pairs, buckets, saves, opened):  # type: ignore[no-untyped-def]
    """A new save in its bucket's list and in the queue of open ones; returns its entry."""
    bucket = bucket_of(user, pin, scalars, pairs, buckets)
    save = scalars[FREE_SAVE]
    scalars[FREE_SAVE] = saves[save, S_OLDER]
    scalars[N_SAVES] += 1
    row = saves[save]
    row[S_TIME], row[S_ID], row[S_SURFACE], row[S_TOPIC], row[S_BUCKET], row[S_RELATED] = time, event, surface, topic, bucket, related
    row[S_IMPRESSION], row[S_CLICK] = NEVER, NEVER
    newer, older = np.int64(-1), buckets[bucket, B_SAVE]
    # Of two saves that are equal in time and ID the one that arrived last counts as the later one.
    while older >= 0 and (saves[older, S_TIME] > time or (saves[older, S_TIME] == time and saves[older, S_ID] > event)):
        newer, older = older, saves[older, S_OLDER]
    _link(saves, save, S_OLDER, S_NEWER, buckets, bucket, B_SAVE, newer, older)
    at = push(opened)
    opened[at, 0], opened[at, 1] = time, save
    return save


@compiled_in_place
def add_node(user, pin, time, click, holder, scalars, pairs, buckets, nodes, queue):  # type: ignore[no-untyped-def]
    """A new revisit node in its bucket's list and in a queue."""
    bucket = bucket_of(user, pin, scalars, pairs, buckets)
    node = scalars[FREE_NODE]
    scalars[FREE_NODE] = nodes[node, N_OLDER]
    scalars[N_NODES] += 1
    nodes[node, N_TIME], nodes[node, N_CLICK], nodes[node, N_SAVE], nodes[node, N_BUCKET] = time, click, holder, bucket
    newer, older = np.int64(-1), buckets[bucket, B_NODE]
    while older >= 0 and nodes[older, N_TIME] > time:
        newer, older = older, nodes[older, N_OLDER]
    _link(nodes, node, N_OLDER, N_NEWER, buckets, bucket, B_NODE, newer, older)
    at = push(queue)
    queue[at, 0], queue[at, 1] = time, node


@compiled_in_place
def free_node(node, scalars, pairs, buckets, nodes):  # type: ignore[no-untyped-def]
    """Forget a node that has left its queue."""
    bucket = nodes[node, N_BUCKET]
    unlink(nodes, node, N_OLDER, N_NEWER, buckets, bucket, B_NODE)
    nodes[node, N_OLDER] = scalars[FREE_NODE]
    scalars[FREE_NODE] = node
    scalars[N_NODES] -= 1
    drop_if_empty(bucket, scalars, pairs, buckets)


@compiled
def restore_entries(from_saves, from_nodes, n_held, from_seen, scalars, ids, pairs, buckets, saves, nodes, seen, opened, recent, held):  # type: ignore[no-untyped-def]
    """Fill empty arrays with the entries of `WorkingSet.to_bytes`, in their order of arrival."""
    slots = np.empty(from_saves.shape[0], np.int64)
    for i in range(from_saves.shape[0]):
        r = from_saves[i]
        slots[i] = add_save(r[0], r[1], r[2], r[3], r[4], r[8], r[5], scalars, pairs, buckets, saves, opened)
        saves[slots[i], S_IMPRESSION], saves[slots[i], S_CLICK] = r[6], r[7]
    for i in range(from_nodes.shape[0]):
        r = from_nodes[i]
        # A held node's save may have gone; nothing asks for it any more.
        holder = slots[r[4]] if r[4] >= 0 else np.int64(-1)
        add_node(r[0], r[1], r[2], r[3], holder, scalars, pairs, buckets, nodes, held if i < n_held else recent)
    for i in range(from_seen.shape[0]):
        user, event, time = from_seen[i, 0], from_seen[i, 1], from_seen[i, 2]
        at = push(seen)
        seen[at, 0], seen[at, 1], seen[at, 2] = user, event, time
        slot = slot_of(ids, user, event)
        if slot >= 0:
            ids[slot, 2] = time
        else:
            put_at(ids, -1 - slot, user, event, time)
            scalars[N_SEEN] += 1
