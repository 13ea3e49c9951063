"""The actions kernel: what one partition's records mean, record by record.

`judge` decides duplicates, lateness and the watermark, credits revisits to saves, and says what changed. It reads like docs/semantics.md and
runs as compiled code over column batches. It keeps only what a later record can still change (the *working set*): IDs within the dedup horizon,
saves for 7 d + L, revisits that a save can still take over. It never looks at a clock, and how records are cut into batches never matters.

The working set is a handful of int64 arrays so that it is saved and restored as bytes:
`buckets` one per (user, pin) that has a save or a revisit node; in each the newest save and the newest node head doubly linked lists, newest first;
`saves`, `nodes` the list entries; queues `seen`, `open`, `recent`, `held` hold, in order of arrival, what will expire.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from flows.kernels.pairmap import delete_at, new_table, put_at, slot_of, with_room

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
CREDIT_MS = 7 * DAY_MS
NEVER = np.int64(2**62)  # as a first time: there is none. As a watermark, negated: nothing was accepted.

ACCEPTED, BAD, DUPLICATE, FUTURE = 0, 1, 2, 3

# What the kernel must know of an action and its surface, as bits of a record's role.
ROLE_SAVE, ROLE_REVISIT, ROLE_CLICK, ROLE_RELATED_PINS = 1, 2, 4, 8

# Scalars of the working set.
W, ARRIVAL, N_SEEN, N_BUCKETS, FREE_BUCKET, FREE_SAVE, FREE_NODE, N_SAVES, N_NODES = 0, 1, 2, 3, 4, 5, 6, 7, 8
SCALARS = 9

# Columns of `buckets`, `saves`, `nodes`. A free entry links to the next free one through its OLDER column.
B_USER, B_PIN, B_SAVE, B_NODE = 0, 1, 2, 3
BUCKET_OLDER = B_SAVE
S_TIME, S_ID, S_SURFACE, S_TOPIC, S_BUCKET, S_OLDER, S_NEWER, S_IMPRESSION, S_CLICK, S_RELATED = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
N_TIME, N_CLICK, N_SAVE, N_BUCKET, N_OLDER, N_NEWER = 0, 1, 2, 3, 4, 5

# A queue is int64[capacity + 1, width]: row 0 is (head, length), then a ring.
CHANGE_COLUMNS = ("pin_id", "user_id", "time", "kind", "weight", "record")
LABEL_COLUMNS = ("user_id", "pin_id", "save_time", "event_id", "surface", "topic", "first_impression", "first_click")
TILE_COLUMNS = ("topic", "kind", "hour", "weight")


@dataclass(frozen=True)
class Judged:
    """What a run of records changed.

    Attributes
    ----------
    status : int8[n]
        ACCEPTED, BAD, DUPLICATE or FUTURE.
    lateness : int64[n]
        W − event_time in ms of a late record, else 0.
    changes : int64[m, 6]
        Credit changes in input order, columns CHANGE_COLUMNS; kind bit 0 = click, bit 1 = save on related_pins; weight ±1; record = index of the cause.
    labels : int64[k, 8]
        Saves that left the working set, with final labels, columns LABEL_COLUMNS; a first time of NEVER is none.
    tiles : int64[j, 4]
        Changes of topic tiles, columns TILE_COLUMNS; kind 0 = saves, 1 + age = first clicks at that age in days; hour = hour of the save.
    """

    status: np.ndarray
    lateness: np.ndarray
    changes: np.ndarray
    labels: np.ndarray
    tiles: np.ndarray


class WorkingSet:
    """All that the kernel remembers of one partition.

    Parameters
    ----------
    allowed_lateness_ms, dedup_horizon_ms, clock_skew_ms : int
        L, H and S of docs/semantics.md.
    """

    def __init__(self, allowed_lateness_ms: int, dedup_horizon_ms: int, clock_skew_ms: int) -> None:
        self._limits = np.array([allowed_lateness_ms, dedup_horizon_ms, clock_skew_ms], np.int64)
        self.scalars = np.zeros(SCALARS, np.int64)
        self.scalars[[W, ARRIVAL]] = -NEVER
        self.scalars[[FREE_BUCKET, FREE_SAVE, FREE_NODE]] = -1
        self.ids = new_table(0)
        self.pairs = new_table(0)
        self.buckets = np.zeros((0, 4), np.int64)
        self.saves = np.zeros((0, 10), np.int64)
        self.nodes = np.zeros((0, 6), np.int64)
        self.seen = np.zeros((1, 3), np.int64)
        self.open = np.zeros((1, 2), np.int64)
        self.recent = np.zeros((1, 2), np.int64)
        self.held = np.zeros((1, 2), np.int64)

    @property
    def watermark(self) -> int | None:
        """Greatest accepted event_time, None before the first."""
        value = int(self.scalars[W])
        return None if value == -NEVER else value

    @property
    def arrival(self) -> int | None:
        """Greatest record timestamp, None before the first."""
        value = int(self.scalars[ARRIVAL])
        return None if value == -NEVER else value

    def judge(
        self,
        event_id: np.ndarray,
        user_id: np.ndarray,
        pin_id: np.ndarray,
        event_time: np.ndarray,
        role: np.ndarray,
        surface: np.ndarray,
        topic: np.ndarray,
        timestamp: np.ndarray,
        bad: np.ndarray,
    ) -> Judged:
        """Apply records in the order of their offsets.

        Parameters
        ----------
        event_id, user_id, pin_id, event_time, topic, timestamp : int64[n]
            `topic` is an ID, 0 for none; times in ms.
        role : uint8[n]
            Bits ROLE_*.
        surface : int16[n]
            Code, kept in the label row.
        bad : bool[n]
            Malformed records; only their timestamp counts.
        """
        n = len(event_id)
        status = np.zeros(n, np.int8)
        lateness = np.zeros(n, np.int64)
        self._make_room(n)
        changes, tiles = np.empty((n + 1024, 6), np.int64), np.empty((3 * n + 1024, 4), np.int64)
        labels = np.empty((n + int(self.open[0, 1]), 8), np.int64)
        done = np.zeros(4, np.int64)  # records, changes, labels, tiles
        while done[0] < n:
            need = _judge(
                event_id, user_id, pin_id, event_time, role, surface, topic, timestamp, bad, self._limits,
                self.scalars, self.ids, self.pairs, self.buckets, self.saves, self.nodes, self.seen, self.open, self.recent, self.held,
                status, lateness, changes, labels, tiles, done,
            )  # fmt: skip
            if need:
                # A save can take over any number of revisits.
                changes, tiles = _grown(changes, need), _grown(tiles, need)
        return Judged(status, lateness, changes[: done[1]].copy(), labels[: done[2]].copy(), tiles[: done[3]].copy())

    def open_labels(self) -> np.ndarray:
        """Saves still in the working set, int64[n, 8] with columns LABEL_COLUMNS."""
        ids = _queued(self.open)[:, 1]
        saves = self.saves[ids]
        bucket = self.buckets[saves[:, S_BUCKET]]
        return np.column_stack(
            [bucket[:, B_USER], bucket[:, B_PIN], saves[:, [S_TIME, S_ID, S_SURFACE, S_TOPIC, S_IMPRESSION, S_CLICK]]]
        ).reshape(-1, len(LABEL_COLUMNS))

    def to_bytes(self) -> bytes:
        """The working set as bytes, entries in order of arrival and nothing of how they lay in memory; `restore` takes them back."""
        order = np.full(len(self.saves) + 1, -1, np.int64)
        open_ids = _queued(self.open)[:, 1]
        order[open_ids] = np.arange(len(open_ids))
        saves = np.column_stack([self.open_labels(), self.saves[open_ids][:, S_RELATED]])
        held = _queued(self.held)[:, 1]
        node = self.nodes[np.concatenate([held, _queued(self.recent)[:, 1]])]
        bucket = self.buckets[node[:, N_BUCKET]]
        nodes = np.column_stack([bucket[:, B_USER], bucket[:, B_PIN], node[:, N_TIME], node[:, N_CLICK], order[node[:, N_SAVE]]])
        seen = _queued(self.seen)
        header = np.array([*self.scalars[[W, ARRIVAL]], len(saves), len(nodes), len(held), len(seen)], np.int64)
        return b"".join(np.ascontiguousarray(part, np.int64).tobytes() for part in (header, saves, nodes, seen))

    def restore(self, data: bytes) -> None:
        """Take the state of `to_bytes` into this empty working set."""
        numbers = np.frombuffer(data, np.int64)
        self.scalars[[W, ARRIVAL]] = numbers[:2]
        n_saves, n_nodes, n_held, n_seen = (int(x) for x in numbers[2:6])
        saves, rest = np.split(numbers[6:], [9 * n_saves])
        nodes, seen = np.split(rest, [5 * n_nodes])
        self._make_room(n_saves + n_nodes + n_seen)
        _restore(
            saves.reshape(-1, 9), nodes.reshape(-1, 5), n_held, seen.reshape(-1, 3),
            self.scalars, self.ids, self.pairs, self.buckets, self.saves, self.nodes, self.seen, self.open, self.recent, self.held,
        )  # fmt: skip

    def canonical(self) -> bytes:
        """The logical content, the same whatever the history of slots: what a digest covers."""
        node = self.nodes[np.concatenate([_queued(self.recent)[:, 1], _queued(self.held)[:, 1]])]
        bucket = self.buckets[node[:, N_BUCKET]]
        save = self.saves[np.maximum(node[:, N_SAVE], 0)] if len(self.saves) else np.zeros((len(node), 10), np.int64)
        lateness, horizon = int(self._limits[0]), int(self._limits[1])
        now = int(self.scalars[W])
        # Only a revisit younger than L can change hands, and only an ID within the horizon can meet its duplicate.
        credited = np.where(node[:, N_SAVE] >= 0, save[:, S_ID], 0), np.where(node[:, N_SAVE] >= 0, save[:, S_TIME], -NEVER)
        nodes = np.column_stack([bucket[:, B_USER], bucket[:, B_PIN], node[:, N_TIME], node[:, N_CLICK], *credited])
        nodes = nodes[nodes[:, 2] > now - lateness]
        seen = _queued(self.seen)
        seen = seen[seen[:, 2] >= now - horizon]
        return b"".join(_sorted_rows(rows).tobytes() for rows in (self.scalars[[W, ARRIVAL]].reshape(1, 2), nodes, seen))

    def _make_room(self, n: int) -> None:
        self.ids = with_room(self.ids, int(self.scalars[N_SEEN]), n)
        self.pairs = with_room(self.pairs, int(self.scalars[N_BUCKETS]), n)
        for name in ("buckets", "saves", "nodes"):
            self._extend(name, n)
        for name in ("seen", "open", "recent"):
            setattr(self, name, _queue_with_room(getattr(self, name), n))
        # Every record can move all of `recent` along.
        self.held = _queue_with_room(self.held, n + int(self.recent[0, 1]))

    def _extend(self, name: str, n: int) -> None:
        """Give an entry array at least n free entries, chained into its free list."""
        free, used = {
            "buckets": (FREE_BUCKET, int(self.scalars[N_BUCKETS])),
            "saves": (FREE_SAVE, int(self.scalars[N_SAVES])),
            "nodes": (FREE_NODE, int(self.scalars[N_NODES])),
        }[name]
        array = getattr(self, name)
        size = len(array)
        if size - used >= n:
            return
        more = max(n, size // 2, 1024)
        grown = np.empty((size + more, array.shape[1]), np.int64)
        grown[:size] = array
        column = {"buckets": BUCKET_OLDER, "saves": S_OLDER, "nodes": N_OLDER}[name]
        grown[size:, column] = np.arange(size + 1, size + more + 1)
        grown[-1, column] = self.scalars[free]
        self.scalars[free] = size
        setattr(self, name, grown)


def _grown(array: np.ndarray, more: int) -> np.ndarray:
    grown = np.empty((len(array) + 4 * more + 1024, array.shape[1]), np.int64)
    grown[: len(array)] = array
    return grown


def _queued(queue: np.ndarray) -> np.ndarray:
    """The entries of a queue, oldest first."""
    head, length = int(queue[0, 0]), int(queue[0, 1])
    capacity = len(queue) - 1
    return queue[1 + (head + np.arange(length)) % max(capacity, 1)] if length else queue[:0]


def _queue_with_room(queue: np.ndarray, n: int) -> np.ndarray:
    length = int(queue[0, 1])
    if len(queue) - 1 >= length + n:
        return queue
    grown = np.zeros((1 + max(2 * length, 1024) + n, queue.shape[1]), np.int64)
    grown[1 : 1 + length] = _queued(queue)
    grown[0, 1] = length
    return grown


def _sorted_rows(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T[::-1])] if len(rows) else rows


@njit(cache=True, nogil=True)
def _judge(  # type: ignore[no-untyped-def]
    event_id, user_id, pin_id, event_time, role, surface, topic, timestamp, bad, limits,
    scalars, ids, pairs, buckets, saves, nodes, seen, opened, recent, held,
    status, lateness, changes, labels, tiles, done,
):  # fmt: skip
    """Judge records from done[0] on. Returns 0 at the end, or how much room the outputs lack to go on."""
    allowed, horizon, skew = limits[0], limits[1], limits[2]
    for i in range(done[0], event_id.shape[0]):
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
        if done[1] + 2 * most > changes.shape[0] or done[3] + 4 * most > tiles.shape[0]:
            return most
        done[0] = i + 1

        scalars[ARRIVAL] = max(scalars[ARRIVAL], timestamp[i])
        if bad[i]:
            status[i] = BAD
            continue
        if time > scalars[ARRIVAL] + skew:
            status[i] = FUTURE
            continue
        before = scalars[W]
        slot = slot_of(ids, user, event_id[i])
        if slot >= 0 and ids[slot, 2] >= before - horizon:
            status[i] = DUPLICATE
            continue
        now = max(before, time)
        late = time < before - allowed
        if late:
            lateness[i] = before - time
        if time >= now - horizon:
            if slot >= 0:
                ids[slot, 2] = time
            else:
                put_at(ids, -1 - slot, user, event_id[i], time)
                scalars[N_SEEN] += 1
            at = _push(seen)
            seen[at, 0], seen[at, 1], seen[at, 2] = user, event_id[i], time
        if role[i] & ROLE_SAVE:
            if not late:
                _open_save(i, user, pin, time, event_id[i], surface[i], topic[i], role[i], scalars, pairs, buckets, saves, nodes, opened, changes, tiles, done)
        elif role[i] & ROLE_REVISIT:
            _revisit(i, user, pin, time, role[i], before, now, allowed, scalars, pairs, buckets, saves, nodes, recent, changes, tiles, done)
        if now > before:
            scalars[W] = now
            _expire(now, allowed, horizon, scalars, ids, pairs, buckets, saves, nodes, seen, opened, recent, held, labels, done)
    return 0


@njit(cache=True, nogil=True)
def _push(queue):  # type: ignore[no-untyped-def]
    """Append to a queue that has room; returns the row to fill."""
    at = queue[0, 0] + queue[0, 1]
    capacity = queue.shape[0] - 1
    if at >= capacity:
        at -= capacity
    queue[0, 1] += 1
    return 1 + at


@njit(cache=True, nogil=True)
def _pop(queue):  # type: ignore[no-untyped-def]
    queue[0, 0] += 1
    queue[0, 1] -= 1
    if queue[0, 0] == queue.shape[0] - 1:
        queue[0, 0] = 0


@njit(cache=True, nogil=True)
def _bucket_of(user, pin, scalars, pairs, buckets):  # type: ignore[no-untyped-def]
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


@njit(cache=True, nogil=True)
def _drop_if_empty(bucket, scalars, pairs, buckets):  # type: ignore[no-untyped-def]
    if buckets[bucket, B_SAVE] < 0 and buckets[bucket, B_NODE] < 0:
        delete_at(pairs, slot_of(pairs, buckets[bucket, B_USER], buckets[bucket, B_PIN]))
        buckets[bucket, BUCKET_OLDER] = scalars[FREE_BUCKET]
        scalars[FREE_BUCKET] = bucket
        scalars[N_BUCKETS] -= 1


@njit(cache=True, nogil=True)
def _unlink(entries, entry, older, newer, buckets, bucket, head):  # type: ignore[no-untyped-def]
    """Take an entry out of its bucket's list."""
    before, after = entries[entry, newer], entries[entry, older]
    if before >= 0:
        entries[before, older] = after
    else:
        buckets[bucket, head] = after
    if after >= 0:
        entries[after, newer] = before


