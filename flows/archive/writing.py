"""Writing one segment: a draft beside the segments, made durable, then renamed to what it is. Memory is a row group's, not a segment's."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.archive.layout import (
    BATCHES_SCHEMA,
    COMPRESSION,
    LEVEL,
    OFFSET,
    PACKED,
    Info,
    as_batches,
    as_columns,
    columns_schema,
    fits_columns,
)
from flows.archive.names import DRAFT, SegmentName, new_checksum
from flows.directories import sync
from flows.errors import DataDirectoryError, StorageFullError
from flows.log import LogBatch

# In memory, before compression. A reader decodes a row group at least.
SEGMENT_BYTES, ROW_GROUP_BYTES = 64 << 20, 8 << 20


class SegmentWriter:
    """A segment in the making.

    Parameters
    ----------
    directory : Path
        Of the partition; only one writer may be at work in it.
    log : str
    partition : int
    start : int
        Offset at which it begins.

    Attributes
    ----------
    end : int
        Where what was added ends.
    """

    def __init__(self, directory: Path, log: str, partition: int, start: int) -> None:
        self.start = self.end = start
        self._directory, self._log, self._partition = directory, log, partition
        self._waiting: list[LogBatch] = []
        self._waiting_bytes = self._bytes = self._records = 0
        self._schema: pa.Schema | None = None
        self._columns = True
        self._dense = True
        self._newest: int | None = None
        self._file: _Summed | None = None
        self._writer: pq.ParquetWriter | None = None

    @property
    def full(self) -> bool:
        """Whether it should be published before anything else is added."""
        return self._bytes >= SEGMENT_BYTES

    def takes(self, batch: LogBatch) -> bool:
        """Whether a batch can go on where it ends."""
        if self.full or batch.first_offset != self.end:
            return False
        # Once columns have been written, nothing else can be.
        return self._writer is None or not self._columns or self._alike(batch)

    def add(self, batch: LogBatch) -> None:
        """Add what it `takes`.

        Raises
        ------
        StorageFullError, DataDirectoryError
            It can't be written; `discard` it.
        """
        records = batch.records
        self.end = batch.end_offset
        dense = batch.end_offset - batch.first_offset == records.num_rows
        self._dense &= dense and (batch.offsets is None or bool((np.diff(batch.offsets) == 1).all()))
        if not records.num_rows:
            return
        if self._schema is None:
            self._schema = records.schema
        self._columns = self._columns and self._alike(batch)
        self._waiting.append(batch)
        self._waiting_bytes += records.nbytes
        self._bytes += records.nbytes
        self._records += records.num_rows
        if "timestamp" in records.schema.names and records.schema.field("timestamp").type == pa.int64():
            newest = pc.max(records.column("timestamp")).as_py()
            self._newest = newest if self._newest is None else max(self._newest, newest if newest is not None else self._newest)
        if self._waiting_bytes >= ROW_GROUP_BYTES:
            with self._translated():
                self._flush()

    def publish(self) -> SegmentName:
        """Make it durable and give it its name; then, and not before, it is there.

        Raises
        ------
        StorageFullError, DataDirectoryError
            It can't be written; `discard` it.
        """
        with self._translated():
            self._columns = self._columns and self._schema is not None
            self._flush()
            writer, file = self._opened()
            info = Info(
                self._log,
                self._partition,
                self.start,
                self.end,
                self._records,
                self._columns,
                self._dense and self._records > 0,
                self._newest,
            )
            writer.add_key_value_metadata(info.to_metadata(self._schema))
            writer.close()
            name = SegmentName(self.start, self.end, file.close())
            os.rename(self._directory / DRAFT, self._directory / str(name))
            sync(self._directory)
        return name

    def discard(self) -> None:
        """Do without it."""
        if self._file is not None:
            self._file.abandon()
        (self._directory / DRAFT).unlink(missing_ok=True)

    def _alike(self, batch: LogBatch) -> bool:
        """Whether a batch may lie in the same columns."""
        records = batch.records
        return not records.num_rows or (
            self._schema is not None and records.schema.equals(self._schema, check_metadata=True) and fits_columns(records)
        )

    def _flush(self) -> None:
        """Write what waits as one row group."""
        if self._waiting:
            table = as_columns(self._waiting, self._schema) if self._columns else as_batches(self._waiting)
            self._opened()[0].write_table(table, row_group_size=table.num_rows)
        self._waiting, self._waiting_bytes = [], 0

    def _opened(self) -> tuple[pq.ParquetWriter, _Summed]:
        if self._writer is None or self._file is None:
            schema = columns_schema(self._schema) if self._columns else BATCHES_SCHEMA
            names = [field.name for field in schema if pa.types.is_dictionary(field.type)]
            whole = [field.name for field in schema if pa.types.is_integer(field.type)]
            self._file = _Summed(self._directory / DRAFT)
            self._writer = pq.ParquetWriter(
                self._file,
                schema,
                compression=COMPRESSION,
                compression_level=LEVEL,
                use_dictionary=names or False,
                column_encoding=dict.fromkeys(whole, PACKED),
                # What a reader finds a row group by.
                write_statistics=[OFFSET],
            )
        return self._writer, self._file

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = f"archive {self._directory}: can't write a segment: {error}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise StorageFullError(f"{where}; what was published is safe: free some space and run this again") from error
            raise DataDirectoryError(where) from error


class _Summed:
    """A file that is written from its beginning to its end, and the checksum of what was written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._sum = new_checksum()
        self._at = 0
        self.closed = False

    def write(self, data: bytes | memoryview) -> int:
        """Append bytes."""
        self._sum.update(data)
        self._file.write(data)
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        """How many bytes were written."""
        return self._at

    def flush(self) -> None:
        """Nothing: `close` does it."""

    def writable(self) -> bool:
        """That it is."""
        return True

    def readable(self) -> bool:
        """That it isn't."""
        return False

    def seekable(self) -> bool:
        """That it isn't."""
        return False

    def close(self) -> str:
        """Make it durable; the checksum."""
        if not self.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self.closed = True
        return self._sum.hexdigest()

    def abandon(self) -> None:
        """Close it as it is."""
        self.closed = True
        self._file.close()


def pieces(batch: LogBatch) -> Iterator[LogBatch]:
    """A batch in parts of about a row group at most; what shares an offset stays together."""
    rows = max(1, batch.records.num_rows * ROW_GROUP_BYTES // max(1, batch.records.nbytes))
    if batch.records.num_rows <= rows:
        yield batch
        return
    offsets = batch.offsets_of_records()
    at = batch.first_offset
    while at < batch.end_offset:
        low = int(np.searchsorted(offsets, at, "left"))
        stop = batch.end_offset if low + rows >= len(offsets) else max(int(offsets[low + rows]), int(offsets[low]) + 1)
        yield batch.between(at, stop)
        at = stop
