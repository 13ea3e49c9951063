"""The rules of docs/semantics.md as one compiled loop over records: duplicate, late, credited to which save, what changed, what can be forgotten.

It reads like the definition. `flows.kernels.actions` gives it room and arrays; it never looks at a clock.
"""

from __future__ import annotations

import numpy as np

from flows.compiled import compiled_in_place
from flows.kernels.entries import add_node, add_save, drop_if_empty, free_node, pop, push, unlink
from flows.kernels.layout import (
    ACCEPTED,
    ARRIVAL,
    B_NODE,
    B_PIN,
    B_SAVE,
    B_USER,
    BAD,
    CREDIT_MS,
    DAY_MS,
    DUPLICATE,
    FREE_SAVE,
    FUTURE,
    N_BUCKETS,
    N_CLICK,
    N_NODES,
    N_OLDER,
    N_SAVE,
    N_SAVES,
    N_SEEN,
    N_TIME,
    NEVER,
    ROLE_CLICK,
    ROLE_RELATED_PINS,
    ROLE_REVISIT,
    ROLE_SAVE,
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
    W,
)
from flows.kernels.pairmap import delete_at, put_at, slot_of

NO_ROOM = -1


@compiled_in_place
def _has_room(n, scalars, ids, pairs, buckets, saves, nodes, seen, opened, recent, held):  # type: ignore[no-untyped-def]
    """Whether n more records have room, whatever they are. Tables are at most half full; a record can move all of `recent` along."""
    return (
        2 * (scalars[N_SEEN] + n) <= ids.shape[0]
        and 2 * (scalars[N_BUCKETS] + n) <= pairs.shape[0]
        and scalars[N_BUCKETS] + n <= buckets.shape[0]
        and scalars[N_SAVES] + n <= saves.shape[0]
        and scalars[N_NODES] + n <= nodes.shape[0]
        and seen[0, 1] + n <= seen.shape[0] - 1
        and opened[0, 1] + n <= opened.shape[0] - 1
        and recent[0, 1] + n <= recent.shape[0] - 1
        and held[0, 1] + n + recent[0, 1] <= held.shape[0] - 1
    )


@compiled_in_place
def judge_records(  # type: ignore[no-untyped-def]
    stretch, event_id, user_id, pin_id, event_time, role, surface, topic, timestamp, bad, clock, limits,
    scalars, ids, pairs, buckets, saves, nodes, seen, opened, recent, held,
    status, lateness, changes, labels, moves, revisited, done,
):  # fmt: skip
    """Judge records from done[0] on; a `clock` that isn't NEVER, if there are any, moves the watermark whatever becomes of the record.

    `revisited` is filled where it has rows: the save (time, ID) of the record's user and pin that has come to be revisited by the record.
    Returns 0 at the end, NO_ROOM if the working set has none for `stretch` more, or what the outputs lack.
    """
    allowed, horizon, skew = limits[0], limits[1], limits[2]
    looked = done[0]
    for i in range(done[0], event_id.shape[0]):
        # Here and not between calls: to come back to Python is to wait for its lock.
        if i == looked:
            if not _has_room(stretch, scalars, ids, pairs, buckets, saves, nodes, seen, opened, recent, held):
                return NO_ROOM
            looked += stretch
        # What one record can change at most: itself, and for a save the nodes that it may take over.
        most = 1
        user, pin, time = user_id[i], pin_id[i], event_time[i]
        if role[i] & ROLE_SAVE and not bad[i]:
            slot = slot_of(pairs, user, pin)
            if slot >= 0:
                node = buckets[pairs[slot, 2], B_NODE]
                while node >= 0 and nodes[node, N_TIME] > time:
                    most += 1
                    node = nodes[node, N_OLDER]
        if done[1] + 2 * most > changes.shape[0] or done[3] + 4 * most > moves.shape[0]:
            return most
        done[0] = i + 1

        scalars[ARRIVAL] = max(scalars[ARRIVAL], timestamp[i])
        before = scalars[W]
        pinned = clock.shape[0] > 0 and clock[i] != NEVER
        if bad[i]:
            status[i] = BAD
        elif time - skew > scalars[ARRIVAL]:
            status[i] = FUTURE
        else:
            slot = slot_of(ids, user, event_id[i])
            if slot >= 0 and ids[slot, 2] >= before - horizon:
                status[i] = DUPLICATE
        if status[i] != ACCEPTED:
            if pinned and clock[i] > before:
                scalars[W] = clock[i]
                _expire(clock[i], allowed, horizon, scalars, ids, pairs, buckets, saves, nodes, seen, opened, recent, held, labels, done)
            continue
        now = max(before, clock[i] if pinned else time)
        late = time < before - allowed
        if late:
            lateness[i] = before - time
        if time >= now - horizon:
            if slot >= 0:
                ids[slot, 2] = time
            else:
                put_at(ids, -1 - slot, user, event_id[i], time)
                scalars[N_SEEN] += 1
            at = push(seen)
            seen[at, 0], seen[at, 1], seen[at, 2] = user, event_id[i], time
        if role[i] & ROLE_SAVE:
            if not late:
                _open_save(
                    i,
                    user,
                    pin,
                    time,
                    event_id[i],
                    surface[i],
                    topic[i],
                    role[i],
                    scalars,
                    pairs,
                    buckets,
                    saves,
                    nodes,
                    opened,
                    changes,
                    moves,
                    revisited,
                    done,
                )
        elif role[i] & ROLE_REVISIT:
            _revisit(
                i, user, pin, time, role[i], before, now, allowed, scalars, pairs, buckets, saves, nodes, recent, changes, moves, revisited, done
            )  # fmt: skip
        if now > before:
            scalars[W] = now
            _expire(now, allowed, horizon, scalars, ids, pairs, buckets, saves, nodes, seen, opened, recent, held, labels, done)
    return 0


