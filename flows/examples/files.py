"""Examples as Parquet files: a directory with a file for each partition, whose rows are EXAMPLES' records in order. A position is a row's number.

It reads like a log, so whatever reads examples takes either. User features stay dictionaries: a request's are stored once.
"""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flows.errors import CorruptionError, DataDirectoryError
from flows.examples.record import EXAMPLE_SCHEMA, EXAMPLES
from flows.log import LogBatch

METADATA = "tidemark.examples"
_FILE = re.compile(r"examples-(\d{4,})\.parquet")
# A dictionary that is larger is given up for the rest of its row group, and each row would hold its user's features itself.
_DICTIONARY_BYTES = 128 << 20


def file_of(partition: int) -> str:
    """The name of a partition's file."""
    return f"{EXAMPLES}-{partition:04d}.parquet"


def writer_of(path: Path, metadata: dict[str, str]) -> pq.ParquetWriter:
    """Writes a partition's file; each batch that it is given becomes a row group."""
    schema = EXAMPLE_SCHEMA.with_metadata(metadata)
    return pq.ParquetWriter(path, schema, compression="zstd", dictionary_pagesize_limit=_DICTIONARY_BYTES)


class ExampleDirectory:
    """What `Log` is to its readers, of a directory of files.

    Parameters
    ----------
    directory : Path

    Raises
    ------
    DataDirectoryError
        It holds no such files, or not one for each partition.
    """

    name = EXAMPLES
    dense = True

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        names = sorted((path.name for path in directory.iterdir()) if directory.is_dir() else ())
        found = [int(match[1]) for name in names if (match := _FILE.fullmatch(name))]
        if not found or found != list(range(len(found))):
            raise DataDirectoryError(
                f"{directory} holds no examples: it must have {file_of(0)}, and one more for each further partition; `tidemark backfill --out` makes "
                "such a directory"
            )
        self.partitions = len(found)
        self._files = [self._opened(partition) for partition in found]
        self._starts = [_starts(file) for file in self._files]
        self._last: dict[int, LogBatch] = {}

    def close(self) -> None:
        """Release all files."""
        for file in self._files:
            file.close()

    def end_positions(self) -> list[int]:
        """The number of rows of each partition."""
        return [starts[-1] for starts in self._starts]

    def end_position(self, partition: int) -> int:
        """The number of rows of one partition."""
        return self._starts[partition][-1]

    def start_positions(self) -> list[int]:
        """All is there."""
        return [0] * self.partitions

    def position_for_time(self, partition: int, timestamp_ms: int) -> int:
        """The first row that became known at that time or later, else the end."""
        file, starts = self._files[partition], self._starts[partition]
        at = EXAMPLE_SCHEMA.get_field_index("timestamp")
        for group in range(file.num_row_groups):
            statistics = _leaf(file.metadata.row_group(group), at).statistics
            if statistics is None or statistics.max >= timestamp_ms:
                times = file.read_row_group(group, ["timestamp"]).column(0).to_numpy()
                found = int(times.searchsorted(timestamp_ms))
                if found < len(times):
                    return starts[group] + found
        return starts[-1]

    def read(self, partition: int, position: int, max_records: int, *, exact: bool = True) -> list[LogBatch]:
        """Records from exactly `position` on, at most `max_records` and of one row group; [] at the end."""
        starts = self._starts[partition]
        if position >= starts[-1] or max_records <= 0:
            return []
        group = next(i for i in range(len(starts) - 1) if starts[i + 1] > position)
        try:
            whole = self._files[partition].read_row_group(group).combine_chunks().to_batches()[0]
        except (OSError, pa.ArrowException) as error:
            raise CorruptionError(
                f"{self._directory / file_of(partition)}: row group {group} can't be read ({error}); make it anew"
            ) from error
        batch = LogBatch(partition, starts[group], starts[group + 1], whole.replace_schema_metadata(None))
        return [batch.between(position, position + max_records)]

    def _opened(self, partition: int) -> pq.ParquetFile:
        path = self._directory / file_of(partition)
        try:
            file = pq.ParquetFile(path)
        except (OSError, pa.ArrowException) as error:
            raise CorruptionError(f"{path} can't be read as Parquet ({' '.join(str(error).split())}); make it anew") from error
        if file.schema_arrow.remove_metadata() != EXAMPLE_SCHEMA:
            raise CorruptionError(f"{path} has other columns than examples; it was made by another Tidemark, make it anew")
        return file


def _starts(file: pq.ParquetFile) -> list[int]:
    """The number of rows before each row group, and of all."""
    starts = [0]
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if rows:
            starts.append(starts[-1] + rows)
    return starts


def _leaf(group: pq.RowGroupMetaData, column: int) -> pq.ColumnChunkMetaData:
    """The metadata of a column that comes before all nested ones."""
    return group.column(column)
