"""The actions kernel: what one partition's records mean, record by record.

`judge` decides duplicates, lateness and the watermark, credits revisits to saves, and says what changed. It reads like docs/semantics.md and
runs as compiled code over column batches. It keeps only what a later record can still change (the *working set*): IDs within the dedup horizon,
saves for 7 d + L, revisits that a save can still take over. It never looks at a clock, and how records are cut into batches never matters.

The working set is a handful of int64 arrays so that it is saved and restored as bytes:
`buckets` one per (user, pin) that has a save or a revisit node; in each the newest save and the newest node head doubly linked lists, newest first;
`saves`, `nodes` the list entries; queues `seen`, `open`, `recent`, `held` hold, in order of arrival, what will expire.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from flows.compiled import compiled
from flows.kernels.entries import restore_entries
from flows.kernels.judging import judge_records, revisited_saves
from flows.kernels.layout import (
    ACCEPTED,
    ARRIVAL,
    B_PIN,
    B_USER,
    BUCKET_OLDER,
    DAY_MS,
    FREE_BUCKET,
    FREE_NODE,
    FREE_SAVE,
    HOUR_MS,
    LABEL_COLUMNS,
    N_BUCKET,
    N_BUCKETS,
    N_CLICK,
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
    S_OLDER,
    S_RELATED,
    S_SURFACE,
    S_TIME,
    S_TOPIC,
    SCALARS,
    TILE_COLUMNS,
    W,
)
from flows.kernels.pairmap import new_table, with_room
from flows.remembered import remember

NO_CLOCK = np.empty(0, np.int64)
# Records judged between two looks at the room there is. Hash tables sized for so many stay in the processor's cache: 6 M records/s where tables
# for 65 536 made it 3.7 M.
STRETCH = 8192


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
        Credit changes in input order, columns CHANGE_COLUMNS; kind bit 0 = click, bit 1 = save on related_pins; weight ±1;
        record = index of the cause.
    labels : int64[k, 8]
        Saves that left the working set, with final labels, columns LABEL_COLUMNS; a first time of NEVER is none.
    moves : int64[j, 5]
        What changed of topics in input order, columns MOVE_COLUMNS: a save (click_time NEVER), or a save's first click at that time, came to be so
        (weight 1) or ceased to be (−1); record = index of the cause.
    revisited : int64[n, 2] or int64[0, 2]
        Where asked for, by each record: the save (time, ID) of its user and pin of which it made a label true, NEVER for none. A label that a later
        record takes away again may come to be true once more.
    """

    status: np.ndarray
    lateness: np.ndarray
    changes: np.ndarray
    labels: np.ndarray
    moves: np.ndarray
    revisited: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))

    @cached_property
    def tiles(self) -> np.ndarray:
        """The moves as changes of topic tiles: int64[k, 4], columns TILE_COLUMNS.

        kind 0 = saves, 1 + age = first clicks at that age in days; hour = hour of the save. A first click that moves within its day changes nothing.
        """
        rows = np.empty((len(self.moves), len(TILE_COLUMNS)), np.int64)
        return rows[: _tiles_of(self.moves, rows)]


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
        remember(self)

    @property
    def size(self) -> int:
        """Bytes of memory that it takes, room for what comes next included."""
        return sum(array.nbytes for array in vars(self).values())

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
        clock: np.ndarray = NO_CLOCK,
        tell_revisited: bool = False,
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
        clock : int64[n] or int64[0]
            The event time by which each record moves the watermark, whatever becomes of it: -NEVER for none; NEVER, or empty: its own if it is
            accepted.
        tell_revisited : bool
            Fill `Judged.revisited`.
        """
        n = len(event_id)
        status = np.zeros(n, np.int8)
        lateness = np.zeros(n, np.int64)
        changes, moves = np.empty((n + 1024, 6), np.int64), np.empty((3 * n + 1024, 5), np.int64)
        labels = np.empty((n + int(self.open[0, 1]), 8), np.int64)
        revisited = np.full((n if tell_revisited else 0, 2), NEVER, np.int64)
        done = np.zeros(4, np.int64)  # records, changes, labels, moves
        need = -1
        while need:
            if need < 0:
                self._make_room(STRETCH, STRETCH, STRETCH, STRETCH)
            else:
                # A save can take over any number of revisits.
                changes, moves = _grown(changes, need), _grown(moves, need)
            need = judge_records(
                STRETCH, event_id, user_id, pin_id, event_time, role, surface, topic, timestamp, bad, clock, self._limits,
                self.scalars, self.ids, self.pairs, self.buckets, self.saves, self.nodes, self.seen, self.open, self.recent, self.held,
                status, lateness, changes, labels, moves, revisited, done,
            )  # fmt: skip
        return Judged(status, lateness, changes[: done[1]].copy(), labels[: done[2]].copy(), moves[: done[3]].copy(), revisited)

    def revisited(self, wanted: np.ndarray, left: np.ndarray) -> np.ndarray:
        """Whether any label of each save holds.

        Parameters
        ----------
        wanted : int64[k, 4]
            user_id, pin_id, save_time and event_id of saves that are kept, or are among those that left.
        left : int64[m, 8]
            Saves that have left the working set, columns LABEL_COLUMNS.

        Returns
        -------
        bool[k]
        """
        out = np.zeros(len(wanted), np.bool_)
        revisited_saves(wanted, self.pairs, self.buckets, self.saves, out)
        if len(wanted) and len(left):
            both = np.concatenate([wanted, left[:, :4]])
            order = np.lexsort(both.T[::-1])
            group = np.empty(len(both), np.int64)
            group[order] = np.cumsum(np.concatenate([[False], (both[order][1:] != both[order][:-1]).any(axis=1)]))
            holds = np.zeros(len(both), np.bool_)
            holds[group[len(wanted) :][(left[:, 7] != NEVER) | (left[:, 6] < left[:, 2] + DAY_MS)]] = True
            out |= holds[group[: len(wanted)]]
        return out

    def open_labels(self, some: slice = slice(None)) -> np.ndarray:
        """Saves still in the working set, or some of them by their place, int64[n, 8] with columns LABEL_COLUMNS."""
        ids = _queued(self.open)[some, 1]
        saves = self.saves[ids]
        bucket = self.buckets[saves[:, S_BUCKET]]
        return np.column_stack(
            [bucket[:, B_USER], bucket[:, B_PIN], saves[:, [S_TIME, S_ID, S_SURFACE, S_TOPIC, S_IMPRESSION, S_CLICK]]]
        ).reshape(-1, len(LABEL_COLUMNS))

    def open_labels_in_parts(self, rows: int = 1 << 16) -> Iterator[np.ndarray]:
        """The same, so many rows at a time: there may be millions."""
        for at in range(0, len(_queued(self.open)), rows):
            yield self.open_labels(slice(at, at + rows))

    def to_bytes(self) -> bytes:
        """The working set as bytes, which `restore` takes back."""
        return b"".join(self.parts())

    def parts(self) -> list[memoryview]:
        """What makes up `to_bytes`, some hundred MB that need not lie together: entries in order of arrival, nothing of how they lay in memory."""
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
        return [np.ascontiguousarray(part, np.int64).data.cast("B") for part in (header, saves, nodes, seen) if len(part)]

    def restore(self, data: bytes | memoryview) -> None:
        """Take the state of `to_bytes` into this empty working set."""
        numbers = np.frombuffer(data, np.int64)
        self.scalars[[W, ARRIVAL]] = numbers[:2]
        n_saves, n_nodes, n_held, n_seen = (int(x) for x in numbers[2:6])
        saves, rest = np.split(numbers[6:], [9 * n_saves])
        nodes, seen = np.split(rest, [5 * n_nodes])
        self._make_room(n_seen, n_saves + n_nodes, n_saves, n_nodes)
        restore_entries(
            saves.reshape(-1, 9), nodes.reshape(-1, 5), n_held, seen.reshape(-1, 3),
            self.scalars, self.ids, self.pairs, self.buckets, self.saves, self.nodes, self.seen, self.open, self.recent, self.held,
        )  # fmt: skip

    def canonical(self) -> bytes:
        """The logical content, the same whatever the history of slots: what a digest covers."""
        node = self.nodes[np.concatenate([_queued(self.recent)[:, 1], _queued(self.held)[:, 1]])]
        bucket = self.buckets[node[:, N_BUCKET]]
        open_ids = _queued(self.open)[:, 1]
        is_open = np.zeros(len(self.saves) + 1, np.bool_)
        is_open[open_ids] = True
        save = self.saves[np.maximum(node[:, N_SAVE], 0)] if len(self.saves) else np.zeros((len(node), 10), np.int64)
        # A node may name a save that has gone, whose entry another one has taken since.
        credited = is_open[node[:, N_SAVE]] & (save[:, S_BUCKET] == node[:, N_BUCKET]) & (save[:, S_TIME] < node[:, N_TIME])
        of_save = np.where(credited, save[:, S_ID], 0), np.where(credited, save[:, S_TIME], -NEVER)
        lateness, horizon = int(self._limits[0]), int(self._limits[1])
        now = int(self.scalars[W])
        # A revisit younger than L can change hands, one of an open save can become its first; only an ID within the horizon can meet its duplicate.
        nodes = np.column_stack([bucket[:, B_USER], bucket[:, B_PIN], node[:, N_TIME], node[:, N_CLICK], *of_save])
        nodes = nodes[(nodes[:, 2] > now - lateness) | credited]
        seen = _queued(self.seen)
        seen = seen[seen[:, 2] >= now - horizon]
        saves = np.column_stack([self.open_labels(), self.saves[open_ids][:, S_RELATED]])
        header = np.array([[*self.scalars[[W, ARRIVAL]], len(saves), len(nodes), len(seen)]], np.int64)
        return b"".join(_sorted_rows(rows).tobytes() for rows in (header, saves, nodes, seen))

    def _make_room(self, seen: int, buckets: int, saves: int, nodes: int) -> None:
        """Room for so many entries more of each kind."""
        self.ids = with_room(self.ids, int(self.scalars[N_SEEN]), seen)
        self.pairs = with_room(self.pairs, int(self.scalars[N_BUCKETS]), buckets)
        for name, n in (("buckets", buckets), ("saves", saves), ("nodes", nodes)):
            self._extend(name, n)
        for name, n in (("seen", seen), ("open", saves), ("recent", nodes)):
            setattr(self, name, _queue_with_room(getattr(self, name), n))
        # Every record can move all of `recent` along.
        self.held = _queue_with_room(self.held, nodes + int(self.recent[0, 1]))

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


def tally(status: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many records have each status, int64[4], and how many accepted ones each action, int64[128]."""
    by_status, by_action = np.zeros(4, np.int64), np.zeros(128, np.int64)
    _tally(status, action, by_status, by_action)
    return by_status, by_action