@njit(cache=True, nogil=True)
def _link(entries, entry, older, newer, buckets, bucket, head, before, after):  # type: ignore[no-untyped-def]
    """Put an entry between its newer and its older neighbour."""
    entries[entry, newer], entries[entry, older] = before, after
    if before >= 0:
        entries[before, older] = entry
    else:
        buckets[bucket, head] = entry
    if after >= 0:
        entries[after, newer] = entry


@njit(cache=True, nogil=True)
def _change(record, pin, user, time, click, related, weight, changes, done):  # type: ignore[no-untyped-def]
    row = changes[done[1]]
    row[0], row[1], row[2], row[3], row[4], row[5] = pin, user, time, click + 2 * related, weight, record
    done[1] += 1


@njit(cache=True, nogil=True)
def _tile(save, saves, kind, weight, tiles, done):  # type: ignore[no-untyped-def]
    if saves[save, S_TOPIC] != 0:
        row = tiles[done[3]]
        row[0], row[1], row[2], row[3] = saves[save, S_TOPIC], kind, saves[save, S_TIME] // HOUR_MS, weight
        done[3] += 1


@njit(cache=True, nogil=True)
def _set_first(save, saves, click, time, tiles, done):  # type: ignore[no-untyped-def]
    """Set the first impression or click of a save (NEVER: none), and move its topic tile."""
    if not click:
        saves[save, S_IMPRESSION] = time
        return
    old = saves[save, S_CLICK]
    saves[save, S_CLICK] = time
    old_kind = 1 + (old - saves[save, S_TIME]) // DAY_MS if old != NEVER else 0
    new_kind = 1 + (time - saves[save, S_TIME]) // DAY_MS if time != NEVER else 0
    if old_kind != new_kind:
        if old_kind:
            _tile(save, saves, old_kind, -1, tiles, done)
        if new_kind:
            _tile(save, saves, new_kind, 1, tiles, done)


