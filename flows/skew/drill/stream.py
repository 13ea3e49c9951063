"""What the systems of a drill are fed: a simulated stream, and the same stream as a system with a mistake takes it.

Every stream has a record at the same offsets, so that a position means the same in all of them. The drill's own directories alone are
written to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.events import EVENT_SCHEMA
from flows.kernels.layout import ACCEPTED, DUPLICATE, NEVER
from flows.log import LogBatch
from flows.partition import partition_of
from flows.settings import Settings
from flows.simulate import simulate
from flows.state.actions_task import Judge
from flows.vocabulary import OWN_PROFILE, SAVE

DAYS = 30
# More of everything that a mistake could be about than there is in a real stream.
_LATE, _TWICE = 0.02, 0.03
# Event times are cut to whole minutes, or hardly any two of a user would be equal.
_TICK_MS = 60_000


@dataclass(frozen=True)
class Decided:
    """What the judge says of a partition's records.

    Attributes
    ----------
    status : int8[n]
        `flows.kernels.layout.ACCEPTED`, …
    late : bool[n]
    behind : bool[n]
        Whether a record with a greater event time was accepted before, so that it moves no watermark.
    """

    status: np.ndarray
    late: np.ndarray
    behind: np.ndarray


def simulated(settings: Settings, events: int, seed: int, directory: Path) -> list[pa.Table]:
    """A stream, one table of EVENT_SCHEMA for each partition, in the order of arrival."""
    simulate(
        directory,
        users=max(20, events // 60),
        pins=max(50, events // 60),
        days=DAYS,
        events=events,
        seed=seed,
        partitions=settings.partitions,
        late_rate=_LATE,
        duplicate_rate=_TWICE,
        allowed_lateness_ms=settings.allowed_lateness_ms,
        dedup_horizon_ms=settings.dedup_horizon_ms,
        clock_skew_ms=settings.clock_skew_ms,
    )
    table = pa.concat_tables([pq.read_table(path) for path in sorted(directory.glob("events-*.parquet"))])
    table = table.rename_columns(EVENT_SCHEMA.names).cast(EVENT_SCHEMA).combine_chunks()
    time = pc.fill_null(table.column("event_time"), 0).to_numpy()
    table = _with(table, "event_time", np.where(time > 0, time // _TICK_MS * _TICK_MS, time))
    homes = partition_of(pc.fill_null(table.column("user_id"), 0).to_numpy(), settings.partitions)
    return [table.filter(pa.array(homes == partition)).combine_chunks() for partition in range(settings.partitions)]


def decided(settings: Settings, stream: list[pa.Table]) -> list[Decided]:
    """What becomes of each record of a stream."""
    out = []
    for partition, table in enumerate(stream):
        judge = Judge(settings, settings.load_vocabulary(), partition)
        at, status, late, time = 0, [np.empty(0, np.int8)], [np.empty(0, np.bool_)], [np.empty(0, np.int64)]
        for batch in table.to_batches(max_chunksize=65_536):
            done = judge.judge([LogBatch(partition, at, at + batch.num_rows, batch)])
            at += batch.num_rows
            status.append(done.judged.status)
            late.append(done.judged.lateness > 0)
            time.append(np.where(done.judged.status == ACCEPTED, done.columns.event_time, -NEVER))
        times = np.concatenate(time)
        greatest = np.maximum.accumulate(np.concatenate([[-NEVER], times]))[:-1]
        out.append(Decided(np.concatenate(status), np.concatenate(late), times < greatest))
    return out


def without_late(stream: list[pa.Table], what: list[Decided]) -> list[pa.Table]:
    """The stream as a system takes it that ignores what comes late."""
    return [_without(table, one.late) for table, one in zip(stream, what, strict=True)]


def with_duplicates(stream: list[pa.Table], what: list[Decided]) -> list[pa.Table]:
    """The stream as a system takes it that doesn't know a record again: each copy is an event of its own."""
    out = []
    for table, one in zip(stream, what, strict=True):
        ids = pc.fill_null(table.column("event_id"), 0).to_numpy()
        # The next ID: among equal times it lies where the record lies that it is a copy of.
        out.append(_with(table, "event_id", np.where(one.status == DUPLICATE, ids + 1, ids)))
    return out


def without_some(stream: list[pa.Table], what: list[Decided], rng: np.random.Generator) -> list[pa.Table]:
    """The stream as a system takes it that loses a record now and then: at most one of a user, a pin or a topic that a feature sees."""
    lost: dict[str, set[object]] = {"user": set(), "pin": set(), "topic": set()}
    out = []
    for table, one in zip(stream, what, strict=True):
        columns: Mapping[str, list[object]] = {
            name: table.column(name).to_pylist() for name in ("user_id", "pin_id", "event_id", "action", "surface", "topic")
        }
        twice = {(columns["user_id"][i], columns["event_id"][i]) for i in np.flatnonzero(one.status == DUPLICATE).tolist()}
        drop = np.zeros(len(table), np.bool_)
        # A record that moves the watermark would take others with it.
        for i in rng.permutation(np.flatnonzero((one.status == ACCEPTED) & one.behind & ~one.late)).tolist():
            user, pin, topic = columns["user_id"][i], columns["pin_id"][i], columns["topic"][i]
            paired = columns["action"][i] == SAVE or columns["surface"][i] == OWN_PROFILE
            if user in lost["user"] or (user, columns["event_id"][i]) in twice:
                continue
            if paired and (pin in lost["pin"] or topic in lost["topic"]):
                continue
            lost["user"].add(user)
            if paired:
                lost["pin"].add(pin)
                lost["topic"].add(topic)
            drop[i] = True
        out.append(_without(table, drop))
    return out


def _without(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """Some records made such that nobody can take them: an action that there is none of."""
    names = table.column("action").combine_chunks().dictionary_decode().to_numpy(zero_copy_only=False)
    return _with(table, "action", np.where(rows, "", names))


def _with(table: pa.Table, name: str, values: np.ndarray) -> pa.Table:
    at = EVENT_SCHEMA.get_field_index(name)
    kind = EVENT_SCHEMA.field(name).type
    if pa.types.is_dictionary(kind):
        return table.set_column(at, EVENT_SCHEMA.field(name), pa.array(values, pa.string(), from_pandas=True).dictionary_encode())
    return table.set_column(at, EVENT_SCHEMA.field(name), pa.array(values, kind, mask=table.column(name).is_null().to_numpy()))
