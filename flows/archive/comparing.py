"""Whether two stretches of records are the same, however they were cut and encoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from flows.log import LogBatch


def first_difference(ours: Iterable[LogBatch], theirs: Iterable[LogBatch]) -> int | None:
    """The first offset from which two contiguous readings of the same offsets differ; None if they don't, as far as the shorter goes."""
    for one, other in _aligned(iter(ours), iter(theirs)):
        if not _same(one, other):
            return one.first_offset
    return None


def _aligned(ours: Iterator[LogBatch], theirs: Iterator[LogBatch]) -> Iterator[tuple[LogBatch, LogBatch]]:
    """Parts of both that cover the same offsets."""
    one, other = next(ours, None), next(theirs, None)
    while one is not None and other is not None:
        start, end = max(one.first_offset, other.first_offset), min(one.end_offset, other.end_offset)
        if start < end:
            yield one.between(start, end), other.between(start, end)
        if one.end_offset <= end:
            one = next(ours, None)
        if other.end_offset <= end:
            other = next(theirs, None)


def _same(one: LogBatch, other: LogBatch) -> bool:
    if not np.array_equal(one.offsets_of_records()[: one.records.num_rows], other.offsets_of_records()[: other.records.num_rows]):
        return False
    if not one.records.num_rows:
        return True
    a, b = _plain(one.records), _plain(other.records)
    # A number that is none equals nothing, itself included; but it is written the same.
    return bool(a.equals(b)) or (
        a.schema.equals(b.schema) and a.to_pylist() != b.to_pylist() and repr(a.to_pylist()) == repr(b.to_pylist())
    )


def _plain(records: pa.RecordBatch) -> pa.RecordBatch:
    """The same values without dictionaries, whose order means nothing; texts as bytes, for they may be none."""
    columns, names = [], records.schema.names
    for column in records.columns:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_string(column.type):
            column = column.view(pa.binary())
        elif pa.types.is_large_string(column.type):
            column = column.view(pa.large_binary())
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, names)