@compiled_in_place
def _open_save(  # type: ignore[no-untyped-def]
    i, user, pin, time, event, surface, topic, role, scalars, pairs, buckets, saves, nodes, opened, changes, moves, revisited, done
):  # fmt: skip
    """Open a save's window; it takes over the revisits that it is now the latest save before."""
    related = 1 if role & ROLE_RELATED_PINS else 0
    save = add_save(user, pin, time, event, surface, related, topic, scalars, pairs, buckets, saves, opened)
    bucket = saves[save, S_BUCKET]
    _move(i, save, saves, NEVER, 1, moves, done)

    node = buckets[bucket, B_NODE]
    while node >= 0 and nodes[node, N_TIME] > time:
        revisit, click, holder = nodes[node, N_TIME], nodes[node, N_CLICK], nodes[node, N_SAVE]
        # A holder older than this save loses; one that is newer (it stands before this save in the list) keeps the revisit.
        loses = holder < 0 or saves[holder, S_TIME] < time or (saves[holder, S_TIME] == time and saves[holder, S_ID] <= event)
        if revisit < time + CREDIT_MS and loses:
            nodes[node, N_SAVE] = save
            _credit(i, save, saves, click, revisit, moves, revisited, done)
            if holder < 0:
                _change(i, pin, user, revisit, click, related, 1, changes, done)
            else:
                _lose(i, holder, revisit, click, bucket, buckets, saves, nodes, moves, done)
                was_related = saves[holder, S_RELATED]
                if was_related != related:
                    _change(i, pin, user, revisit, click, was_related, -1, changes, done)
                    _change(i, pin, user, revisit, click, related, 1, changes, done)
        node = nodes[node, N_OLDER]


@compiled_in_place
def _lose(i, save, time, click, bucket, buckets, saves, nodes, moves, done):  # type: ignore[no-untyped-def]
    """A save has lost a revisit: find its first one of that type anew if it was that."""
    if saves[save, S_CLICK if click else S_IMPRESSION] != time:
        return
    first = NEVER
    node = buckets[bucket, B_NODE]
    # Not past the save's own time: an older node may name a save that has gone, whose entry this one took.
    while node >= 0 and nodes[node, N_TIME] > saves[save, S_TIME]:
        if nodes[node, N_SAVE] == save and nodes[node, N_CLICK] == click:
            first = nodes[node, N_TIME]
        node = nodes[node, N_OLDER]
    _set_first(i, save, saves, click, first, moves, done)


@compiled_in_place
def _revisit(  # type: ignore[no-untyped-def]
    i, user, pin, time, role, before, now, allowed, scalars, pairs, buckets, saves, nodes, recent, changes, moves, revisited, done
):  # fmt: skip
    """Credit a revisit to the latest save before it, and remember it while a save may still take it over."""
    click = 1 if role & ROLE_CLICK else 0
    holder = np.int64(-1)
    slot = slot_of(pairs, user, pin)
    if slot >= 0:
        save = buckets[pairs[slot, 2], B_SAVE]
        while save >= 0 and saves[save, S_TIME] >= time:
            save = saves[save, S_OLDER]
        # An older save fails both tests too, if this one does.
        if save >= 0 and time < saves[save, S_TIME] + CREDIT_MS and saves[save, S_TIME] + CREDIT_MS + allowed > before:
            holder = save
    if holder < 0 and time <= now - allowed:
        return
    add_node(user, pin, time, click, holder, scalars, pairs, buckets, nodes, recent)
    if holder >= 0:
        _credit(i, holder, saves, click, time, moves, revisited, done)
        _change(i, pin, user, time, click, saves[holder, S_RELATED], 1, changes, done)


@compiled_in_place
def _credit(i, save, saves, click, time, moves, revisited, done):  # type: ignore[no-untyped-def]
    if time < saves[save, S_CLICK if click else S_IMPRESSION]:
        before = is_revisited(saves, save)
        _set_first(i, save, saves, click, time, moves, done)
        # A record credits the revisits of one save alone, so there is one such save at most.
        if revisited.shape[0] and not before and is_revisited(saves, save):
            revisited[i, 0], revisited[i, 1] = saves[save, S_TIME], saves[save, S_ID]


