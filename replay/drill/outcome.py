"""What must be equal after a recovery: every task's logical state, and every record of every log."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.log import Log, read_before
from flows.open_log import log_exists, open_live_log
from flows.outputs import EMBEDDINGS, LOGS, NUMBERED
from flows.settings import Settings
from flows.status_command import digest_of
from replay.tasks import KEPT, every

_READ_RECORDS = 65_536

Outcome = dict[str, str]
"""Digests, by what they are of."""


def outcome(settings: Settings) -> Outcome:
    """Digests, by task and by log; nothing may run meanwhile."""
    digests = {str(task): digest_of(settings, task.flow, task.partition) for task in every(settings, KEPT)}
    digests = {f"state {name}": digest for name, digest in digests.items()}
    if log_exists(settings, EMBEDDINGS):
        digests["models"] = _served(settings)
    for name in LOGS:
        # Where deltas are cut is no promise; what their consumers serve is.
        if name != EMBEDDINGS and log_exists(settings, name):
            with open_live_log(settings, name, read_only=True) as log:
                for partition in range(log.partitions):
                    digests[f"log {name}/{partition}"] = log_digest(log, partition)
    return digests


def _served(settings: Settings) -> str:
    """What consumers of the base that is served have, once they have read all: the base, and its rows."""
    # Where there are no models this asks for no package of theirs.
    from online_model.deltas.follower import Follower
    from online_model.registry.registry import Registry

    with open_live_log(settings, EMBEDDINGS, read_only=True) as log:
        follower = Follower(Registry.of(settings), log)
        while follower.refresh():
            pass
    if follower.trouble is not None:
        return f"trouble: {follower.trouble}"
    served = follower.served
    total = hashlib.blake2b(repr((served.base.number, served.base.digest)).encode(), digest_size=16)
    for name, rows in sorted(served.tables.items()):
        total.update(name.encode() + rows.ids.tobytes() + rows.weights.tobytes() + rows.default.tobytes())
    return total.hexdigest()


def log_digest(log: Log, partition: int) -> str:
    """Of a partition's records. Of output each counts once, in its origin's order: it may lie there again, and origins take turns as they come."""
    columns: dict[str, hashlib.blake2b] = defaultdict(lambda: hashlib.blake2b(digest_size=16))
    at, end, seen = log.start_positions()[partition], log.end_position(partition), dict[int, int]()
    while at < end:
        batches = read_before(log, end, partition, at, _READ_RECORDS)
        for batch in batches:
            for origin, records in _by_origin(batch.records, seen) if log.name in NUMBERED else [("", batch.records)]:
                for name, column in zip(records.schema.names, records.columns, strict=True):
                    # Apart, or it would show where one batch ends and the next begins.
                    columns[f"{origin} {name} valid"].update(pc.is_valid(column).to_numpy(zero_copy_only=False).tobytes())
                    columns[f"{origin} {name}"].update(_bytes(column))
        at = batches[-1].end_offset
    total = hashlib.blake2b(digest_size=16)
    for name, hashed in sorted(columns.items()):
        total.update(name.encode() + hashed.digest())
    return total.hexdigest()


def _by_origin(records: pa.RecordBatch, seen: dict[int, int]) -> list[tuple[str, pa.RecordBatch]]:
    origins, sequences = (records.column(name).to_numpy() for name in ("origin", "sequence"))
    out = []
    for origin in np.unique(origins).tolist():
        mine = np.flatnonzero(origins == origin)
        reached = np.maximum.accumulate(np.concatenate([[seen.get(origin, -1)], sequences[mine]]))
        seen[origin] = int(reached[-1])
        out.append((str(origin), records.take(pa.array(mine[sequences[mine] > reached[:-1]]))))
    return out


def _bytes(column: pa.Array) -> bytes:
    """The same for the same values, however they are encoded."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_list(column.type):
        return bytes(pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).tobytes()) + _bytes(column.flatten())
    if pa.types.is_fixed_size_list(column.type):
        return _bytes(column.flatten())
    if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
        return b"".join(len(v).to_bytes(4, "big") + v for v in pc.fill_null(column.cast(pa.binary()), b"").to_pylist())
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    return bytes(pc.fill_null(column, 0).to_numpy(zero_copy_only=False).tobytes())
