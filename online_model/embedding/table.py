"""Tables of user embeddings, written: a version's rows merged over those of its table before, whole and durable or not there.

What is written follows from the rows alone, so a table that was merged is the same to the byte as one whose users were all inferred anew. A table is
never changed; another version's vectors never enter it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.embedding_history import RUN, SCHEMA, Run, directory_of
from feature_repo.embedding_table import (
    EMBEDDINGS,
    ROWS,
    USERS,
    EmbeddingTable,
    TableManifest,
    open_table,
    places_of,
    table_numbers,
)
from flows.directories import make_directory, translated
from flows.partition import partition_of
from flows.settings import Settings
from online_model.registry import durable

_GROUP = 65_536
KEPT = 2
"""Tables of a version that stay; readers that have an older one open go on with it."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of n users, by ascending user.

    Attributes
    ----------
    user_ids : int64[n]
    vectors : float32[n, D]
    inputs : uint8[n, 16]
    event_time : int64[n]
    """

    user_ids: np.ndarray
    vectors: np.ndarray
    inputs: np.ndarray
    event_time: np.ndarray

    def __len__(self) -> int:
        return len(self.user_ids)


def merged(before: EmbeddingTable | None, now: Rows, gone: np.ndarray) -> Rows:
    """New rows over old ones: the old row stays where there is no new one.

    Parameters
    ----------
    before : EmbeddingTable or None
    now : Rows
    gone : int64[g]
        Users whose rows stay no longer.
    """
    if before is None:
        return now
    stays = (places_of(now.user_ids, before.user_ids) < 0) & ~np.isin(before.user_ids, gone)
    user_ids = np.concatenate([before.user_ids[stays], now.user_ids])
    order = np.argsort(user_ids, kind="stable")

    def of(name: str) -> np.ndarray:
        old, new = getattr(before, name), getattr(now, name)
        out = np.empty((len(order), *new.shape[1:]), new.dtype)
        at = np.empty(len(order), np.int64)
        at[order] = np.arange(len(order))
        out[at[: int(stays.sum())]] = old[stays]
        out[at[int(stays.sum()) :]] = new
        return out

    return Rows(user_ids[order], of("vectors"), of("inputs"), of("event_time"))


def write_history(settings: Settings, said: Mapping[str, Any], made: Rows, gone: np.ndarray) -> None:
    """Put the rows that a run has made into the offline store, with the time that they are of; a run that is done again writes the same bytes.

    Parameters
    ----------
    said : mapping
        The fields of `TableManifest` that say of which run they are: version, version_digest, number, parent, actions, as_of.
    made : Rows
    gone : int64[g]
        Users who have no row any more.
    """
    run = Run(said["number"], said["as_of"], tuple(said["actions"]), said["version_digest"], said["parent"] is None)
    sink = pa.BufferOutputStream()
    about = {RUN: run.to_bytes()}
    with pq.ParquetWriter(sink, SCHEMA.with_metadata(about), write_page_checksum=True) as writer:
        for begin in range(0, len(made), _GROUP):
            end = begin + _GROUP
            writer.write_table(_told(said["version"], run, made.user_ids[begin:end], made.vectors[begin:end]))
        writer.write_table(_told(said["version"], run, gone, None))
    place = directory_of(settings.offline, said["version"]).absolute()
    with translated(f"can't write the history of user embeddings to {place}"):
        make_directory(place)
        durable.replace(place / f"{run.number}.parquet", sink.getvalue())


def _told(version: int, run: Run, user_ids: np.ndarray, vectors: np.ndarray | None) -> pa.Table:
    """Rows of the history; without vectors, of users who have none any more."""
    n, positions = len(user_ids), np.array(run.actions, np.int64)
    if vectors is None:
        lists = pa.nulls(n, SCHEMA.field("embedding").type)
    else:
        offsets = np.arange(n + 1, dtype=np.int32) * vectors.shape[1]
        lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(vectors).reshape(-1)))
    return pa.table(
        {
            "user_id": user_ids,
            "event_timestamp": pa.array(np.full(n, run.as_of)).cast(SCHEMA.field("event_timestamp").type),
            "embedding": lists,
            "embedding_version": np.full(n, version),
            "embedding_position": positions[partition_of(user_ids, len(positions))],
            "embedding_run": np.full(n, run.number),
        },
        schema=SCHEMA,
    )


def write_table(settings: Settings, rows: Rows, said: Mapping[str, Any]) -> EmbeddingTable:
    """Put a table in place.

    Parameters
    ----------
    rows : Rows
    said : mapping
        The fields of `TableManifest` but dim, users, files and digest.

    Raises
    ------
    DataDirectoryError, StorageFullError
        It can't be written; nothing is there.
    """
    place = (settings.data / EMBEDDINGS / str(said["version"]) / USERS).absolute()
    dim = rows.vectors.shape[1]
    columns = {
        "user_id": pa.array(rows.user_ids),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(rows.vectors).reshape(-1)), dim),
        "inputs": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(rows.inputs.shape[1]), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows.inputs))]
        ),
        "event_time": pa.array(rows.event_time),
    }
    batch = pa.RecordBatch.from_pydict(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    held = {ROWS: sink.getvalue()}
    content = asdict(TableManifest(**said, dim=dim, users=len(rows), files=durable.entries_of(held)))
    del content["digest"]
    durable.published(place, said["number"], held, content)
    return open_table(settings.data, said["version"], said["number"])


def sweep_tables(settings: Settings, version: int, keep: int = KEPT) -> None:
    """Take away all but the newest tables of a version, and what was half deleted; the caller is the only one that changes them."""
    durable.sweep(settings.data / EMBEDDINGS / str(version) / USERS, table_numbers(settings.data, version)[:-keep])