@njit(cache=True, nogil=True)
def _credit(save, saves, click, time, tiles, done):  # type: ignore[no-untyped-def]
    if time < saves[save, S_CLICK if click else S_IMPRESSION]:
        _set_first(save, saves, click, time, tiles, done)


@njit(cache=True, nogil=True)
def _add_save(user, pin, time, event, surface, related, topic, scalars, pairs, buckets, saves, opened):  # type: ignore[no-untyped-def]
    bucket = _bucket_of(user, pin, scalars, pairs, buckets)
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
    at = _push(opened)
    opened[at, 0], opened[at, 1] = time, save
    return save


@njit(cache=True, nogil=True)
def _add_node(user, pin, time, click, holder, scalars, pairs, buckets, nodes, queue):  # type: ignore[no-untyped-def]
    bucket = _bucket_of(user, pin, scalars, pairs, buckets)
    node = scalars[FREE_NODE]
    scalars[FREE_NODE] = nodes[node, N_OLDER]
    scalars[N_NODES] += 1
    nodes[node, N_TIME], nodes[node, N_CLICK], nodes[node, N_SAVE], nodes[node, N_BUCKET] = time, click, holder, bucket
    newer, older = np.int64(-1), buckets[bucket, B_NODE]
    while older >= 0 and nodes[older, N_TIME] > time:
        newer, older = older, nodes[older, N_OLDER]
    _link(nodes, node, N_OLDER, N_NEWER, buckets, bucket, B_NODE, newer, older)
    at = _push(queue)
    queue[at, 0], queue[at, 1] = time, node