@compiled
def _tally(status, action, by_status, by_action):  # type: ignore[no-untyped-def]
    for i in range(status.shape[0]):
        by_status[status[i]] += 1
        if status[i] == ACCEPTED:
            by_action[action[i]] += 1


@compiled
def _tiles_of(moves, rows):  # type: ignore[no-untyped-def]
    n = 0
    dropped = True  # whether there is no row of the move before
    for i in range(moves.shape[0]):
        save, click = moves[i, 1], moves[i, 2]
        row = rows[n]
        row[0], row[1], row[2], row[3] = moves[i, 0], 0 if click == NEVER else 1 + (click - save) // DAY_MS, save // HOUR_MS, moves[i, 3]
        n += 1
        if not dropped and moves[i, 4] == moves[i - 1, 4]:
            before = rows[n - 2]
            dropped = before[3] == -1 and row[3] == 1 and before[0] == row[0] and before[1] == row[1] and before[2] == row[2]
            if dropped:
                n -= 2
        else:
            dropped = False
    return n


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
    # Filled, not only taken: it goes round, so all of it is written by and by, and memory would grow until it has gone round once.
    grown = np.full((1 + max(length + length // 2, 1024) + n, queue.shape[1]), 0, np.int64)
    grown[1 : 1 + length] = _queued(queue)
    grown[0, 1] = length
    return grown


def _sorted_rows(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T[::-1])] if len(rows) else rows
