"""Writes a simulation as a directory of files, each whole or absent; truth.json last.

While it is being written the directory holds MARKER. A directory with MARKER, or without truth.json, is no whole simulation.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.errors import SettingsError, StorageFullError
from flows.events import EVENT_SCHEMA, SCHEMA_VERSION
from flows.simulate.browsing import Served
from flows.simulate.chances import HEAD_NAMES, Chances
from flows.simulate.disorder import FLAW, Records, Stream
from flows.simulate.population import FIRST_USER_ID, PRODUCERS, TOPICS, Pins, Users
from flows.simulate.table import ACTIONS, NONE, OTHER, SURFACES, Events
from flows.simulate.truth import LABELS, NEVER, Labels

MARKER, TRUTH = ".simulating", "truth.json"
FILE_ROWS = 500_000
_EVENT_FILE = re.compile(r"events-\d{4,}\.parquet")
# The last name of each list is in no vocabulary: malformed rows use it.
_ACTION_NAMES = [*ACTIONS, "teleport"]
_SURFACE_NAMES = [*SURFACES, "moonbase"]

EVENTS_FILE_SCHEMA = pa.schema([f.with_name("arrival_time") if f.name == "timestamp" else f for f in EVENT_SCHEMA])
SERVED_SCHEMA = pa.schema(
    [
        pa.field("request_id", pa.string()),
        pa.field("user_id", pa.int64()),
        pa.field("surface", pa.dictionary(pa.int32(), pa.string())),
        pa.field("request_time", pa.int64()),
        pa.field("candidates", pa.list_(pa.int64())),
        pa.field("slots", pa.list_(pa.int32())),
        pa.field("propensities", pa.list_(pa.float64())),
        pa.field("shown", pa.list_(pa.bool_())),
    ],
    {
        "policy": "Slot 0 by softmax over scores, the other candidates shuffled evenly into the slots behind.",
        "propensities": "The chance that the candidate lies in its slot, not given the other slots: p in slot 0, else (1 - p) / (n - 1).",
    },
)


@contextmanager
def directory(out: Path) -> Iterator[None]:
    """Marks `out` as unfinished for as long as it is written, and turns what the disk says into errors for users."""
    try:
        if out.exists() and not out.is_dir():
            raise SettingsError(f"--out {out} is a file; name a directory")
        out.mkdir(parents=True, exist_ok=True)
        ours = (out / TRUTH).exists() or (out / MARKER).exists()
        if not ours and any(_EVENT_FILE.fullmatch(p.name) for p in out.iterdir()):
            raise SettingsError(f"--out {out} holds event files of some other origin, which would be overwritten; name another directory")
        (out / MARKER).touch()
        (out / TRUTH).unlink(missing_ok=True)
        yield
        (out / MARKER).unlink()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError(f"--out {out}: the disk is full; free some space, or simulate fewer events") from error
        raise SettingsError(f"--out {out} can't be written: {error.strerror or error}") from error


def write_events(
    out: Path, stream: Stream, events: Events, users: Users, pins: Pins, request_ids: pa.Array, progress: Callable[[int, int], None]
) -> None:
    """events-0000.parquet, … in order of arrival; files of a longer simulation before are removed."""
    files = max(1, -(-len(stream) // FILE_ROWS))
    for number in range(files):
        rows = slice(number * FILE_ROWS, (number + 1) * FILE_ROWS)
        _parquet(out / f"events-{number:04d}.parquet", event_rows(stream, rows, events, users, pins, request_ids))
        progress(number + 1, files)
    written = {f"events-{number:04d}.parquet" for number in range(files)}
    for path in out.iterdir():
        if _EVENT_FILE.fullmatch(path.name) and path.name not in written:
            path.unlink()


def write_served(out: Path, served: Served, pins: Pins, request_ids: pa.Array) -> None:
    """served.parquet, in order of request time."""
    _parquet(out / "served.parquet", served_rows(served, pins, request_ids))


def served_rows(served: Served, pins: Pins, request_ids: pa.Array) -> pa.Table:
    """A row of SERVED_SCHEMA for each request."""
    count, width = served.candidates.shape
    offsets = pa.array(np.arange(0, count * width + 1, width, dtype=np.int32))

    def lists(values: np.ndarray) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1)))

    columns = [
        request_ids,
        pa.array(served.user.astype(np.int64) + FIRST_USER_ID),
        _names(served.surface, list(SURFACES)),
        pa.array(served.time),
        lists(pins.ids[served.candidates]),
        lists(served.slots),
        lists(served.propensities),
        lists(served.shown),
    ]
    return pa.Table.from_arrays(columns, schema=SERVED_SCHEMA)


def write_chances(out: Path, chances: Chances | None, pins: Pins, request_ids: pa.Array) -> None:
    """truth-chances.parquet, one row for each pin that was shown; None: none, and that of a simulation before is removed."""
    path = out / "truth-chances.parquet"
    if chances is None:
        path.unlink(missing_ok=True)
        return
    columns: dict[str, pa.Array] = {
        "request_id": request_ids.take(pa.array(chances.request)),
        "pin_id": pa.array(pins.ids[chances.pin]),
        "slot": pa.array(chances.slot),
        **{name: pa.array(chances.by_head[:, i].astype(np.float32)) for i, name in enumerate(HEAD_NAMES)},
    }
    _parquet(path, pa.table(columns))


def write_labels(out: Path, labels: Labels, events: Events, pins: Pins) -> None:
    """truth-labels.parquet, one row per save that opened anything."""
    row = labels.event
    columns: dict[str, pa.Array] = {
        "event_id": pa.array(labels.event_id),
        "user_id": pa.array(events.user[row].astype(np.int64) + FIRST_USER_ID),
        "pin_id": pa.array(pins.ids[events.pin[row]]),
        "save_time": pa.array(labels.time),
        "save_surface": _names(events.surface[row], list(SURFACES)),
        "topic": _names(pins.label[events.pin[row]], list(TOPICS)),
        **{name: pa.array(labels.labels[:, i]) for i, name in enumerate(LABELS)},
        "first_revisit_time": pa.array(labels.first_revisit, mask=labels.first_revisit == NEVER),
        "matured": pa.array(labels.matured),
    }
    _parquet(out / "truth-labels.parquet", pa.table(columns))


def write_lines(out: Path, lines: list[tuple[str, str]]) -> None:
    """events-bad.jsonl."""
    _whole(out / "events-bad.jsonl", lambda path: path.write_text("".join(text + "\n" for _, text in lines), "utf-8"))


def write_truth(out: Path, truth: dict[str, Any]) -> None:
    """truth.json; with it the simulation is whole."""
    _whole(out / TRUTH, lambda path: path.write_text(json.dumps(truth, indent=2) + "\n", "utf-8"))


def request_ids(count: int) -> pa.Array:
    """The ID of each request."""
    return pc.binary_join_element_wise("r", pc.cast(pa.array(np.arange(count)), pa.string()), "")


def event_rows(stream: Records, rows: slice, events: Events, users: Users, pins: Pins, ids: pa.Array) -> pa.Table:
    """Some records, of EVENTS_FILE_SCHEMA."""
    row, flaw = stream.row[rows], stream.flaw[rows]
    user, pin = events.user[row], events.pin[row]
    action = np.where(flaw == FLAW["unknown_action"], len(ACTIONS), events.action[row])
    surface = np.where(events.surface[row] == OTHER, NONE, events.surface[row])
    surface = np.where(flaw == FLAW["unknown_surface"], len(SURFACES), surface)
    duration = events.duration[row].astype(np.int64)
    no_duration, negative = duration == NONE, flaw == FLAW["negative_duration"]
    duration = np.where(negative, -1 - np.abs(duration), duration)
    request = events.request[row]
    version = np.where(flaw == FLAW["unknown_schema_version"], 999, SCHEMA_VERSION).astype(np.int16)
    columns = [
        pa.array(stream.event_id[rows]),
        pa.array(user.astype(np.int64) + FIRST_USER_ID, mask=flaw == FLAW["null_user_id"]),
        pa.array(pins.ids[pin], mask=flaw == FLAW["null_pin_id"]),
        _names(action, _ACTION_NAMES),
        _names(surface, _SURFACE_NAMES),
        pa.array(stream.event_time[rows]),
        pa.array(duration, mask=no_duration & ~negative),
        ids.take(pa.array(np.maximum(request, 0), mask=request == NONE)),
        _names(pins.label[pin], list(TOPICS)),
        _names(users.producer[user], list(PRODUCERS)),
        pa.array(version),
        pa.array(stream.arrival[rows]),
    ]
    return pa.Table.from_arrays(columns, schema=EVENTS_FILE_SCHEMA)


def _names(codes: np.ndarray, names: list[str]) -> pa.Array:
    """A dictionary column; a negative code is a null."""
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32), mask=codes < 0), pa.array(names))


def _parquet(path: Path, table: pa.Table) -> None:
    _whole(path, lambda temporary: pq.write_table(table, temporary, row_group_size=FILE_ROWS, compression="zstd"))


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` write a temporary file and gives it its name once it is safely on the disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
