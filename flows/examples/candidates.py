"""What is kept of served requests in a task's database: candidates by request, and records whole, in pieces, until nothing can ask for them.

Read by one sorted multi-get for the distinct requests of a micro-batch, written blindly. Nothing here is true that the meta record doesn't cover.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from rocksdict import WriteBatch

from flows.errors import StateError
from flows.kernels.joining import E_NUMBER, E_SEEN, E_TIME, ENTRY_COLUMNS, OUTCOME_MS, SERVED_KEPT_MS, UNSEEN
from flows.kernels.layout import CREDIT_MS
from flows.served_versions import with_own_dictionaries
from flows.state.store import TaskStore

# Of each key the first byte: candidates of a request, a piece of served records, the arrival of its last, the requests in it.
_CANDIDATES, _PIECE, _ARRIVAL, _REQUESTS = b"C", b"S", b"M", b"E"
# A piece is read whole for one of its records, and costs a call by itself.
PIECE_RECORDS = 64
# Of each task: an example mostly follows soon upon its request, and what is older is read again from the database. Beside its columns a piece is some
# thousand objects of Arrow, schema and dictionaries included: 80 kB for one request that takes 4.
_PIECES_BYTES, _OBJECTS_BYTES = 8 << 20, 76 << 10
_IPC = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
_ALONE = pa.ipc.IpcReadOptions(use_threads=False)
NUMBER = "log_number"
"""Column of a piece: the number of each record, `numbers_of`."""
# Records that may share an offset: more than a message of Kafka can hold.
_SHARING = 20


def numbers_of(offsets: np.ndarray) -> np.ndarray:
    """A number for each record of SERVED, ascending, by its offset and its place among those of the same offset: int64[n].

    Parameters
    ----------
    offsets : int64[n]
        Of consecutive records, with all of an offset among them.
    """
    return (offsets << _SHARING) + np.arange(len(offsets)) - np.searchsorted(offsets, offsets, "left")


def keys_of(users: np.ndarray, requests: np.ndarray) -> list[bytes]:
    """The key of each request's candidates; sorted as (user, request) are."""
    halves = np.column_stack([users, requests]).astype(np.int64).view(np.uint64) ^ np.uint64(1 << 63)
    packed = halves.astype(">u8").tobytes()
    return [_CANDIDATES + packed[at : at + 16] for at in range(0, len(packed), 16)]


Piece = tuple[int, int, pa.RecordBatch, np.ndarray, np.ndarray]
"""Number of the first record, arrival of the last record, records, and each one's user and request."""


@dataclass
class Kept:
    """What a batch is to write.

    Attributes
    ----------
    pieces : list of Piece
    candidates : list of (key, entries)
    deleted : list of bytes
        Keys that nothing can ask for any more.
    """

    pieces: list[Piece] = field(default_factory=list)
    candidates: list[tuple[bytes, np.ndarray]] = field(default_factory=list)
    deleted: list[bytes] = field(default_factory=list)

    def put(self, batch: WriteBatch) -> None:
        """Into a commit."""
        for key in self.deleted:
            batch.delete(key)
        for first, arrival, records, users, requests in self.pieces:
            at = first.to_bytes(8, "big")
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, records.schema, options=_IPC) as writer:
                writer.write_batch(records)
            batch.put(_PIECE + at, sink.getvalue().to_pybytes())
            batch.put(_ARRIVAL + at, arrival.to_bytes(8, "big", signed=True))
            batch.put(_REQUESTS + at, np.column_stack([users, requests]).astype("<i8").tobytes())
        for key, entries in self.candidates:
            batch.put(key, np.ascontiguousarray(entries, "<i8").tobytes())


