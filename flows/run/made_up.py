"""The whole engine over a few made-up actions, so that every kernel is compiled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from flows.answers import SequenceRows
from flows.events import EVENT_SCHEMA
from flows.examples.record import EXAMPLES
from flows.examples.task import ExamplesTask
from flows.export import export_features, export_labels
from flows.features import PIN_COUNTERS, TOPIC_STATS, USER_COUNTERS
from flows.log import LocalLog
from flows.outputs import ACTIONS, DEADLETTERS, LATE, REVISITS, SERVED
from flows.reading import FeatureReader
from flows.served_rows import Served, batches_of
from flows.served_versions import heartbeat
from flows.settings import DAY_MS, Settings
from flows.state.actions_task import ActionsTask
from flows.state.revisits_task import RevisitsTask
from flows.vocabulary import Vocabulary


def run_everything(directory: Path) -> None:
    """All flows, and all that is read of their state, in a directory that is thrown away."""
    settings = Settings(data=directory, partitions=1)
    vocabulary = settings.load_vocabulary()
    settings.logs.mkdir(parents=True)
    logs = {name: LocalLog.open(settings.logs, name, 1, create=True) for name in (ACTIONS, REVISITS, LATE, DEADLETTERS, SERVED, EXAMPLES)}
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
    _run_examples(settings, vocabulary, logs)
    with FeatureReader(settings) as reader:
        for entity in ("user", "pin", "topic"):
            export_features(reader, entity, reader.default_as_of() or 0, directory / "out.parquet")
        export_labels(reader, reader.default_as_of() or 0, directory / "out.parquet")
        reader.user_sequences(np.array([1]))
        reader.user_counters(np.array([1]))
        reader.pin_counters(np.array([1]))
    for log in logs.values():
        log.close()


def _run_examples(settings: Settings, vocabulary: Vocabulary, logs: dict[str, LocalLog]) -> None:
    for day in range(10):
        logs[SERVED].append([*batches_of([_served(day)], 1, 1 << 20), (0, heartbeat(_start(day) + DAY_MS - 1))])
    for _ in range(2):
        examples = ExamplesTask(settings, 0, vocabulary, logs[ACTIONS], logs[SERVED], logs[EXAMPLES])
        while examples.catch_up(logs[ACTIONS].end_position(0) + logs[SERVED].end_position(0)):
            pass
        examples.close()


def _served(day: int) -> Served:
    """The pin that the user saves and sees that day."""
    none = np.empty(0, np.int64)
    return Served(
        timestamp=_start(day),
        request_id=str(day),
        surface=None,
        fingerprint="",
        as_of=None,
        positions=None,
        user_id=np.ones(1, np.int64),
        user_status=np.ones(1, np.int8),
        sequences=SequenceRows(np.zeros(2, np.int64), none, none, none, none, none, np.zeros(1, np.bool_), 0),
        user_counters=np.zeros((1, len(USER_COUNTERS)), np.int64),
        pin_id=np.ones(1, np.int64),
        pin_status=np.ones(1, np.int8),
        pin_counters=np.zeros((1, len(PIN_COUNTERS)), np.int64),
        topic=(),
        topic_status=np.empty(0, np.int8),
        topic_stats=np.empty((0, len(TOPIC_STATS))),
    )


def _start(day: int) -> int:
    return 1_000 * DAY_MS + day * DAY_MS


def _actions(day: int) -> pa.RecordBatch:
    """A user saves a pin and comes back to it; one action is late."""
    start = _start(day)
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
        "request_id": pa.array([str(day)] * n),
        "topic": pa.array(["topic"] * n),
        "producer": pa.array(["warm-up"] * n),
        "schema_version": pa.array(np.ones(n, np.int16)),
        "timestamp": pa.array([start + max(r[2], 0) for r in rows]),
    }
    return pa.RecordBatch.from_arrays([columns[f.name].cast(f.type) for f in EVENT_SCHEMA], schema=EVENT_SCHEMA)
