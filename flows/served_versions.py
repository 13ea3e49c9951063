"""Records of SERVED of every version, as the newest has them: checked, and without heartbeats.

Nothing is guessed: records that are none of SERVED's, or of a version that this Tidemark doesn't know, are refused.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.errors import CorruptionError
from flows.features import PIN_COUNTERS, SEQUENCE_FIELDS, TOPIC_STATS, USER_COUNTERS
from flows.served import FIRST_OF_VERSION_2, SERVED_SCHEMA, SERVED_VERSION

WIDTHS = {"user_counters": len(USER_COUNTERS), "pin_counters": len(PIN_COUNTERS), "topic_stats": len(TOPIC_STATS)}
DICTIONARIES = ("surface", "fingerprint", "positions")
_VERSION_1 = pa.schema(list(SERVED_SCHEMA)[: SERVED_SCHEMA.get_field_index(FIRST_OF_VERSION_2)])
_SCHEMAS = {SERVED_VERSION: SERVED_SCHEMA, 1: _VERSION_1}
_OF_PINS = ("pin_status", "pin_counters", "pin_slot", "pin_propensity", "pin_explored", "pin_score")


def as_newest(batch: pa.RecordBatch, where: str) -> pa.RecordBatch:
    """A batch as read from SERVED in the newest schema, its heartbeats left out.

    Parameters
    ----------
    where : str
        Log and partition, for the message.

    Raises
    ------
    CorruptionError
        It holds records that are none of SERVED's, or of another version.
    """
    known = [v for v, schema in _SCHEMAS.items() if batch.schema.names == schema.names and batch.schema.types == schema.types]
    if not known:
        raise CorruptionError(
            f"{where}: holds records that are none of SERVED's; only `tidemark serve` writes there, find out what else has"
        )
    [version] = known
    versions = pc.unique(batch.column("version")).to_pylist()
    if versions not in ([], [version]):
        raise CorruptionError(
            f"{where}: holds records of version {', '.join(map(str, versions))}, and this Tidemark reads versions 1 to {SERVED_VERSION}; "
            "read them with the Tidemark that has written them"
        )
    if batch.column("request_id").null_count:
        batch = batch.filter(batch.column("request_id").is_valid())
    batch = batch.replace_schema_metadata(None) if version == SERVED_VERSION else _from_version_1(batch)
    _check_sizes(batch, where)
    return batch


def heartbeat(timestamp: int) -> pa.RecordBatch:
    """A record that says that so much time has passed, ms."""
    given = {"timestamp": timestamp, "version": SERVED_VERSION}
    return pa.RecordBatch.from_arrays([pa.array([given.get(f.name)], f.type) for f in SERVED_SCHEMA], schema=SERVED_SCHEMA)


def list_lengths(column: pa.Array) -> np.ndarray:
    """How many values each list has, 0 for none at all: int64[n]."""
    lengths = np.diff(column.offsets.to_numpy()).astype(np.int64)
    return np.where(column.is_valid().to_numpy(zero_copy_only=False), lengths, 0) if column.null_count else lengths


def lists(lengths: np.ndarray, values: pa.Array, none: np.ndarray | None = None) -> pa.Array:
    """A column of lists of these lengths; null where `none`."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, values, mask=None if none is None or not none.any() else pa.array(none))


def with_own_dictionaries(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Records with no more in their dictionaries than they use: positions are large."""
    columns = batch.columns
    for name in DICTIONARIES:
        at = batch.schema.get_field_index(name)
        dictionary, codes = columns[at].dictionary, codes_of(columns[at])
        if len(dictionary) < 2:
            continue
        used = np.unique(codes)
        used = used[used >= 0]
        renamed = np.searchsorted(used, codes).astype(np.int32)
        indices = pa.array(renamed, mask=codes < 0)
        columns[at] = pa.DictionaryArray.from_arrays(indices, dictionary.take(pa.array(used, pa.int32())))
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def codes_of(column: pa.Array) -> np.ndarray:
    """The indices of a dictionary column, -1 for none: int32[n]."""
    return np.asarray(column.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int32)


def _from_version_1(batch: pa.RecordBatch) -> pa.RecordBatch:
    n, pins = batch.num_rows, list_lengths(batch.column("pin_id"))
    every = int(pins.sum())
    more = {
        "pin_slot": lists(pins, pa.array(np.full(every, -1, np.int16))),
        "pin_propensity": lists(pins, pa.nulls(every, pa.float32())),
        "pin_explored": lists(pins, pa.array(np.zeros(every, np.bool_))),
        "pin_score": lists(pins, pa.nulls(every, pa.float32())),
        "base": pa.nulls(n, pa.int64()),
        "delta": pa.nulls(n, pa.int64()),
        "not_shown": lists(np.zeros(n, np.int64), pa.array([], pa.int64())),
    }
    return pa.RecordBatch.from_arrays([*batch.columns, *more.values()], schema=SERVED_SCHEMA)


def _check_sizes(batch: pa.RecordBatch, where: str) -> None:
    has_user = batch.column("user_id").is_valid().to_numpy(zero_copy_only=False)
    sizes = {field.name: list_lengths(batch.column(field.name)) for field in SERVED_SCHEMA if pa.types.is_list(field.type)}
    same = [(f"sequence_{field}", "sequence_pin_id") for field in SEQUENCE_FIELDS]
    same += [(name, "pin_id") for name in _OF_PINS] + [("topic_status", "topic"), ("topic_stats", "topic")]
    fits = all(np.array_equal(sizes[name], sizes[of] * WIDTHS.get(name, 1)) for name, of in same)
    if not fits or not np.array_equal(sizes["user_counters"], has_user * WIDTHS["user_counters"]):
        raise CorruptionError(
            f"{where}: a record has another number of values than features have now; it was served under other definitions, "
            "read it with the Tidemark that has written it"
        )