@njit(cache=True, nogil=True)
def _restore(from_saves, from_nodes, n_held, from_seen, scalars, ids, pairs, buckets, saves, nodes, seen, opened, recent, held):  # type: ignore[no-untyped-def]
    slots = np.empty(from_saves.shape[0], np.int64)
    for i in range(from_saves.shape[0]):
        r = from_saves[i]
        slots[i] = _add_save(r[0], r[1], r[2], r[3], r[4], r[8], r[5], scalars, pairs, buckets, saves, opened)
        saves[slots[i], S_IMPRESSION], saves[slots[i], S_CLICK] = r[6], r[7]
    for i in range(from_nodes.shape[0]):
        r = from_nodes[i]
        # A held node's save may have gone; nothing asks for it any more.
        holder = slots[r[4]] if r[4] >= 0 else np.int64(-1)
        _add_node(r[0], r[1], r[2], r[3], holder, scalars, pairs, buckets, nodes, held if i < n_held else recent)
    for i in range(from_seen.shape[0]):
        user, event, time = from_seen[i, 0], from_seen[i, 1], from_seen[i, 2]
        at = _push(seen)
        seen[at, 0], seen[at, 1], seen[at, 2] = user, event, time
        slot = slot_of(ids, user, event)
        if slot >= 0:
            ids[slot, 2] = time
        else:
            put_at(ids, -1 - slot, user, event, time)
            scalars[N_SEEN] += 1


