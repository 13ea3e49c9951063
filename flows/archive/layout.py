"""How records lie in a segment's Parquet file.

As their own columns, with a column of their offsets, wherever Parquet gives back exactly what it was given: anyone can query such a file.
Otherwise a row for each batch of the log that holds it as an Arrow IPC stream: types that Parquet lacks, columns of one name, and logs in
which two kinds of records take turns (a segment for each turn would be millions of files).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from flows.log import LogBatch

OFFSET = "log_offset"
FORMAT = 1
_INFO, _SCHEMA = "tidemark.segment", "tidemark.schema"

# Measured on 120 000 events of 75 B (typed) and 233 B (JSON), one core, M events/s. Integers plain, level 3: write 3.5 and 1.6, read 10 and 5.5,
# 22 and 41 B each; delta-packed, level 1: write 5.6 and 2.6, read 18 and 6, 20 and 36 B.
COMPRESSION, LEVEL, PACKED = "zstd", 1, "DELTA_BINARY_PACKED"

_NAMES = pa.dictionary(pa.int32(), pa.string())
_EXACT = {
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
    *(pa.float32(), pa.float64(), pa.bool_(), pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), _NAMES),
}
"""Types that come back from Parquet as they were."""

BATCHES_SCHEMA = pa.schema(
    [
        pa.field(OFFSET, pa.int64(), nullable=False),  # the batch's first
        pa.field("offsets", pa.binary()),  # of each record, int64 little-endian; null: they count up from the first
        pa.field("arrow", pa.large_binary(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Info:
    """What a segment says of itself, so that a file that was renamed or moved is found.

    Attributes
    ----------
    columns : bool
        Records lie as their own columns.
    dense : bool
        Record i has the offset start + i.
    newest : int or None
        Greatest timestamp of a record, ms.
    """

    log: str
    partition: int
    start: int
    end: int
    records: int
    columns: bool
    dense: bool
    newest: int | None

    def to_metadata(self, schema: pa.Schema | None) -> dict[str, str]:
        """As key-value metadata of the file; `schema` of the records where they lie as columns."""
        kept = {"format": FORMAT, **self.__dict__}
        out = {_INFO: orjson.dumps(kept).decode()}
        if self.columns and schema is not None:
            out[_SCHEMA] = base64.b64encode(schema.serialize().to_pybytes()).decode()
        return out

    @classmethod
    def from_metadata(cls, metadata: dict[bytes, bytes] | None) -> tuple[Info, pa.Schema | None]:
        """What `to_metadata` made.

        Raises
        ------
        ValueError
            It isn't there, or of another format.
        """
        said = (metadata or {}).get(_INFO.encode())
        if said is None:
            raise ValueError("it is no segment of Tidemark's")
        kept: dict[str, Any] = orjson.loads(said)
        if (number := kept.pop("format", None)) != FORMAT:
            raise ValueError(f"it has format {number}; this Tidemark reads format {FORMAT}")
        schema = (metadata or {}).get(_SCHEMA.encode())
        return cls(**kept), pa.ipc.read_schema(pa.py_buffer(base64.b64decode(schema))) if schema is not None else None


def fits_columns(records: pa.RecordBatch) -> bool:
    """Whether Parquet's own columns give these records back exactly."""
    names = records.schema.names
    if not names or len(set(names)) < len(names) or OFFSET in names or "" in names:
        return False
    for field, column in zip(records.schema, records.columns, strict=True):
        if field.type not in _EXACT or (not field.nullable and column.null_count):
            return False
        if field.type == _NAMES and column.dictionary.null_count:
            return False
    return True


def columns_schema(schema: pa.Schema) -> pa.Schema:
    """Of the file, where records of `schema` lie as columns."""
    return schema.remove_metadata().append(pa.field(OFFSET, pa.int64(), nullable=False))


def as_columns(batches: list[LogBatch], schema: pa.Schema) -> pa.Table:
    """A row group of records as their own columns."""
    offsets = np.concatenate([b.offsets_of_records() for b in batches])
    records = pa.Table.from_batches([b.records.replace_schema_metadata(None) for b in batches]).unify_dictionaries()
    return records.append_column(columns_schema(schema).field(OFFSET), pa.array(offsets, pa.int64()))


def from_columns(table: pa.Table, schema: pa.Schema, info: Info, start: int, end: int) -> list[LogBatch]:
    """The one batch of a row group that covers the offsets [start, end); without its offsets where the segment is dense."""
    offsets = None if info.dense else np.ascontiguousarray(table.column(OFFSET).combine_chunks().to_numpy(), np.int64)
    whole = (table if info.dense else table.drop_columns([OFFSET])).unify_dictionaries().combine_chunks()
    columns = [column.chunk(0) if column.num_chunks else pa.array([], column.type) for column in whole.columns]
    return [LogBatch(info.partition, start, end, pa.RecordBatch.from_arrays(columns, schema=schema), offsets)]


def as_batches(batches: list[LogBatch]) -> pa.Table:
    """A row group of whole batches."""
    rows: dict[str, list[Any]] = {OFFSET: [], "offsets": [], "arrow": []}
    for batch in batches:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.records.schema) as writer:
            writer.write_batch(batch.records)
        rows[OFFSET].append(batch.first_offset)
        rows["offsets"].append(batch.offsets.astype("<i8").tobytes() if batch.offsets is not None else None)
        rows["arrow"].append(sink.getvalue().to_pybytes())
    return pa.table(rows, schema=BATCHES_SCHEMA)


def from_batches(table: pa.Table, partition: int, start: int, end: int) -> list[LogBatch]:
    """The batches of a row group that covers the offsets [start, end)."""
    firsts = [start, *table.column(OFFSET).to_pylist()[1:], end]
    out = []
    for i, (first, told, arrow) in enumerate(zip(*(table.column(name) for name in BATCHES_SCHEMA.names), strict=True)):
        records = pa.ipc.open_stream(arrow.as_buffer()).read_next_batch()
        lies, ends = firsts[i], firsts[i + 1]
        if told.is_valid:
            offsets = np.frombuffer(told.as_py(), "<i8").astype(np.int64)
        elif (lies, ends) == (first.as_py(), first.as_py() + records.num_rows):
            offsets = None
        else:
            offsets = np.arange(first.as_py(), first.as_py() + records.num_rows)
        out.append(LogBatch(partition, lies, ends, records, offsets))
    return out
