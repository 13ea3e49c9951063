"""Records of SERVED as columns of arrays: many requests into one record batch at once, and back again, bit by bit.

Nothing here goes through values one by one, and nothing is guessed. Heartbeats are passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from flows.answers import SequenceRows
from flows.events import hash_id
from flows.features import SEQUENCE_FIELDS
from flows.partition import partition_of
from flows.served import SERVED_SCHEMA, SERVED_VERSION
from flows.served_versions import DICTIONARIES, WIDTHS, as_newest, codes_of, list_lengths, lists, with_own_dictionaries

# In memory an action is as `SequenceRows` has it.
_SEQUENCE_TYPES = {"pin_id": np.int64, "action": np.int16, "surface": np.int16, "event_time": np.int64, "duration_ms": np.int64}


@dataclass(frozen=True, eq=False)
class Ranked:
    """How the p pins of a request came to be shown.

    Attributes
    ----------
    slot : int16[p]
        -1: not known.
    propensity, score : float32[p]
        nan: not known.
    explored : bool[p]
    base, delta : int or None
        The model that ranked them, and its last delta.
    not_shown : int64[s]
        A sample of the candidates that were not shown.
    """

    slot: np.ndarray
    propensity: np.ndarray
    explored: np.ndarray
    score: np.ndarray
    base: int | None
    delta: int | None
    not_shown: np.ndarray

    @classmethod
    def unknown(cls, pins: int) -> Ranked:
        """Of pins of which nobody said."""
        nan = np.full(pins, np.nan, np.float32)
        return cls(np.full(pins, -1, np.int16), nan, np.zeros(pins, np.bool_), nan, None, None, np.empty(0, np.int64))


@dataclass(frozen=True, eq=False)
class Served:
    """What one request was given: u users, p pins, t topics, each kind in the order asked.

    Attributes
    ----------
    timestamp : int
        Of the request, ms.
    request_id : str
    surface : str or None
    fingerprint : str
        Of the features and settings that the values follow from.
    as_of : int or None
        Events up to this time were taken, ms; None: nothing was read, and no time was asked for.
    positions : bytes or None
        `flows.positions.Positions`; None: nothing was read.
    user_id, user_status : int64[u], int8[u]
        Status is `flows.served.Status`, here and below.
    sequences : SequenceRows
        Of the users.
    user_counters : int64[u, 24]
    pin_id, pin_status, pin_counters : int64[p], int8[p], int64[p, 24]
    topic : tuple of str
        t of them.
    topic_status, topic_stats : int8[t], float64[t, 15]
    ranked : Ranked or None
        How its pins came to be shown; None: not known.
    """

    timestamp: int
    request_id: str
    surface: str | None
    fingerprint: str
    as_of: int | None
    positions: bytes | None
    user_id: np.ndarray
    user_status: np.ndarray
    sequences: SequenceRows
    user_counters: np.ndarray
    pin_id: np.ndarray
    pin_status: np.ndarray
    pin_counters: np.ndarray
    topic: tuple[str, ...]
    topic_status: np.ndarray
    topic_stats: np.ndarray
    ranked: Ranked | None = None

    @property
    def records(self) -> int:
        """Records of SERVED that it becomes."""
        return max(1, len(self.user_id))

    @property
    def nbytes(self) -> int:
        """What it holds in memory, about."""
        sequence = [getattr(self.sequences, field) for field in SEQUENCE_FIELDS]
        arrays = [*sequence, self.user_id, self.user_counters, self.pin_id, self.pin_counters, self.topic_stats]
        if (how := self.ranked) is not None:
            arrays += [how.slot, how.propensity, how.explored, how.score, how.not_shown]
        return 1024 + sum(array.nbytes for array in arrays) + sum(map(len, self.topic)) + len(self.positions or b"")


@dataclass(frozen=True, eq=False)
class ServedRows:
    """n records, which have s sequence entries, p pins and t topics together: record i has those from offsets[i] to offsets[i + 1].

    Attributes
    ----------
    timestamp : int64[n]
        Of the request, ms.
    request_id : list of str
    surface, surfaces : int32[n], tuple of str
        The second is what the first points into, -1 for none; so are `fingerprints` and `prefixes`.
    fingerprint, fingerprints : int32[n], tuple of str
    prefix, prefixes : int32[n], tuple of bytes
        `flows.positions.Positions`; -1: nothing was read.
    as_of : int64[n]
        0 where nothing was read and no time was asked for.
    has_user : bool[n]
        Where not, the columns of users say nothing: zeros, and no entries.
    user_id, user_status, user_counters : int64[n], int8[n], int64[n, 24]
    sequence_offsets : int64[n + 1]
    sequence : dict of str to array[s]
        By the names of `flows.features.SEQUENCE_FIELDS`; newest first. Actions and surfaces are codes, int16.
    pin_offsets, pin_id, pin_status, pin_counters : int64[n + 1], int64[p], int8[p], int64[p, 24]
    topic_offsets, topic, topic_status, topic_stats : int64[n + 1], list of str, int8[t], float64[t, 15]
    slot, propensity, explored, score : int16[p], float32[p], bool[p], float32[p]
        Of the pins; -1 and nan where not known.
    base, delta : int64[n]
        -1: no model of ours.
    not_shown_offsets, not_shown : int64[n + 1], int64[s]
        Pins.
    """

    timestamp: np.ndarray
    request_id: list[str]
    surface: np.ndarray
    surfaces: tuple[str, ...]
    fingerprint: np.ndarray
    fingerprints: tuple[str, ...]
    prefix: np.ndarray
    prefixes: tuple[bytes, ...]
    as_of: np.ndarray
    has_user: np.ndarray
    user_id: np.ndarray
    user_status: np.ndarray
    user_counters: np.ndarray
    sequence_offsets: np.ndarray
    sequence: dict[str, np.ndarray]
    pin_offsets: np.ndarray
    pin_id: np.ndarray
    pin_status: np.ndarray
    pin_counters: np.ndarray
    topic_offsets: np.ndarray
    topic: list[str]
    topic_status: np.ndarray
    topic_stats: np.ndarray
    slot: np.ndarray
    propensity: np.ndarray
    explored: np.ndarray
    score: np.ndarray
    base: np.ndarray
    delta: np.ndarray
    not_shown_offsets: np.ndarray
    not_shown: np.ndarray

    def __len__(self) -> int:
        return len(self.timestamp)


def batches_of(requests: Sequence[Served], partitions: int, max_bytes: int) -> list[tuple[int, pa.RecordBatch]]:
    """Requests as what `Log.append` takes: their records by partition, each in the order given, in batches of about `max_bytes` at most.

    A record lies in its user's partition, or without a user in that of its request ID's hash. One that is larger by itself is a batch by itself.
    """
    if not requests:
        return []
    keys = [one.user_id if len(one.user_id) else np.array([hash_id(one.request_id)], np.int64) for one in requests]
    homes = partition_of(np.concatenate(keys), partitions)
    gathered: dict[int, list[list[Served]]] = {}
    sizes: dict[int, int] = {}
    at = 0
    for one in requests:
        mine = homes[at : at + one.records]
        at += one.records
        for home, part in [(int(mine[0]), one)] if (mine == mine[0]).all() else _split(one, mine):
            size = part.nbytes
            if home not in gathered or sizes[home] + size > max_bytes:
                gathered.setdefault(home, []).append([])
                sizes[home] = 0
            gathered[home][-1].append(part)
            sizes[home] += size
    wanted = [(home, together) for home in sorted(gathered) for together in gathered[home]]
    # Encoded all at once, and cut apart without a copy: each column costs its calls once, and not for each partition.
    whole = _encode([one for _, together in wanted for one in together])
    out: list[tuple[int, pa.RecordBatch]] = []
    at = 0
    for home, together in wanted:
        n = sum(one.records for one in together)
        out.append((home, with_own_dictionaries(whole.slice(at, n))))
        at += n
    return out


def _split(one: Served, homes: np.ndarray) -> list[tuple[int, Served]]:
    """A request by the partitions of its users; its pins and topics go with the first."""
    out = []
    for home in np.unique(homes).tolist():
        users = np.flatnonzero(homes == home)
        offsets = one.sequences.offsets
        lengths = np.diff(offsets)[users]
        entries = np.repeat(offsets[users] - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
        columns: dict[str, np.ndarray] = {field: getattr(one.sequences, field)[entries] for field in SEQUENCE_FIELDS}
        own = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        part = replace(
            one,
            user_id=one.user_id[users],
            user_status=one.user_status[users],
            sequences=SequenceRows(offsets=own, **columns, found=one.sequences.found[users], as_of=one.sequences.as_of),
            user_counters=one.user_counters[users],
        )
        if users[0]:
            nothing = {
                name: getattr(one, name)[:0] for name in ("pin_id", "pin_status", "pin_counters", "topic", "topic_status", "topic_stats")
            }
            part = replace(part, **nothing, ranked=None)
        out.append((home, part))
    return out


def _encode(requests: Sequence[Served]) -> pa.RecordBatch:
    """One record for each user of each request; pins and topics in a request's first."""
    counts = np.array([one.records for one in requests], np.int64)
    first = np.cumsum(counts) - counts
    n = int(counts.sum())
    has_user = np.repeat([len(one.user_id) > 0 for one in requests], counts)

    def of_request(values: list[object], kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind).take(pa.array(np.repeat(np.arange(len(requests)), counts)))

    def dictionary(values: list[object], kind: pa.DataType) -> pa.Array:
        return of_request(values, kind.value_type).dictionary_encode()

    def of_user(name: str, kind: pa.DataType) -> pa.Array:
        values = np.zeros(n, kind.to_pandas_dtype())
        values[has_user] = np.concatenate([getattr(one, name) for one in requests])
        return pa.array(values, kind, mask=~has_user)

    def of_first(names: Sequence[str], sizes: list[int], values: list[pa.Array]) -> dict[str, pa.Array]:
        lengths = np.zeros(n, np.int64)
        lengths[first] = sizes
        return {name: lists(lengths * WIDTHS.get(name, 1), each) for name, each in zip(names, values, strict=True)}

    lengths = np.zeros(n, np.int64)
    lengths[has_user] = np.concatenate([np.diff(one.sequences.offsets) for one in requests])
    columns: dict[str, pa.Array] = {
        "timestamp": of_request([one.timestamp for one in requests], pa.int64()),
        "version": pa.array(np.full(n, SERVED_VERSION, np.int16)),
        "request_id": of_request([one.request_id for one in requests], pa.string()),
        "as_of": of_request([one.as_of for one in requests], pa.int64()),
        **{name: dictionary([getattr(one, name) for one in requests], SERVED_SCHEMA.field(name).type) for name in DICTIONARIES},
        **{name: of_user(name, SERVED_SCHEMA.field(name).type) for name in ("user_id", "user_status")},
        "user_counters": lists(np.where(has_user, WIDTHS["user_counters"], 0), _joined(requests, "user_counters", np.int64), ~has_user),
    }
    for field in SEQUENCE_FIELDS:
        kind = SERVED_SCHEMA.field(f"sequence_{field}").type.value_type
        values = np.concatenate([getattr(one.sequences, field) for one in requests]).astype(kind.to_pandas_dtype())
        columns[f"sequence_{field}"] = lists(lengths, pa.array(values), ~has_user)
    pins = [_joined(requests, name, kind) for name, kind in (("pin_id", np.int64), ("pin_status", np.int8), ("pin_counters", np.int64))]
    columns |= of_first(("pin_id", "pin_status", "pin_counters"), [len(one.pin_id) for one in requests], pins)
    topics = [pa.array([topic for one in requests for topic in one.topic], pa.string())]
    topics += [_joined(requests, "topic_status", np.int8), _joined(requests, "topic_stats", np.float64)]
    columns |= of_first(("topic", "topic_status", "topic_stats"), [len(one.topic) for one in requests], topics)
    ranked = [one.ranked or Ranked.unknown(len(one.pin_id)) for one in requests]
    ranks = [pa.array(np.concatenate([one.slot for one in ranked]).astype(np.int16, copy=False))]
    ranks += [_known(np.concatenate([one.propensity for one in ranked]).astype(np.float32, copy=False))]
    ranks += [pa.array(np.concatenate([one.explored for one in ranked]).astype(np.bool_, copy=False))]
    ranks += [_known(np.concatenate([one.score for one in ranked]).astype(np.float32, copy=False))]
    columns |= of_first(("pin_slot", "pin_propensity", "pin_explored", "pin_score"), [len(one.pin_id) for one in requests], ranks)
    not_shown = pa.array(np.concatenate([one.not_shown for one in ranked]).astype(np.int64, copy=False))
    columns |= of_first(("not_shown",), [len(one.not_shown) for one in ranked], [not_shown])
    columns |= {
        "base": of_request([one.base for one in ranked], pa.int64()),
        "delta": of_request([one.delta for one in ranked], pa.int64()),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in SERVED_SCHEMA.names], schema=SERVED_SCHEMA)


