"""Records of EXAMPLES as columns of arrays, and back again, bit by bit. Nothing here goes through values one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa

from flows.errors import CorruptionError
from flows.examples.record import EXAMPLE_SCHEMA, HEADS, MASKED, SEQUENCE_ENTRY, Kind
from flows.features import PIN_COUNTERS, SEQUENCE_FIELDS, USER_COUNTERS

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
        lengths = np.diff(self.offsets)[which]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        entries = np.repeat(self.offsets[which] - offsets[:-1], lengths) + np.arange(offsets[-1])
        # As bytes: fields would be copied one by one.
        packed = self.sequence.view(f"V{SEQUENCE_ENTRY.itemsize}")
        return UserFeatures(self.counters[which], offsets, packed[entries].view(SEQUENCE_ENTRY))


@dataclass(frozen=True, eq=False)
class ExampleRows:
    """n records of EXAMPLES, in order.

    Attributes
    ----------
    ready_time : int64[n]
        When each became known, ms.
    kind : int8[n]
        `flows.examples.record.Kind`.
    request_id : pa.StringArray
        n of them.
    user_id, pin_id : int64[n]
    surface : int16[n]
        Code of the vocabulary, -1 for none.
    topic, topics : int32[n], tuple of str
        The first points into the second, -1 for none; so do `fingerprint` and `position`.
    request_time, impression_time : int64[n]
        ms.
    slot : int16[n]
        -1: not known.
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
    pin_counters : int64[n, 24]
        In the order of features.PIN_COUNTERS.
    request, users : int32[n], UserFeatures
        Which of the user features are a record's.
    """

    ready_time: np.ndarray
    kind: np.ndarray
    request_id: pa.Array
    user_id: np.ndarray
    pin_id: np.ndarray
    surface: np.ndarray
    topic: np.ndarray
    topics: tuple[str, ...]
    request_time: np.ndarray
    impression_time: np.ndarray
    slot: np.ndarray
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
    pin_counters: np.ndarray
    request: np.ndarray
    users: UserFeatures

    def __len__(self) -> int:
        return len(self.kind)

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
        if batch.schema.names != EXAMPLE_SCHEMA.names or batch.schema.types != EXAMPLE_SCHEMA.types:
            raise CorruptionError(f"{where}: holds records that are none of EXAMPLES'; find out what else has written there")
    table = pa.Table.from_batches([batch.replace_schema_metadata(None) for batch in batches], EXAMPLE_SCHEMA).unify_dictionaries()
    whole = table.combine_chunks().to_batches()
    column = (whole[0] if whole else pa.RecordBatch.from_pylist([], EXAMPLE_SCHEMA)).column
    topic, topics = _codes(column("topic"))
    fingerprint, fingerprints = _codes(column("fingerprint"))
    position, positions = _codes(column("positions"))
    request, packed = _codes(column("user_features"))
    return ExampleRows(
        ready_time=_plain(column("timestamp")),
        kind=_plain(column("kind")),
        request_id=column("request_id"),
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
        pin_counters=column("pin_counters").flatten().to_numpy(zero_copy_only=False).reshape(-1, len(PIN_COUNTERS)),
        request=request,
        users=_unpacked(packed, where),
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


def _unpacked(packed: tuple[bytes, ...], where: str) -> UserFeatures:
    sizes = np.fromiter(map(len, packed), np.int64, len(packed)) - _COUNTER_BYTES
    if (sizes < 0).any() or (sizes % SEQUENCE_ENTRY.itemsize).any():
        raise CorruptionError(f"{where}: user features are not as long as they must be; restore the log from its archive")
    counters = np.frombuffer(b"".join(one[:_COUNTER_BYTES] for one in packed), "<i8").reshape(-1, len(USER_COUNTERS))
    sequence = np.frombuffer(b"".join(one[_COUNTER_BYTES:] for one in packed), SEQUENCE_ENTRY)
    return UserFeatures(counters, np.concatenate([[0], np.cumsum(sizes // SEQUENCE_ENTRY.itemsize)]).astype(np.int64), sequence)


def _dictionary(codes: np.ndarray, values: Sequence[object], kind: pa.DataType) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32), mask=codes < 0), pa.array(list(values), kind))


def _codes(column: pa.Array) -> tuple[np.ndarray, tuple]:
    return np.asarray(column.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int32), tuple(column.dictionary.to_pylist())


def _plain(column: pa.Array, null: object = None) -> np.ndarray:
    return np.asarray((column if null is None else column.fill_null(null)).to_numpy(zero_copy_only=False))
