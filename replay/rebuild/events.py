"""Decoded records as a filter sees them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pyarrow as pa

from flows.corrections.overlay import Overlay
from flows.decode import Columns
from flows.log import LogBatch
from flows.record_texts import texts_of


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
        return texts_of(self._batches, self._offsets, field, self._overlay)