def rows_of(batches: Sequence[pa.RecordBatch], where: str) -> ServedRows:
    """Records read from SERVED as arrays.

    Parameters
    ----------
    batches : sequence of RecordBatch
    where : str
        Log and partition, for the message.

    Raises
    ------
    CorruptionError
        Something among them is no record of SERVED, or of another version.
    """
    table = pa.Table.from_batches([as_newest(batch, where) for batch in batches], SERVED_SCHEMA)
    table = table.unify_dictionaries().combine_chunks()
    whole = table.to_batches()[0] if len(table) else pa.RecordBatch.from_pylist([], SERVED_SCHEMA)
    n, column = whole.num_rows, whole.column
    has_user = column("user_id").is_valid().to_numpy(zero_copy_only=False)
    surface, fingerprint, prefix = (_codes(column(name)) for name in DICTIONARIES)
    sequence_offsets, _ = _flat(column("sequence_pin_id"))
    pin_offsets, pin_id = _flat(column("pin_id"))
    topic_offsets, topic = _flat(column("topic"))
    not_shown_offsets, not_shown = _flat(column("not_shown"))
    counters = np.zeros((n, WIDTHS["user_counters"]), np.int64)
    counters[has_user] = _numbers(column("user_counters")).reshape(-1, WIDTHS["user_counters"])
    return ServedRows(
        timestamp=_filled(column("timestamp")),
        request_id=column("request_id").to_pylist(),
        surface=surface[0],
        surfaces=surface[1],
        fingerprint=fingerprint[0],
        fingerprints=fingerprint[1],
        prefix=prefix[0],
        prefixes=prefix[1],
        as_of=_filled(column("as_of")),
        has_user=has_user,
        user_id=_filled(column("user_id")),
        user_status=_filled(column("user_status")),
        user_counters=counters,
        sequence_offsets=sequence_offsets,
        sequence={field: _numbers(column(f"sequence_{field}")).astype(kind, copy=False) for field, kind in _SEQUENCE_TYPES.items()},
        pin_offsets=pin_offsets,
        pin_id=pin_id.to_numpy(zero_copy_only=False),
        pin_status=_numbers(column("pin_status")),
        pin_counters=_numbers(column("pin_counters")).reshape(-1, WIDTHS["pin_counters"]),
        topic_offsets=topic_offsets,
        topic=topic.to_pylist(),
        topic_status=_numbers(column("topic_status")),
        topic_stats=_numbers(column("topic_stats")).reshape(-1, WIDTHS["topic_stats"]),
        slot=_numbers(column("pin_slot")),
        propensity=_filled(column("pin_propensity").flatten(), np.nan),
        explored=_numbers(column("pin_explored")),
        score=_filled(column("pin_score").flatten(), np.nan),
        base=_filled(column("base"), -1),
        delta=_filled(column("delta"), -1),
        not_shown_offsets=not_shown_offsets,
        not_shown=not_shown.to_numpy(zero_copy_only=False),
    )


def _joined(requests: Sequence[Served], name: str, kind: type) -> pa.Array:
    return pa.array(np.concatenate([getattr(one, name) for one in requests]).astype(kind, copy=False).reshape(-1))


def _known(values: np.ndarray) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def _codes(column: pa.Array) -> tuple[np.ndarray, tuple[Any, ...]]:
    return codes_of(column), tuple(column.dictionary.to_pylist())


def _filled(column: pa.Array, default: float = 0) -> np.ndarray:
    return np.asarray(column.fill_null(pa.scalar(default, column.type)).to_numpy(zero_copy_only=False))


def _flat(column: pa.Array) -> tuple[np.ndarray, pa.Array]:
    return np.concatenate([[0], np.cumsum(list_lengths(column))]).astype(np.int64), column.flatten()


def _numbers(column: pa.Array) -> np.ndarray:
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False))
