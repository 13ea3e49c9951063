"""Exports: every user, pin, topic or save as a Parquet row, the same bytes whatever the number of workers or the history of the state.

Written partition by partition under a temporary name and renamed when whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from flows.errors import InputError, StorageFullError
from flows.features import PIN_COUNTERS, TOPIC_STATS, USER_COUNTERS
from flows.kernels.layout import LABEL_COLUMNS, NEVER
from flows.kernels.reads import counters, group_bounds, newest
from flows.kernels.rows import SEQUENCE_CODES
from flows.outputs import ACTIONS, REVISITS
from flows.reading import FeatureReader
from flows.replaceable import refuse_special
from flows.settings import DAY_MS
from flows.vocabulary import Vocabulary

ENTITIES = ("user", "pin", "topic")

_SEQUENCE_TYPES = {
    "sequence_pin_id": pa.list_(pa.int64()),
    "sequence_action": pa.list_(pa.string()),
    "sequence_surface": pa.list_(pa.string()),
    "sequence_event_time": pa.list_(pa.int64()),
    "sequence_duration_ms": pa.list_(pa.int64()),
}
SCHEMAS = {
    "user": pa.schema([("user_id", pa.int64()), *_SEQUENCE_TYPES.items(), *((name, pa.int64()) for name in USER_COUNTERS)]),
    "pin": pa.schema([("pin_id", pa.int64()), *((name, pa.int64()) for name in PIN_COUNTERS)]),
    "topic": pa.schema([("topic", pa.string()), *((name, pa.type_for_alias(kind)) for name, kind in TOPIC_STATS)]),
}
LABELS_SCHEMA = pa.schema(
    [
        ("user_id", pa.int64()),
        ("pin_id", pa.int64()),
        ("save_time", pa.int64()),
        ("save_surface", pa.string()),
        ("label_1dRevImpre", pa.bool_()),
        ("label_1dRevGrid", pa.bool_()),
        ("label_7dRevGrid", pa.bool_()),
        ("first_revisit_time", pa.int64()),
        ("matured", pa.bool_()),
    ]
)


def export_features(reader: FeatureReader, entity: str, as_of: int, out: Path) -> int:
    """Write a row for every entity of a kind; returns the number of rows.

    Parameters
    ----------
    entity : str
        "user", "pin" or "topic".
    as_of : int
        ms; see docs/semantics.md, Reading.
    """
    tables = {"user": _users, "pin": _pins, "topic": _topics}[entity](reader, as_of)
    return write_tables(out, SCHEMAS[entity], tables, _about(reader, as_of))


def export_labels(reader: FeatureReader, as_of: int, out: Path) -> int:
    """Write a row for every save at or before `as_of`; returns the number of rows."""
    return write_tables(out, LABELS_SCHEMA, label_tables(reader, as_of), _about(reader, as_of))


def label_tables(reader: FeatureReader, as_of: int) -> Iterator[pa.Table]:
    """The labels of every save, one table for each partition, by user, time and event ID."""
    retention = 7 * DAY_MS + reader.settings.allowed_lateness_ms
    for partition in range(reader.settings.partitions):
        rows, watermark = reader.labels(partition, as_of)
        column = {name: rows[:, i] for i, name in enumerate(LABEL_COLUMNS)}
        rows = rows[np.lexsort([column["pin_id"], column["event_id"], column["save_time"], column["user_id"]])]
        column = {name: rows[:, i] for i, name in enumerate(LABEL_COLUMNS)}
        time, impression, click = column["save_time"], column["first_impression"], column["first_click"]
        first = np.minimum(impression, click)
        yield pa.table(
            [
                column["user_id"],
                column["pin_id"],
                time,
                _names(column["surface"], reader.vocabulary.surface_names()),
                pa.array(impression < time + DAY_MS),
                pa.array(click < time + DAY_MS),
                pa.array(click != NEVER),
                pa.array(first, mask=first == NEVER),
                pa.array(time + retention <= watermark if watermark is not None else np.zeros(len(rows), np.bool_)),
            ],
            schema=LABELS_SCHEMA,
        )


def _users(reader: FeatureReader, as_of: int) -> Iterator[pa.Table]:
    for partition in range(reader.settings.partitions):
        for part in reader.user_slices(partition, as_of):
            yield user_table(part.sequences, part.revisits, as_of, reader.vocabulary)


def user_table(sequences: np.ndarray, revisits: np.ndarray, as_of: int, vocabulary: Vocabulary) -> pa.Table:
    """One row for each user that the folded rows speak of at `as_of`, by user_id."""
    bounds, revisit_bounds = group_bounds(sequences[:, 0]), group_bounds(revisits[:, 0])
    index, offsets, _ = newest(sequences, bounds, as_of)
    values, present = counters(revisits, revisit_bounds, as_of)
    with_sequence, with_revisit = sequences[bounds[:-1], 0], revisits[revisit_bounds[:-1], 0]
    lengths = np.diff(offsets)
    users = np.union1d(with_sequence[lengths > 0], with_revisit[present])

    length = np.zeros(len(users), np.int64)
    has = np.isin(with_sequence, users)
    length[np.searchsorted(users, with_sequence[has])] = lengths[has]
    ends = np.concatenate([[0], np.cumsum(length)]).astype(np.int32)
    rows = sequences[index]
    codes = rows[:, SEQUENCE_CODES]
    parts = {
        "sequence_pin_id": pa.array(rows[:, 4]),
        "sequence_action": _names(codes & 0xFF, vocabulary.action_names()),
        "sequence_surface": _names(codes >> 8 & 0xFF, vocabulary.surface_names()),
        "sequence_event_time": pa.array(rows[:, 1]),
        "sequence_duration_ms": pa.array(rows[:, 5]),
    }
    table = np.zeros((len(users), values.shape[1]), np.int64)
    table[np.searchsorted(users, with_revisit[present])] = values[present]
    lists = [pa.ListArray.from_arrays(pa.array(ends), part) for part in parts.values()]
    return pa.table([pa.array(users), *lists, *(table[:, i] for i in range(table.shape[1]))], schema=SCHEMAS["user"])


def _pins(reader: FeatureReader, as_of: int) -> Iterator[pa.Table]:
    for rows in reader.pin_rows(as_of):
        bounds = group_bounds(rows[:, 0])
        values, present = counters(rows, bounds, as_of)
        pins = rows[bounds[:-1], 0][present]
        yield pa.table([pins, *(values[present, i] for i in range(values.shape[1]))], schema=SCHEMAS["pin"])


def _topics(reader: FeatureReader, as_of: int) -> Iterator[pa.Table]:
    names, values = reader.all_topics(as_of)
    columns = [pa.array(values[:, i].astype(kind)) for i, (_, kind) in enumerate(TOPIC_STATS)]
    yield pa.table([pa.array(names, pa.string()), *columns], schema=SCHEMAS["topic"])


def _names(codes: np.ndarray, names: dict[int, str]) -> pa.Array:
    table = pa.array([names.get(code) for code in range(128)], pa.string())
    return table.take(pa.array(codes))


def _about(reader: FeatureReader, as_of: int) -> dict[str, str]:
    """What the rows reflect, in a form that is the same for every history: kept in the file's metadata."""
    partitions = range(reader.settings.partitions)
    applied = [sorted(m.applied.items()) if (m := reader.meta(REVISITS, p)) else [] for p in partitions]
    positions = [m.position if (m := reader.meta(ACTIONS, p)) else 0 for p in partitions]
    return {
        "tidemark.as_of": str(as_of),
        "tidemark.positions": orjson.dumps({ACTIONS: positions, REVISITS: applied}).decode(),
    }


def write_tables(out: Path, schema: pa.Schema, tables: Iterator[pa.Table], about: dict[str, str]) -> int:
    """Write tables as one Parquet file, which is there when it is whole; returns the number of rows.

    Parameters
    ----------
    about : dict
        Goes into the file's metadata.

    Raises
    ------
    InputError, StorageFullError
        It can't be written; nothing is there.
    """
    if not out.name:
        raise InputError(f"can't write to '{out}': it names no file")
    if not out.parent.is_dir():
        raise InputError(f"can't write {out}: there is no folder {out.parent}; make it, or give another")
    refuse_special(out)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.part")
    rows = 0
    try:
        with pq.ParquetWriter(temporary, schema.with_metadata(about)) as writer:
            for table in tables:
                rows += table.num_rows
                if table.num_rows:
                    writer.write_table(table.cast(schema).replace_schema_metadata(about))
        os.replace(temporary, out)
    except OSError as error:
        if error.errno in (28, 27, 122):
            raise StorageFullError(f"{out}: the disk is full ({error.strerror}); nothing was written, free space and run again") from error
        raise InputError(f"can't write {out}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return rows
