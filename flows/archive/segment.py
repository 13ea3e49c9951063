"""Reading one segment: its checksum once in a process, then a row group at a time."""

from __future__ import annotations

import os
from bisect import bisect_right
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flows.archive.layout import OFFSET, Info, from_batches, from_columns
from flows.archive.names import SegmentName, new_checksum
from flows.errors import CorruptionError
from flows.events import RAW_SCHEMA
from flows.log import LogBatch

ADVICE = "delete it, and `tidemark archive run` archives these offsets anew if the log still has them; otherwise put it back from a copy"
_READ_BYTES = 1 << 20

# By file, as it was when its checksum was found right: a segment is never written again.
_checked: set[tuple[str, int, int, int]] = set()


class Segment:
    """A segment, open for reading. Not to be shared by threads.

    Parameters
    ----------
    directory : Path
        Of the partition.
    name : SegmentName
    log : str
    partition : int
    trusted : bool
        Don't look at the checksum: for who wants no more than what it says of itself.

    Raises
    ------
    CorruptionError
        Its bytes are not those that were written, or it is another segment than its name says.
    """

    def __init__(self, directory: Path, name: SegmentName, log: str, partition: int, trusted: bool = False) -> None:
        self.path = directory / str(name)
        self.name = name
        try:
            if not trusted:
                self._check()
            self._file = pq.ParquetFile(self.path)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(f"it can't be read ({error})") from error
        try:
            self._take(log, partition)
        except (ValueError, TypeError, KeyError, pa.ArrowException) as error:
            self.close()
            raise self._damaged(str(error)) from error
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        with self.path.open("rb") as file:
            status = os.fstat(file.fileno())
            known = (str(self.path), status.st_ino, status.st_size, status.st_mtime_ns)
            if known in _checked:
                return
            checksum = new_checksum()
            while data := file.read(_READ_BYTES):
                checksum.update(data)
        if checksum.hexdigest() != self.name.checksum:
            raise self._damaged("its checksum is wrong")
        _checked.add(known)

    def _take(self, log: str, partition: int) -> None:
        metadata = self._file.metadata
        self.info, self._schema = Info.from_metadata(metadata.metadata)
        is_, said = (self.info.log, self.info.partition, self.info.start, self.info.end), (log, partition, self.name.start, self.name.end)
        if is_ != said:
            raise ValueError(
                f"it holds offsets {is_[2]} to {is_[3] - 1} of log '{is_[0]}', partition {is_[1]}, not what its name and place say"
            )
        # Where each row group begins; the first covers from the segment's start on.
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        column = self._file.schema_arrow.get_field_index(OFFSET)
        firsts = [group.column(column).statistics.min for group in groups]
        self._starts = [self.name.start, *firsts[1:]] if groups else []
        if self.info.columns:
            if self._schema is None:
                raise ValueError("the schema of its records is missing")
            self._columns = list(range(len(self._schema) + (not self.info.dense)))
            rows = metadata.num_rows
            if rows != self.info.records:
                raise ValueError(f"it holds {rows} records, not {self.info.records}")

    def read(self, position: int) -> list[LogBatch]:
        """The row group with a position, whole: batches without a gap that cover it."""
        if not self._starts:
            none = pa.RecordBatch.from_pylist([], RAW_SCHEMA)
            return [LogBatch(self.info.partition, self.name.start, self.name.end, none, np.empty(0, np.int64))]
        i = bisect_right(self._starts, position) - 1
        start = self._starts[i]
        end = self._starts[i + 1] if i + 1 < len(self._starts) else self.name.end
        try:
            if not self.info.columns or self._schema is None:
                return from_batches(self._file.read_row_group(i, use_threads=False), self.info.partition, start, end)
            table = self._file.reader.read_row_group(i, column_indices=self._columns, use_threads=False)
            return from_columns(table, self._schema, self.info, start, end)
        except (OSError, ValueError, pa.ArrowException, StopIteration) as error:
            raise self._damaged(f"row group {i} can't be decoded ({error})") from error

    def _damaged(self, why: str) -> CorruptionError:
        return CorruptionError(f"archive segment {self.path} is damaged: {why}; {ADVICE}")

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