@compiled_in_place
def is_revisited(saves, save):  # type: ignore[no-untyped-def]
    """Whether any label of a save holds: 1dRevImpre, 1dRevGrid or 7dRevGrid."""
    return saves[save, S_CLICK] != NEVER or saves[save, S_IMPRESSION] < saves[save, S_TIME] + DAY_MS


@compiled_in_place
def revisited_saves(wanted, pairs, buckets, saves, out):  # type: ignore[no-untyped-def]
    """Set out[i] where a save that is kept, of wanted[i] = (user, pin, time, ID), is revisited; others are left as they are."""
    for i in range(wanted.shape[0]):
        slot = slot_of(pairs, wanted[i, 0], wanted[i, 1])
        if slot < 0:
            continue
        save = buckets[pairs[slot, 2], B_SAVE]
        while save >= 0:
            if saves[save, S_TIME] == wanted[i, 2] and saves[save, S_ID] == wanted[i, 3] and is_revisited(saves, save):
                out[i] = True
            save = saves[save, S_OLDER]


@compiled_in_place
def _set_first(i, save, saves, click, time, moves, done):  # type: ignore[no-untyped-def]
    """Set the first impression or click of a save (NEVER: none), and say so of a click."""
    if not click:
        saves[save, S_IMPRESSION] = time
        return
    old = saves[save, S_CLICK]
    saves[save, S_CLICK] = time
    if old != NEVER:
        _move(i, save, saves, old, -1, moves, done)
    if time != NEVER:
        _move(i, save, saves, time, 1, moves, done)


@compiled_in_place
def _change(record, pin, user, time, click, related, weight, changes, done):  # type: ignore[no-untyped-def]
    row = changes[done[1]]
    row[0], row[1], row[2], row[3], row[4], row[5] = pin, user, time, click + 2 * related, weight, record
    done[1] += 1


@compiled_in_place
def _move(record, save, saves, click, weight, moves, done):  # type: ignore[no-untyped-def]
    if saves[save, S_TOPIC] != 0:
        row = moves[done[3]]
        row[0], row[1], row[2], row[3], row[4] = saves[save, S_TOPIC], saves[save, S_TIME], click, weight, record
        done[3] += 1


@compiled_in_place
def _expire(now, allowed, horizon, scalars, ids, pairs, buckets, saves, nodes, seen, opened, recent, held, labels, done):  # type: ignore[no-untyped-def]
    """Forget what no later record can change. Queues are in order of arrival: an entry may wait behind a younger one, which harms nothing."""
    while seen[0, 1] > 0 and seen[1 + seen[0, 0], 2] < now - horizon:
        user, event, time = seen[1 + seen[0, 0], 0], seen[1 + seen[0, 0], 1], seen[1 + seen[0, 0], 2]
        slot = slot_of(ids, user, event)
        if slot >= 0 and ids[slot, 2] == time:
            delete_at(ids, slot)
            scalars[N_SEEN] -= 1
        pop(seen)
    while opened[0, 1] > 0 and opened[1 + opened[0, 0], 0] + CREDIT_MS + allowed <= now:
        save = opened[1 + opened[0, 0], 1]
        bucket = saves[save, S_BUCKET]
        row = labels[done[2]]
        row[0], row[1] = buckets[bucket, B_USER], buckets[bucket, B_PIN]
        row[2], row[3], row[4] = saves[save, S_TIME], saves[save, S_ID], saves[save, S_SURFACE]
        row[5], row[6], row[7] = saves[save, S_TOPIC], saves[save, S_IMPRESSION], saves[save, S_CLICK]
        done[2] += 1
        unlink(saves, save, S_OLDER, S_NEWER, buckets, bucket, B_SAVE)
        saves[save, S_OLDER] = scalars[FREE_SAVE]
        scalars[FREE_SAVE] = save
        scalars[N_SAVES] -= 1
        drop_if_empty(bucket, scalars, pairs, buckets)
        pop(opened)
    # A revisit no younger than L can change hands no more; one that nobody holds is of no use then.
    while recent[0, 1] > 0 and recent[1 + recent[0, 0], 0] <= now - allowed:
        time, node = recent[1 + recent[0, 0], 0], recent[1 + recent[0, 0], 1]
        pop(recent)
        if nodes[node, N_SAVE] >= 0:
            at = push(held)
            held[at, 0], held[at, 1] = time, node
        else:
            free_node(node, scalars, pairs, buckets, nodes)
    while held[0, 1] > 0 and held[1 + held[0, 0], 0] + CREDIT_MS + allowed <= now:
        node = held[1 + held[0, 0], 1]
        pop(held)
        free_node(node, scalars, pairs, buckets, nodes)
