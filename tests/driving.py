"""Drives the flows' tasks in this process, without Bytewax: writes a stream to the ACTIONS log, applies it in any cut, with kills, and exports.

A kill is a task that is dropped with nothing more written, and opened again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from flows.events import EVENT_SCHEMA, RAW_SCHEMA
from flows.export import export_features, export_labels
from flows.log import LocalLog
from flows.outputs import ACTIONS, DEADLETTERS, LATE, REVISITS
from flows.reading import FeatureReader
from flows.settings import Settings
from flows.state.actions_task import ActionsTask
from flows.state.revisits_task import RevisitsTask
from flows.state.task import Task


def open_log(settings: Settings, name: str) -> LocalLog:
    return LocalLog.open(settings.logs, name, settings.partitions, create=True)


def chunks(events: pd.DataFrame, rng: np.random.Generator, raw_share: float = 0.3) -> Iterator[tuple[int, pa.RecordBatch]]:
    """A stream as batches of random size, each with its partition, some of them as JSON. A bad record is some malformed JSON."""
    for partition, rows in events.groupby("partition", sort=False):
        rows = rows.sort_values("offset")
        at = 0
        while at < len(rows):
            size = int(rng.integers(1, max(2, len(rows) // 2)))
            chunk = rows.iloc[at : at + size]
            at += size
            if chunk["bad"].any() or rng.random() < raw_share:
                yield int(partition), _raw(chunk, rng)
            else:
                yield int(partition), _typed(chunk)


def write(settings: Settings, events: pd.DataFrame, rng: np.random.Generator, raw_share: float = 0.3) -> None:
    """Append a stream in chunks."""
    settings.logs.mkdir(parents=True, exist_ok=True)
    with open_log(settings, ACTIONS) as log:
        for chunk in chunks(events, rng, raw_share):
            log.append([chunk])


def typed(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    """Records as a typed batch."""
    return _typed(pd.DataFrame(rows))


def _typed(rows: pd.DataFrame) -> pa.RecordBatch:
    n = len(rows)
    columns = {name: rows[name].to_numpy() for name in ("event_id", "user_id", "pin_id", "event_time", "duration_ms", "timestamp")}
    columns |= {name: pa.array(rows[name].to_list(), pa.string()).dictionary_encode() for name in ("action", "surface", "topic")}
    columns |= {
        "request_id": pa.array(rows["request_id"].to_list(), pa.string()) if "request_id" in rows else pa.nulls(n, pa.string()),
        "producer": pa.array(["test"] * n).dictionary_encode(),
        "schema_version": np.ones(n, np.int16),
    }
    return pa.RecordBatch.from_arrays([pa.array(columns[f.name]).cast(f.type) for f in EVENT_SCHEMA], schema=EVENT_SCHEMA)


_BROKEN = (
    b"no json",
    b"[1]",
    b"",
    b'{"user_id": 1}',
    b'{"event_id":1,"user_id":2,"pin_id":3,"action":"flub","event_time":5}',
    b'{"event_id":1,"user_id":2.5,"pin_id":3,"action":"save","event_time":5}',
    b'{"event_id":1,"user_id":2,"pin_id":3,"action":"save","event_time":-5}',
    b'{"event_id":1,"user_id":2,"pin_id":3,"action":"save","event_time":5,"duration_ms":-1}',
    b'{"event_id":1,"user_id":2,"pin_id":3,"action":"save","event_time":5,"surface":"moon"}',
    b'{"event_id":1,"user_id":18446744073709551616,"pin_id":3,"action":"save","event_time":5}',
    b'{"event_id":1,"user_id":2,"pin_id":3,"action":7,"event_time":5}',
    b'{"event_id":1,"user_id":2,"pin_id":3,"action":"save","event_time":5,"schema_version":9}',
)


def _raw(rows: pd.DataFrame, rng: np.random.Generator) -> pa.RecordBatch:
    values = []
    for row in rows.to_dict("records"):
        if row["bad"]:
            values.append(_BROKEN[int(rng.integers(len(_BROKEN)))])
        else:
            names = ("event_id", "user_id", "pin_id", "action", "surface", "event_time", "duration_ms", "topic", "request_id")
            values.append(orjson.dumps({name: row[name] for name in names if name in row}))
    return pa.RecordBatch.from_arrays([pa.array(values, pa.binary()), pa.array(rows["timestamp"].to_numpy())], schema=RAW_SCHEMA)


def apply(settings: Settings, rng: np.random.Generator, kill_share: float = 0.0, most: int = 1000) -> dict[str, str]:
    """Run both flows to the end in cuts of random size, killed now and then. Returns the digest of every task."""
    digests = {}
    for flow in (ACTIONS, REVISITS):
        # REVISITS' partitions are read as they fill, partition by partition: the order of origins is as it comes.
        for partition in rng.permutation(settings.partitions):
            digests[f"{flow}-{partition}"] = _apply_one(settings, flow, int(partition), rng, kill_share, most)
    return dict(sorted(digests.items()))


def _apply_one(settings: Settings, flow: str, partition: int, rng: np.random.Generator, kill_share: float, most: int) -> str:
    vocabulary = settings.load_vocabulary()
    outputs = {name: open_log(settings, name) for name in (REVISITS, LATE, DEADLETTERS)}
    with open_log(settings, flow) as log:

        def open_task() -> Task:
            if flow == ACTIONS:
                return ActionsTask(settings, partition, vocabulary, log, outputs)
            return RevisitsTask(settings, partition, vocabulary, log)

        task = open_task()
        while task.position < log.end_position(partition):
            # A source that resumes anywhere: behind the task, or a little ahead of it.
            start = int(np.clip(task.position + rng.integers(-20, 20), 0, log.end_position(partition)))
            task.apply(log.read(partition, start, int(rng.integers(1, most))))
            if rng.random() < kill_share:
                if rng.random() < 0.5:
                    # The kill comes between the outbox's arrival and its deletion, or long after.
                    task.outbox.publish()
                task.abandon()
                task = open_task()
        digest = task.digest()
        task.close()
    for output in outputs.values():
        output.close()
    return digest


def exported(settings: Settings, as_of: int, directory: Path) -> dict[str, pd.DataFrame]:
    """All exports at a time, as frames."""
    directory.mkdir(parents=True, exist_ok=True)
    frames = {}
    with FeatureReader(settings) as reader:
        for entity in ("user", "pin", "topic"):
            export_features(reader, entity, as_of, directory / f"{entity}.parquet")
            frames[entity] = pq.read_table(directory / f"{entity}.parquet").to_pandas()
        export_labels(reader, as_of, directory / "labels.parquet")
        frames["labels"] = pq.read_table(directory / "labels.parquet").to_pandas(integer_object_nulls=True)
    return frames
