"""Decoded records as a filter sees them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from flows.corrections.overlay import Overlay
from flows.decode import Columns
from flows.decode_values import column_named, is_text
from flows.events import RAW_SCHEMA
from flows.log import LogBatch


class DecodedEvents:
    """Consecutive records of a partition.

    Parameters
    ----------
    columns : Columns
        Of all of them.
    batches : sequence of LogBatch
        As they lie in the log: it alone knows the texts that no feature needs.
    offsets : int64[n]
    partition : int
    overlay : Overlay or None
        What has corrected the columns.
    """

    def __init__(
        self, columns: Columns, batches: Sequence[LogBatch], offsets: np.ndarray, partition: int, overlay: Overlay | None = None
    ) -> None:
        self._overlay = overlay
        self._columns = columns
        self._batches = batches
        self._offsets = offsets
        self._partition = partition
        self.texts = cache(self._texts)  # a filter may name a field several times

    def __len__(self) -> int:
        return len(self._offsets)

    def numbers(self, field: str) -> np.ndarray:
        """See `replay.rebuild.filter.Events`."""
        if field == "offset":
            return self._offsets
        if field == "partition":
            return np.full(len(self), self._partition, np.int64)
        numbers: np.ndarray = getattr(self._columns, "timestamp" if field == "arrival" else field)
        return numbers.astype(np.int64, copy=False)

    def _texts(self, field: str) -> pa.Array:
        parts = [_texts_of(batch.records, field) for batch in self._batches]
        texts = pa.chunked_array(parts, pa.string()).combine_chunks()
        at, others = self._overlay.texts(self._offsets, field) if self._overlay is not None else (np.empty(0, np.int64), [])
        if not len(at):
            return texts
        mask = np.zeros(len(texts), np.bool_)
        mask[at] = True
        return pc.replace_with_mask(texts, pa.array(mask), pa.array(others, pa.string()))


def _texts_of(records: pa.RecordBatch, field: str) -> pa.Array:
    if records.schema.names == RAW_SCHEMA.names:
        return pa.array([_text_in(value, field) for value in records.column("value").to_pylist()], pa.string())
    column = column_named(records, field)
    if column is None or not is_text(column.type):
        # Such a record is bad, or has none.
        return pa.nulls(len(records), pa.string())
    return column.cast(pa.string())


def _text_in(value: Any, field: str) -> str | None:
    try:
        found = orjson.loads(value).get(field)
    except (ValueError, TypeError, AttributeError):
        return None
    return found if isinstance(found, str) else None