class ServedStore:
    """The reader's side, in the thread that judges.

    Parameters
    ----------
    store : TaskStore
    """

    def __init__(self, store: TaskStore) -> None:
        self._store = store
        found = store.prefixed(_ARRIVAL)
        self._firsts = [int.from_bytes(key[1:], "big") for key, _ in found]
        self._arrivals = [int.from_bytes(value, "big", signed=True) for _, value in found]
        self._listed = {int.from_bytes(key[1:], "big") for key, _ in store.prefixed(_REQUESTS)}
        self._held: OrderedDict[int, pa.RecordBatch] = OrderedDict()
        self._held_bytes = 0

    def candidates(self, keys: list[bytes], before: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Candidates of requests as they were at a position, in the order of the keys.

        Parameters
        ----------
        before : (int, int)
            Positions in ACTIONS and SERVED. What was written later is of records that are gone through again.

        Returns
        -------
        int64[k, ENTRY_COLUMNS], int64[k]
            Entries, and which key each is of.
        """
        values = self._store.get_many(keys)
        lengths = np.array([len(value) // (8 * ENTRY_COLUMNS) if value is not None else 0 for value in values], np.int64)
        entries = np.frombuffer(b"".join(value for value in values if value is not None), "<i8").reshape(-1, ENTRY_COLUMNS).copy()
        of = np.repeat(np.arange(len(keys)), lengths)
        then = entries[:, E_NUMBER] < before[1] << _SHARING
        entries, of = entries[then], of[then]
        entries[entries[:, E_SEEN] >= before[0], E_SEEN] = UNSEEN
        return entries, of

    def add(self, pieces: Sequence[Piece]) -> None:
        """Take note of pieces that are about to be written."""
        for first, arrival, records, _, _ in pieces:
            self._firsts.append(first)
            self._arrivals.append(arrival)
            self._listed.add(first)
            self._hold(first, records)

    def records(self, numbers: np.ndarray) -> list[pa.RecordBatch]:
        """Served records, in the order of their numbers (sorted, distinct), as SERVED has them."""
        parts: list[pa.RecordBatch] = []
        at = np.searchsorted(np.array(self._firsts, np.int64), numbers, "right") - 1
        for piece in np.unique(at).tolist():
            records = self._piece(self._firsts[piece])
            wanted = numbers[at == piece]
            of_piece = records.column(NUMBER).to_numpy()
            place = np.searchsorted(of_piece, wanted)
            if piece < 0 or (np.append(of_piece, -1)[place] != wanted).any():
                raise self._missing(int(wanted[0]))
            parts.append(records.take(pa.array(place)))
        whole = pa.Table.from_batches(parts).unify_dictionaries().combine_chunks() if parts else None
        return whole.drop_columns(NUMBER).to_batches() if whole is not None else []

    def expire(self, watermark: int | None, lateness: int, kept: Kept, sparing: int = 0) -> None:
        """Note for deletion what no record behind this watermark can ask for, ms. What is gone through again later must begin here.

        The last `sparing` pieces are about to be written, and go the next time.
        """
        if watermark is None:
            return
        written = len(self._firsts) - sparing
        seen = min(written, bisect_right(self._arrivals, watermark - SERVED_KEPT_MS - lateness - 1))
        listed = [first for first in self._firsts[:seen] if first in self._listed]
        if listed:
            self._expire_candidates(listed, watermark - SERVED_KEPT_MS - lateness, kept)
        gone = min(written, bisect_right(self._arrivals, watermark - SERVED_KEPT_MS - OUTCOME_MS - CREDIT_MS - lateness - 1))
        for first in self._firsts[:gone]:
            at = first.to_bytes(8, "big")
            kept.deleted += [_PIECE + at, _ARRIVAL + at]
            if (records := self._held.pop(first, None)) is not None:
                self._held_bytes -= _cost(records)
        del self._firsts[:gone], self._arrivals[:gone]

    def unexpired(self, watermark: int, lateness: int) -> np.ndarray:
        """All candidates that can still be seen, or would be repeats: int64[n, 2 + ENTRY_COLUMNS], user and request first, sorted."""
        parts = [np.empty((0, 2 + ENTRY_COLUMNS), np.int64)]
        for key, value in self._store.prefixed(_CANDIDATES):
            entries = np.frombuffer(value, "<i8").reshape(-1, ENTRY_COLUMNS)
            entries = entries[entries[:, E_TIME] + SERVED_KEPT_MS + lateness >= watermark]
            owner = (np.frombuffer(key[1:], ">u8").astype(np.uint64) ^ np.uint64(1 << 63)).view(np.int64)
            parts.append(np.column_stack([np.broadcast_to(owner, (len(entries), 2)), entries]))
        return np.concatenate(parts)

    def _expire_candidates(self, listed: list[int], before: int, kept: Kept) -> None:
        found = self._store.get_many([_REQUESTS + first.to_bytes(8, "big") for first in listed])
        owners = np.frombuffer(b"".join(value for value in found if value is not None), "<i8").reshape(-1, 2)
        keys = sorted(set(keys_of(owners[:, 0], owners[:, 1])))
        stored = dict(zip(keys, self._store.get_many(keys), strict=True))
        entries = {key: np.frombuffer(value, "<i8").reshape(-1, ENTRY_COLUMNS) for key, value in stored.items() if value is not None}
        # What this batch has changed is not there yet.
        entries |= {key: changed for key, changed in kept.candidates if key in stored}
        # One that was served again since goes with the last of its records.
        gone = {key for key, of_request in entries.items() if (of_request[:, E_TIME] < before).all()}
        kept.deleted += sorted(gone)
        kept.candidates = [one for one in kept.candidates if one[0] not in gone]
        kept.deleted += [_REQUESTS + first.to_bytes(8, "big") for first in listed]
        self._listed.difference_update(listed)

    def _piece(self, first: int) -> pa.RecordBatch:
        if first in self._held:
            self._held.move_to_end(first)
            return self._held[first]
        value = self._store.get(_PIECE + first.to_bytes(8, "big"))
        if value is None:
            raise self._missing(first)
        records = pa.ipc.open_stream(pa.py_buffer(value), options=_ALONE).read_next_batch()
        self._hold(first, records)
        return records

    def _missing(self, number: int) -> StateError:
        return StateError(
            f"state {self._store.path}: served records from offset {number >> _SHARING} on are missing; "
            "`tidemark examples restore` has it made anew from the logs"
        )

    def _hold(self, first: int, records: pa.RecordBatch) -> None:
        self._held[first] = records
        self._held_bytes += _cost(records)
        while self._held_bytes > _PIECES_BYTES and len(self._held) > 1:
            _, dropped = self._held.popitem(last=False)
            self._held_bytes -= _cost(dropped)


def _cost(records: pa.RecordBatch) -> int:
    """Memory that a piece takes, about."""
    return int(records.nbytes) + _OBJECTS_BYTES


def pieces_of(records: pa.RecordBatch, arrivals: np.ndarray, users: np.ndarray, requests: np.ndarray) -> list[Piece]:
    """Served records with their numbers, cut apart for `Kept.pieces`."""
    numbers, out = records.column(NUMBER).to_numpy(), []
    for at in range(0, records.num_rows, PIECE_RECORDS):
        rows = slice(at, at + PIECE_RECORDS)
        piece = with_own_dictionaries(records.slice(at, PIECE_RECORDS))
        out.append((int(numbers[at]), int(arrivals[rows][-1]), piece, users[rows], requests[rows]))
    return out
