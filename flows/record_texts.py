"""Texts of records that no feature needs (a request's ID, a producer), out of the log's own batches, as corrections make them.

Columns of `flows.decode` hold what kernels need; who wants more of a record asks here, for the records that matter alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from flows.corrections.overlay import Overlay
from flows.decode_values import column_named, is_text
from flows.events import RAW_SCHEMA
from flows.log import LogBatch


def texts_of(
    batches: Sequence[LogBatch], offsets: np.ndarray, field: str, overlay: Overlay | None = None, wanted: np.ndarray | None = None
) -> pa.Array:
    """A text of consecutive records.

    Parameters
    ----------
    batches : sequence of LogBatch
    offsets : int64[n]
        Of all of their records.
    field : str
    overlay : Overlay, optional
        What has corrected the records.
    wanted : bool[n], optional
        The records that matter; without it, all.

    Returns
    -------
    pa.StringArray
        A text for each record that matters, in order; null where it has none.
    """
    starts = np.cumsum([0] + [len(batch.records) for batch in batches])
    parts = [
        _texts_in(batch.records, field, None if wanted is None else np.flatnonzero(wanted[start:stop]))
        for batch, start, stop in zip(batches, starts[:-1].tolist(), starts[1:].tolist(), strict=True)
    ]
    texts = pa.chunked_array(parts, pa.string()).combine_chunks()
    at, others = overlay.texts(offsets, field) if overlay is not None else (np.empty(0, np.int64), [])
    if wanted is not None and len(at):
        kept = np.flatnonzero(wanted[at])
        at, others = (np.cumsum(wanted) - 1)[at[kept]], [others[i] for i in kept.tolist()]
    if not len(at):
        return texts
    mask = np.zeros(len(texts), np.bool_)
    mask[at] = True
    return pc.replace_with_mask(texts, pa.array(mask), pa.array(others, pa.string()))


def _texts_in(records: pa.RecordBatch, field: str, rows: np.ndarray | None) -> pa.Array:
    raw = records.schema.names == RAW_SCHEMA.names
    column = records.column("value") if raw else column_named(records, field)
    if column is None or not (raw or is_text(column.type)):
        # Such a record is bad, or has none.
        return pa.nulls(len(records) if rows is None else len(rows), pa.string())
    if rows is not None and len(rows) < len(records):
        column = column.take(pa.array(rows))
    if raw:
        return pa.array([_text_in(value, field) for value in column.to_pylist()], pa.string())
    return column.cast(pa.string())


def _text_in(value: Any, field: str) -> str | None:
    try:
        found = orjson.loads(value).get(field)
    except (ValueError, TypeError, AttributeError):
        return None
    return found if isinstance(found, str) else None
