"""Records of EXAMPLES as columns of arrays, and back again, bit by bit. Nothing here goes through values one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.errors import CorruptionError
from flows.examples.record import EXAMPLE_SCHEMA, HEADS, MASKED, SEQUENCE_ENTRY, Kind, is_of_examples
from flows.features import PIN_COUNTERS, SEQUENCE_FIELDS, USER_COUNTERS
from flows.kernels.requests import copy_spans, unpack

_COUNTER_BYTES = 8 * len(USER_COUNTERS)


@dataclass(frozen=True, eq=False)
class UserFeatures:
    """What was served of the user, of c requests.

    Attributes
    ----------
    counters : int64[c, 24]
        In the order of features.USER_COUNTERS.
    offsets : int64[c + 1]
        Actions of request i, newest first, are offsets[i] to offsets[i + 1] of `sequence`.
    sequence : array[s] of SEQUENCE_ENTRY
    """

    counters: np.ndarray
    offsets: np.ndarray
    sequence: np.ndarray

    def __len__(self) -> int:
        return len(self.counters)

    def take(self, which: np.ndarray) -> UserFeatures:
        """Those of some requests: int64[k]. Where they are neighbours, in order, nothing is copied."""
        if len(which) and which[-1] - which[0] == len(which) - 1 and (np.diff(which) == 1).all():
            low, high = int(which[0]), int(which[-1]) + 1
            offsets = self.offsets[low : high + 1]
            return UserFeatures(self.counters[low:high], offsets - offsets[0], self.sequence[offsets[0] : offsets[-1]])
        starts, stops = self.offsets[which], self.offsets[which + 1]
        offsets = np.concatenate([[0], np.cumsum(stops - starts)]).astype(np.int64)
        sequence = np.empty(offsets[-1], SEQUENCE_ENTRY)
        self.copy_sequences(starts, stops, sequence, offsets)
        return UserFeatures(self.counters[which], offsets, sequence)

    def copy_sequences(self, starts: np.ndarray, stops: np.ndarray, out: np.ndarray, at: np.ndarray) -> None:
        """Copy ranges of `sequence`, int64[k] each, to where `at` says, int64[k] or more."""
        # As bytes: fields would be copied one by one.
        copy_spans(np.ascontiguousarray(self.sequence).view(np.uint8), starts, stops, SEQUENCE_ENTRY.itemsize, out.view(np.uint8), at)


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """What a model is given of n records of EXAMPLES; nothing of what came of them.

    Attributes
    ----------
    user_id, pin_id : int64[n]
    surface : int16[n]
        Code of the vocabulary, -1 for none.
    slot : int16[n]
        -1: not known.
    request_time : int64[n]
        ms.
    pin_counters : int64[n, 24]
        In the order of features.PIN_COUNTERS.
    request, users : int32[n], UserFeatures
        Which of the user features are a record's.
    """

    user_id: np.ndarray
    pin_id: np.ndarray
    surface: np.ndarray
    slot: np.ndarray
    request_time: np.ndarray
    pin_counters: np.ndarray
    request: np.ndarray
    users: UserFeatures

    def __len__(self) -> int:
        return len(self.pin_id)


@dataclass(frozen=True, eq=False)
class ExampleRows(FeatureRows):
    """n records of EXAMPLES, in order: beside what a model is given, what they are and what came of them.

    Attributes
    ----------
    ready_time : int64[n]
        When each became known, ms.
    kind : int8[n]
        `flows.examples.record.Kind`.
    request_id : pa.StringArray
        n of them.
    topic, topics : int32[n], tuple of str
        The first points into the second, -1 for none; so do `fingerprint` and `position`.
    impression_time : int64[n]
        ms.
    propensity, score : float32[n]
        nan: not known.
    explored : bool[n]
    base, delta : int64[n]
        -1: no model of ours.
    labels : int8[n, 5]
        In the order of HEADS: 0, 1 or MASKED.
    fingerprint, fingerprints : int32[n], tuple of str
    position, positions : int32[n], tuple of bytes
    as_of : int64[n]
        -1: not known.
    """

    ready_time: np.ndarray
    kind: np.ndarray
    request_id: pa.Array
    topic: np.ndarray
    topics: tuple[str, ...]
    impression_time: np.ndarray
    propensity: np.ndarray
    explored: np.ndarray
    score: np.ndarray
    base: np.ndarray
    delta: np.ndarray
    labels: np.ndarray
    fingerprint: np.ndarray
    fingerprints: tuple[str, ...]
    position: np.ndarray
    positions: tuple[bytes, ...]
    as_of: np.ndarray

    def take(self, rows: np.ndarray) -> ExampleRows:
        """Some of the records (indices or a mask), with the user features that they use."""
        index = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        neighbours = len(index) > 0 and index[-1] - index[0] == len(index) - 1 and bool((np.diff(index) == 1).all())
        some = self.at(slice(int(index[0]), int(index[-1]) + 1) if neighbours else index)
        used, request = np.unique(some.request, return_inverse=True)
        return replace(some, request=request.astype(np.int32), users=self.users.take(used))

    def at(self, rows: np.ndarray | slice) -> ExampleRows:
        """Some of the records (indices, or a slice, which copies nothing), with all user features, used or not."""
        shared = {"topics", "fingerprints", "positions", "users", "request_id"}
        out = {f.name: getattr(self, f.name) for f in fields(self)}
        out |= {name: values[rows] for name, values in out.items() if name not in shared}
        request_id = self.request_id[rows] if isinstance(rows, slice) else self.request_id.take(pa.array(rows))
        return ExampleRows(**(out | {"request_id": request_id}))


def joined_users(parts: Sequence[UserFeatures]) -> UserFeatures:
    """User features, one part after another."""
    if len(parts) == 1:
        return parts[0]
    lengths = np.concatenate([np.empty(0, np.int64), *(np.diff(part.offsets) for part in parts)])
    counters = np.concatenate([np.empty((0, len(USER_COUNTERS)), np.int64), *(part.counters for part in parts)])
    # A part may be some of the requests whose entries it holds.
    entries = [part.sequence[part.offsets[0] : part.offsets[-1]].view(np.uint8) for part in parts]
    # As bytes: fields would be copied one by one.
    sequence = np.concatenate([np.empty(0, np.uint8), *entries]).view(SEQUENCE_ENTRY)
    return UserFeatures(counters, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), sequence)


def batch_of(rows: ExampleRows, generation: int, origin: int, first_sequence: int) -> pa.RecordBatch:
    """Records as they are appended to EXAMPLES, all of one origin, numbered from `first_sequence`."""
    n = len(rows)
    packed = [
        b"".join((counters.tobytes(), rows.users.sequence[start:stop].tobytes()))
        for counters, start, stop in zip(
            rows.users.counters.astype("<i8"), rows.users.offsets[:-1].tolist(), rows.users.offsets[1:].tolist(), strict=True
        )
    ]
    columns = {
        "generation": pa.array(np.full(n, generation, np.int32)),
        "origin": pa.array(np.full(n, origin, np.int32)),
        "sequence": pa.array(np.arange(first_sequence, first_sequence + n)),
        "timestamp": pa.array(rows.ready_time),
        "request_id": rows.request_id,
        "topic": _dictionary(rows.topic, rows.topics, pa.string()),
        "propensity": pa.array(rows.propensity, mask=np.isnan(rows.propensity)),
        "score": pa.array(rows.score, mask=np.isnan(rows.score)),
        "base": pa.array(rows.base, mask=rows.base < 0),
        "delta": pa.array(rows.delta, mask=rows.delta < 0),
        "as_of": pa.array(rows.as_of, mask=rows.as_of < 0),
        "fingerprint": _dictionary(rows.fingerprint, rows.fingerprints, pa.string()),
        "positions": _dictionary(rows.position, rows.positions, pa.binary()),
        "user_features": _dictionary(rows.request, packed, pa.binary()),
        "pin_counters": pa.FixedSizeListArray.from_arrays(pa.array(rows.pin_counters.reshape(-1)), len(PIN_COUNTERS)),
        **{f"label_{head}": pa.array(np.ascontiguousarray(rows.labels[:, i])) for i, head in enumerate(HEADS)},
    }
    columns |= {name: pa.array(getattr(rows, name)) for name in EXAMPLE_SCHEMA.names if name not in columns}
    return pa.RecordBatch.from_arrays([columns[name] for name in EXAMPLE_SCHEMA.names], schema=EXAMPLE_SCHEMA)


def rows_of(batches: Sequence[pa.RecordBatch], where: str) -> ExampleRows:
    """Records read from EXAMPLES as arrays.

    Parameters
    ----------
    batches : sequence of RecordBatch
    where : str
        Log and partition, for the message.

    Raises
    ------
    CorruptionError
        Something among them is no record of EXAMPLES.
    """
    for batch in batches:
        if not is_of_examples(batch):
            raise CorruptionError(f"{where}: holds records that are none of EXAMPLES'; find out what else has written there")
    table = pa.Table.from_batches([batch.replace_schema_metadata(None) for batch in batches], EXAMPLE_SCHEMA)
    column = table.column
    # User features are larger than all the rest: what two batches share of them is kept twice rather than looked for.
    small = table.select(["topic", "fingerprint", "positions"]).unify_dictionaries()
    (topic, topics), (fingerprint, fingerprints), (position, positions) = (_codes(one) for one in small.columns)
    request, users = _user_features(column("user_features"), where)
    return ExampleRows(
        ready_time=_plain(column("timestamp")),
        kind=_plain(column("kind")),
        request_id=column("request_id").combine_chunks(),
        user_id=_plain(column("user_id")),
        pin_id=_plain(column("pin_id")),
        surface=_plain(column("surface")),
        topic=topic,
        topics=topics,
        request_time=_plain(column("request_time")),
        impression_time=_plain(column("impression_time")),
        slot=_plain(column("slot")),
        propensity=_plain(column("propensity"), np.nan),
        explored=_plain(column("explored"), False),
        score=_plain(column("score"), np.nan),
        base=_plain(column("base"), -1),
        delta=_plain(column("delta"), -1),
        labels=np.column_stack([_plain(column(f"label_{head}")) for head in HEADS]),
        fingerprint=fingerprint,
        fingerprints=fingerprints,
        position=position,
        positions=positions,
        as_of=_plain(column("as_of"), -1),
        pin_counters=_plain(pc.list_flatten(column("pin_counters"))).reshape(-1, len(PIN_COUNTERS)),
        request=request,
        users=users,
    )


def heartbeats_at(times: np.ndarray) -> ExampleRows:
    """Heartbeats, int64[n] ms: of no user and no pin, with labels that say nothing and features that are zeros."""
    n = len(times)
    none, zeros, unknown = np.full(n, -1, np.int64), np.zeros(n, np.int64), np.full(n, np.nan, np.float32)
    nobody = UserFeatures(np.zeros((1, len(USER_COUNTERS)), np.int64), np.zeros(2, np.int64), np.empty(0, SEQUENCE_ENTRY))
    return ExampleRows(
        ready_time=times, kind=np.full(n, Kind.HEARTBEAT, np.int8), request_id=pa.array([""] * n, pa.string()), user_id=none, pin_id=none,
        surface=none.astype(np.int16), topic=none.astype(np.int32), topics=(), request_time=times, impression_time=times,
        slot=none.astype(np.int16), propensity=unknown, explored=zeros.astype(np.bool_), score=unknown, base=none, delta=none,
        labels=np.full((n, len(HEADS)), MASKED, np.int8), fingerprint=none.astype(np.int32), fingerprints=(), position=none.astype(np.int32),
        positions=(), as_of=none, pin_counters=np.zeros((n, len(PIN_COUNTERS)), np.int64), request=zeros.astype(np.int32), users=nobody,
    )  # fmt: skip


def user_features(counters: np.ndarray, offsets: np.ndarray, columns: dict[str, np.ndarray]) -> UserFeatures:
    """What readers and `flows.point_in_time` say of users, as it is kept here.

    Parameters
    ----------
    counters : int64[c, 24]
    offsets : int64[c + 1]
    columns : dict of str to array[s]
        By the names of `flows.features.SEQUENCE_FIELDS`.
    """
    sequence = np.empty(len(columns["pin_id"]), SEQUENCE_ENTRY)
    for name in SEQUENCE_FIELDS:
        sequence[name] = columns[name]
    return UserFeatures(np.asarray(counters, np.int64), np.asarray(offsets, np.int64), sequence)


def _user_features(column: pa.ChunkedArray, where: str) -> tuple[np.ndarray, UserFeatures]:
    """Which of them is each record's, and all that there are."""
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    firsts = np.cumsum([0, *(len(chunk.dictionary) for chunk in chunks)])
    codes = [chunk.indices.fill_null(-1).to_numpy() for chunk in chunks]
    # Compiled loops do not ask.
    if not all(0 <= code.min() <= code.max() < len(chunk.dictionary) for code, chunk in zip(codes, chunks, strict=True)):
        raise CorruptionError(f"{where}: a record has no user features; restore the log from its archive")
    begins = [_begins(chunk.dictionary) for chunk in chunks]
    sizes = np.concatenate([np.empty(0, np.int64), *(np.diff(begin) for begin in begins)]) - _COUNTER_BYTES
    if (sizes < 0).any() or (sizes % SEQUENCE_ENTRY.itemsize).any():
        raise CorruptionError(f"{where}: user features are not as long as they must be; restore the log from its archive")
    offsets = np.concatenate([[0], np.cumsum(sizes // SEQUENCE_ENTRY.itemsize)]).astype(np.int64)
    counters, sequence = np.empty((len(sizes), len(USER_COUNTERS)), np.int64), np.empty(offsets[-1], SEQUENCE_ENTRY)
    for chunk, begin, low, high in zip(chunks, begins, firsts[:-1], firsts[1:], strict=True):
        own = sequence[offsets[low] : offsets[high]]
        unpack(np.frombuffer(chunk.dictionary.buffers()[2], np.uint8), begin, counters[low:high].view(np.uint8), own.view(np.uint8))
    request = [code + np.int32(first) for code, first in zip(codes, firsts[:-1], strict=True)]
    return np.concatenate([np.empty(0, np.int32), *request]), UserFeatures(counters, offsets, sequence)


def _begins(values: pa.BinaryArray) -> np.ndarray:
    """Where each of them begins in their bytes, and the last one ends."""
    return np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]


def _dictionary(codes: np.ndarray, values: Sequence[object], kind: pa.DataType) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32), mask=codes < 0), pa.array(list(values), kind))


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, tuple]:
    """Of chunks that share a dictionary."""
    codes = [np.asarray(chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int32) for chunk in column.chunks]
    return np.concatenate([np.empty(0, np.int32), *codes]), tuple(column.chunk(0).dictionary.to_pylist()) if codes else ()


def _plain(column: pa.ChunkedArray, null: object = None) -> np.ndarray:
    return np.asarray((column if null is None else column.fill_null(null)).to_numpy())