@njit(cache=True, nogil=True)
def _open_save(i, user, pin, time, event, surface, topic, role, scalars, pairs, buckets, saves, nodes, opened, changes, tiles, done):  # type: ignore[no-untyped-def]
    """Open a save's window; it takes over the revisits that it is now the latest save before."""
    related = 1 if role & ROLE_RELATED_PINS else 0
    save = _add_save(user, pin, time, event, surface, related, topic, scalars, pairs, buckets, saves, opened)
    bucket = saves[save, S_BUCKET]
    _tile(save, saves, 0, 1, tiles, done)

    node = buckets[bucket, B_NODE]
    while node >= 0 and nodes[node, N_TIME] > time:
        revisit, click, holder = nodes[node, N_TIME], nodes[node, N_CLICK], nodes[node, N_SAVE]
        # A holder older than this save loses; one that is newer (it stands before this save in the list) keeps the revisit.
        loses = holder < 0 or saves[holder, S_TIME] < time or (saves[holder, S_TIME] == time and saves[holder, S_ID] <= event)
        if revisit < time + CREDIT_MS and loses:
            nodes[node, N_SAVE] = save
            _credit(save, saves, click, revisit, tiles, done)
            if holder < 0:
                _change(i, pin, user, revisit, click, related, 1, changes, done)
            else:
                _lose(holder, revisit, click, bucket, buckets, saves, nodes, tiles, done)
                was_related = saves[holder, S_RELATED]
                if was_related != related:
                    _change(i, pin, user, revisit, click, was_related, -1, changes, done)
                    _change(i, pin, user, revisit, click, related, 1, changes, done)
        node = nodes[node, N_OLDER]


