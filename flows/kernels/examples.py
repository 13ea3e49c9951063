"""The examples kernel: what was served, seen and done of one partition, joined.

`JoinSet` keeps only what a later record can still change: impressions until their labels are final, saved ones until their save's label is, and
outcomes that wait for an impression. It never looks at a clock, and how records are cut into batches never matters.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from flows.compiled import compiled_in_place
from flows.kernels.join_entries import (
    D_NUMBER,
    D_TIME,
    DUE_COLUMNS,
    EARLY,
    FREE,
    FREE_NODE,
    FREE_ROW,
    JOIN_SCALARS,
    LABELS_DUE,
    N_DUE,
    N_NODES,
    N_ROWS,
    N_SAVED,
    NODE_COLUMNS,
    O_DUE,
    O_NEXT,
    O_ROW,
    O_TIME,
    OUTCOME_DUE,
    PUT_OUT,
    R_BORN,
    R_DUE,
    R_LINK,
    R_LINKED,
    R_NODE,
    R_PIN,
    R_REQUEST,
    R_SAVE_TIME,
    R_SEEN,
    R_STATE,
    R_USER,
    ROW_COLUMNS,
    SAVE_DUE,
    SAVED,
    SEQUENCE,
    link_saved,
    mixed,
)
from flows.kernels.joining import COUNTED, ENTRY_COLUMNS, OUT_COLUMNS, OUTCOME_MS, join_records
from flows.kernels.layout import CREDIT_MS, NEVER
from flows.kernels.pairmap import new_table, put_at, slot_of, with_room
from flows.remembered import remember


@dataclass(frozen=True)
class ActionSteps:
    """Consecutive actions of a partition, as judged.

    Attributes
    ----------
    user, request, pin, time, event, topic, arrival, offset : int64[n]
        Times in ms; arrival is that by which inputs are merged.
    what : uint8[n]
        Bits of `flows.kernels.joining`; 0 for what was not accepted.
    watermark : int64[n]
        After each.
    revisited : int64[n, 2]
        As of `Judged`.
    """

    user: np.ndarray
    request: np.ndarray
    pin: np.ndarray
    time: np.ndarray
    event: np.ndarray
    what: np.ndarray
    topic: np.ndarray
    arrival: np.ndarray
    offset: np.ndarray
    watermark: np.ndarray
    revisited: np.ndarray


@dataclass(frozen=True)
class ServedSteps:
    """Consecutive served records of a partition, each with its candidates; those that lead to nothing have none, and no user.

    Attributes
    ----------
    place : int64[m]
        How many of the actions go before each.
    arrival, user, request, time : int64[m]
    number : int64[m]
        Of its own, ascending.
    first : int64[m + 1]
        Candidates of record i are first[i] to first[i + 1].
    pin : int64[c]
    defaulted : bool[c]
        Values were not read in time.
    """

    place: np.ndarray
    arrival: np.ndarray
    user: np.ndarray
    request: np.ndarray
    time: np.ndarray
    number: np.ndarray
    first: np.ndarray
    pin: np.ndarray
    defaulted: np.ndarray


@dataclass(frozen=True)
class Groups:
    """The requests of a batch, and what is known of their candidates.

    Attributes
    ----------
    of_action, of_served : int64[n], int64[m]
        The request's number; of actions only impressions are asked for it.
    count : int
    entries : int64[k, ENTRY_COLUMNS]
        Candidates, of each request in the order in which they were served.
    of_entry : int64[k]
    """

    of_action: np.ndarray
    of_served: np.ndarray
    count: int
    entries: np.ndarray
    of_entry: np.ndarray


@dataclass(frozen=True)
class Joined:
    """What a batch has led to.

    Attributes
    ----------
    out : int64[x, OUT_COLUMNS]
        What comes out, in order.
    entries, of_entry : int64[e, ENTRY_COLUMNS], int64[e]
        All candidates of the requests of the batch, and their requests' numbers.
    dirty : bool[g]
        The requests whose candidates have changed.
    counts : dict of str to int
        What became of records that make nothing.
    """

    out: np.ndarray
    entries: np.ndarray
    of_entry: np.ndarray
    dirty: np.ndarray
    counts: dict[str, int] = field(default_factory=dict)


class JoinSet:
    """All that the kernel remembers of one partition.

    Parameters
    ----------
    allowed_lateness_ms : int
        L of docs/semantics.md.
    put_out : int, optional
        Time of the last record that is there already, ms.
    """

    def __init__(self, allowed_lateness_ms: int, put_out: int | None = None) -> None:
        self._lateness = allowed_lateness_ms
        self.scalars = np.zeros(JOIN_SCALARS, np.int64)
        self.scalars[[FREE_ROW, FREE_NODE]] = -1
        self.scalars[PUT_OUT] = -NEVER if put_out is None else put_out
        self.rows = np.zeros((0, ROW_COLUMNS), np.int64)
        self.nodes = np.zeros((0, NODE_COLUMNS), np.int64)
        self.heap = np.zeros((0, DUE_COLUMNS), np.int64)
        self.keys = new_table(0)
        self.saved = new_table(0)
        remember(self)

    @property
    def size(self) -> int:
        """Bytes of memory that it takes, room for what comes next included."""
        return sum(array.nbytes for array in vars(self).values() if isinstance(array, np.ndarray))

    def join(self, actions: ActionSteps, served: ServedSteps, groups: Groups, before: int) -> Joined:
        """Apply a batch.

        Parameters
        ----------
        before : int
            The watermark before it, -NEVER for none.
        """
        candidates, known = len(served.pin), len(groups.entries)
        relevant = int(np.count_nonzero((actions.request != 0) & (actions.what != 0)))
        self._make_room(relevant)
        entries = np.zeros((known + candidates, ENTRY_COLUMNS), np.int64)
        entries[:known] = groups.entries
        found = new_table(known + candidates)
        _place_entries(groups.entries, groups.of_entry, found)
        of_new = np.repeat(groups.of_served, np.diff(served.first))
        dirty, counts = np.zeros(groups.count, np.bool_), np.zeros(len(COUNTED), np.int64)
        # A row comes out eight times at most: once, with five outcomes, and with two sets of labels. Of those that are there already only a revisit
        # and the labels come without a record of their own. A record makes one heartbeat at most. What is not filled in takes no memory.
        room = 8 * (relevant + candidates) + 3 * int(self.scalars[N_ROWS]) + len(actions.user) + len(served.place)
        out = np.empty((room, OUT_COLUMNS), np.int64)
        filled = np.zeros(candidates, np.bool_)
        done, used = join_records(
            actions.user, actions.request, actions.pin, actions.time, actions.event, actions.what, actions.topic, actions.arrival,
            actions.offset, actions.watermark, actions.revisited, groups.of_action,
            served.place, served.arrival, served.user, served.request, served.time, served.number, groups.of_served, served.first, served.pin,
            served.defaulted, before, self._lateness, self.scalars, self.rows, self.keys, self.saved, self.nodes, self.heap, entries, known,
            found, dirty, counts, out, filled,
        )  # fmt: skip
        of_entry = np.concatenate([groups.of_entry, of_new[filled]])
        named = dict(zip(COUNTED, counts.tolist(), strict=True))
        return Joined(out[:done].copy(), entries[:used], of_entry, dirty, named)

    def to_bytes(self) -> bytes:
        """All of it as bytes, which `restore` takes back."""
        return b"".join(self.parts())

    def parts(self) -> list[memoryview]:
        """What makes up `to_bytes`, the same whatever the history of slots."""
        order = np.full(len(self.rows) + 1, -1, np.int64)
        at = np.flatnonzero(self.rows[:, R_STATE] != FREE)
        at = at[np.argsort(self.rows[at, R_BORN], kind="stable")]
        order[at] = np.arange(len(at))
        rows = self.rows[at]
        rows[:, [R_NODE, R_LINK]] = -1
        nodes = self.nodes[self.nodes[:, O_DUE] >= 0]
        # In the order in which they came: of one row, and of all.
        nodes = nodes[np.argsort(nodes[:, O_DUE], kind="stable")]
        nodes[:, O_ROW] = order[nodes[:, O_ROW]]
        nodes[:, O_NEXT] = -1
        header = np.array([self.scalars[SEQUENCE], self.scalars[PUT_OUT], len(rows), len(nodes)], np.int64)
        return [np.ascontiguousarray(part, np.int64).data.cast("B") for part in (header, rows, nodes) if len(part)]

    def restore(self, data: bytes | memoryview) -> None:
        """Take the state of `to_bytes` into this empty set."""
        numbers = np.frombuffer(data, np.int64)
        sequence, put_out, n_rows, n_nodes = (int(x) for x in numbers[:4])
        rows, nodes = np.split(numbers[4:], [n_rows * ROW_COLUMNS])
        rows, nodes = rows.reshape(n_rows, ROW_COLUMNS), nodes.reshape(n_nodes, NODE_COLUMNS)
        self._make_room(n_rows + n_nodes)
        _restore(rows, nodes, self.scalars, self.rows, self.keys, self.saved, self.nodes)
        self.scalars[SEQUENCE], self.scalars[PUT_OUT] = sequence, put_out
        due = np.concatenate([_rows_due(rows, self._lateness), _nodes_due(nodes, self._lateness)])
        due = due[np.lexsort((due[:, D_NUMBER], due[:, D_TIME]))]
        self.heap[: len(due)] = due
        self.scalars[N_DUE] = len(due)

    @property
    def waiting(self) -> int:
        """How many (user, request, pin) it remembers."""
        return int(self.scalars[N_ROWS])

    def _make_room(self, n: int) -> None:
        self.keys = with_room(self.keys, int(self.scalars[N_ROWS]), n)
        self.saved = with_room(self.saved, int(self.scalars[N_SAVED]), n)
        self.rows = _extended(self.rows, n, self.scalars, N_ROWS, FREE_ROW, R_LINK)
        self.nodes = _extended(self.nodes, n, self.scalars, N_NODES, FREE_NODE, O_NEXT)
        # Each record makes an entry, and each example one more when it is final.
        most = int(self.scalars[N_DUE]) + 2 * n + int(self.scalars[N_ROWS])
        if len(self.heap) < most:
            grown = np.empty((most + most // 2, DUE_COLUMNS), np.int64)
            grown[: len(self.heap)] = self.heap
            self.heap = grown


def _extended(array: np.ndarray, n: int, scalars: np.ndarray, used: int, free: int, link: int) -> np.ndarray:
    """An array with at least n free entries, chained into its free list."""
    size = len(array)
    if size - int(scalars[used]) >= n:
        return array
    more = max(n, size // 2, 1024)
    grown = np.zeros((size + more, array.shape[1]), np.int64)
    grown[:size] = array
    grown[size:, link] = np.arange(size + 1, size + more + 1)
    grown[-1, link] = scalars[free]
    # What is free is due at no number.
    grown[size:, R_DUE if link == R_LINK else O_DUE] = -1
    scalars[free] = size
    return grown


def _rows_due(rows: np.ndarray, lateness: int) -> np.ndarray:
    at = np.flatnonzero(rows[:, R_STATE] != EARLY)
    saved = rows[at, R_STATE] == SAVED
    times = np.where(saved, rows[at, R_SAVE_TIME] + CREDIT_MS + lateness, rows[at, R_SEEN] + OUTCOME_MS + lateness + 1)
    return np.column_stack([times, rows[at, R_DUE], np.where(saved, SAVE_DUE, LABELS_DUE), at]).reshape(-1, DUE_COLUMNS)


def _nodes_due(nodes: np.ndarray, lateness: int) -> np.ndarray:
    kind = np.full(len(nodes), OUTCOME_DUE)
    return np.column_stack([nodes[:, O_TIME] + lateness + 1, nodes[:, O_DUE], kind, np.arange(len(nodes))]).reshape(-1, DUE_COLUMNS)


@compiled_in_place
def _place_entries(entries, of_entry, found):  # type: ignore[no-untyped-def]
    """Of candidates that were served twice the last counts."""
    for e in range(entries.shape[0]):
        slot = slot_of(found, of_entry[e], entries[e, 0])
        if slot >= 0:
            found[slot, 2] = e
        else:
            put_at(found, -1 - slot, of_entry[e], entries[e, 0], e)


@compiled_in_place
def _restore(rows_in, nodes_in, scalars, rows, keys, saved, nodes):  # type: ignore[no-untyped-def]
    """Rows and nodes go to the first places of their arrays, whose free lists begin behind them."""
    for r in range(rows_in.shape[0]):
        for column in range(rows.shape[1]):
            rows[r, column] = rows_in[r, column]
        key = mixed(rows[r, R_USER], rows[r, R_REQUEST])
        put_at(keys, -1 - slot_of(keys, key, rows[r, R_PIN]), key, rows[r, R_PIN], r)
        if rows[r, R_LINKED]:
            rows[r, R_LINKED] = 0
            link_saved(r, scalars, rows, saved)
    scalars[N_ROWS] = rows_in.shape[0]
    scalars[FREE_ROW] = rows_in.shape[0] if rows_in.shape[0] < rows.shape[0] else -1
    for k in range(nodes_in.shape[0]):
        for column in range(nodes.shape[1]):
            nodes[k, column] = nodes_in[k, column]
        r = nodes[k, O_ROW]
        if rows[r, R_NODE] < 0:
            rows[r, R_NODE] = k
        else:
            at = rows[r, R_NODE]
            while nodes[at, O_NEXT] >= 0:
                at = nodes[at, O_NEXT]
            nodes[at, O_NEXT] = k
    scalars[N_NODES] = nodes_in.shape[0]
    scalars[FREE_NODE] = nodes_in.shape[0] if nodes_in.shape[0] < nodes.shape[0] else -1
