"""The whole engine over a few made-up actions, so that every kernel is compiled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from flows.events import EVENT_SCHEMA
from flows.export import export_features, export_labels
from flows.log import LocalLog
from flows.outputs import ACTIONS, DEADLETTERS, LATE, REVISITS
from flows.reading import FeatureReader
from flows.settings import DAY_MS, Settings
from flows.state.actions_task import ActionsTask
from flows.state.revisits_task import RevisitsTask


def run_everything(directory: Path) -> None:
    """Both flows, and all that is read of their state, in a directory that is thrown away."""
    settings = Settings(data=directory, partitions=1)
    vocabulary = settings.load_vocabulary()
    settings.logs.mkdir(parents=True)
    logs = {name: LocalLog.open(settings.logs, name, 1, create=True) for name in (ACTIONS, REVISITS, LATE, DEADLETTERS)}
    outputs = {name: logs[name] for name in (REVISITS, LATE, DEADLETTERS)}
    # More commits than runs of a level, so that merges come too.
    for day in range(10):
        logs[ACTIONS].append([(0, _actions(day))])
    for _ in range(2):
        actions = ActionsTask(settings, 0, vocabulary, logs[ACTIONS], outputs)
        while actions.position < logs[ACTIONS].end_position(0):
            actions.apply(logs[ACTIONS].read(0, actions.position, 8))
        actions.close()
    revisits = RevisitsTask(settings, 0, vocabulary, logs[REVISITS])
    while revisits.position < logs[REVISITS].end_position(0):
        revisits.apply(logs[REVISITS].read(0, revisits.position, 1))
    revisits.close()
    with FeatureReader(settings) as reader:
        for entity in ("user", "pin", "topic"):
            export_features(reader, entity, reader.default_as_of() or 0, directory / "out.parquet")
        export_labels(reader, reader.default_as_of() or 0, directory / "out.parquet")
        reader.user_sequences(np.array([1]))
        reader.user_counters(np.array([1]))
        reader.pin_counters(np.array([1]))
    for log in logs.values():
        log.close()


def _actions(day: int) -> pa.RecordBatch:
    """A user saves a pin and comes back to it; one action is late."""
    start = 1_000 * DAY_MS + day * DAY_MS
    rows = [("save", "related_pins", 0), ("impression", "own_profile", 10), ("grid_click", "own_profile", 20), ("closeup", "homefeed", 30)]
    rows += [("click", "search", -DAY_MS), ("save", "homefeed", 5), ("closeup", "homefeed", 40), ("impression", "homefeed", 50)]
    n = len(rows)
    columns = {
        "event_id": pa.array(np.arange(n) + day * n),
        "user_id": pa.array(np.ones(n, np.int64)),
        "pin_id": pa.array(np.ones(n, np.int64)),
        "action": pa.array([r[0] for r in rows]),
        "surface": pa.array([r[1] for r in rows]),
        "event_time": pa.array([start + r[2] for r in rows]),
        "duration_ms": pa.array(np.zeros(n, np.int64)),
        "request_id": pa.nulls(n, pa.string()),
        "topic": pa.array(["topic"] * n),
        "producer": pa.array(["warm-up"] * n),
        "schema_version": pa.array(np.ones(n, np.int16)),
        "timestamp": pa.array([start + max(r[2], 0) for r in rows]),
    }
    return pa.RecordBatch.from_arrays([columns[f.name].cast(f.type) for f in EVENT_SCHEMA], schema=EVENT_SCHEMA)