@njit(cache=True, nogil=True)
def _lose(save, time, click, bucket, buckets, saves, nodes, tiles, done):  # type: ignore[no-untyped-def]
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
    _set_first(save, saves, click, first, tiles, done)


@njit(cache=True, nogil=True)
def _revisit(i, user, pin, time, role, before, now, allowed, scalars, pairs, buckets, saves, nodes, recent, changes, tiles, done):  # type: ignore[no-untyped-def]
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
    _add_node(user, pin, time, click, holder, scalars, pairs, buckets, nodes, recent)
    if holder >= 0:
        _credit(holder, saves, click, time, tiles, done)
        _change(i, pin, user, time, click, saves[holder, S_RELATED], 1, changes, done)


@njit(cache=True, nogil=True)
def _expire(now, allowed, horizon, scalars, ids, pairs, buckets, saves, nodes, seen, opened, recent, held, labels, done):  # type: ignore[no-untyped-def]
    """Forget what no later record can change. Queues are in order of arrival: an entry may wait behind a younger one, which harms nothing."""
    while seen[0, 1] > 0 and seen[1 + seen[0, 0], 2] < now - horizon:
        user, event, time = seen[1 + seen[0, 0], 0], seen[1 + seen[0, 0], 1], seen[1 + seen[0, 0], 2]
        slot = slot_of(ids, user, event)
        if slot >= 0 and ids[slot, 2] == time:
            delete_at(ids, slot)
            scalars[N_SEEN] -= 1
        _pop(seen)
    while opened[0, 1] > 0 and opened[1 + opened[0, 0], 0] + CREDIT_MS + allowed <= now:
        save = opened[1 + opened[0, 0], 1]
        bucket = saves[save, S_BUCKET]
        row = labels[done[2]]
        row[0], row[1] = buckets[bucket, B_USER], buckets[bucket, B_PIN]
        row[2], row[3], row[4] = saves[save, S_TIME], saves[save, S_ID], saves[save, S_SURFACE]
        row[5], row[6], row[7] = saves[save, S_TOPIC], saves[save, S_IMPRESSION], saves[save, S_CLICK]
        done[2] += 1
        _unlink(saves, save, S_OLDER, S_NEWER, buckets, bucket, B_SAVE)
        saves[save, S_OLDER] = scalars[FREE_SAVE]
        scalars[FREE_SAVE] = save
        scalars[N_SAVES] -= 1
        _drop_if_empty(bucket, scalars, pairs, buckets)
        _pop(opened)
    # A revisit no younger than L can change hands no more; one that nobody holds is of no use then.
    while recent[0, 1] > 0 and recent[1 + recent[0, 0], 0] <= now - allowed:
        time, node = recent[1 + recent[0, 0], 0], recent[1 + recent[0, 0], 1]
        _pop(recent)
        if nodes[node, N_SAVE] >= 0:
            at = _push(held)
            held[at, 0], held[at, 1] = time, node
        else:
            _free_node(node, scalars, pairs, buckets, nodes)
    while held[0, 1] > 0 and held[1 + held[0, 0], 0] + CREDIT_MS + allowed <= now:
        node = held[1 + held[0, 0], 1]
        _pop(held)
        _free_node(node, scalars, pairs, buckets, nodes)


@njit(cache=True, nogil=True)
def _free_node(node, scalars, pairs, buckets, nodes):  # type: ignore[no-untyped-def]
    bucket = nodes[node, N_BUCKET]
    _unlink(nodes, node, N_OLDER, N_NEWER, buckets, bucket, B_NODE)
    nodes[node, N_OLDER] = scalars[FREE_NODE]
    scalars[FREE_NODE] = node
    scalars[N_NODES] -= 1
    _drop_if_empty(bucket, scalars, pairs, buckets)
