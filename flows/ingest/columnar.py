"""Parquet and CSV files as sources. CSV is read as bytes without types, so that no value in it can make the reader fail."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from flows.errors import InputError
from flows.ingest.frames import CHUNK_ROWS, Chunk, Frame
from flows.ingest.options import IngestOptions

BLOCK_BYTES = 16 << 20
# Arrow's texts can't be more than 2 GiB together, and as JSON a text may be six times as long.
CHUNK_BYTES = 256 << 20


@contextmanager
def input_errors(path: Path, kind: str) -> Iterator[None]:
    """Turns what a reader raises into one clear line."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, UnicodeError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        hint = ""
        if "straddling object" in text:
            text, hint = f"a row is longer than {BLOCK_BYTES >> 20} MiB", "; is a quote never closed?"
        raise InputError(f"{path} can't be read as {kind}: {text}{hint}; nothing of it was added") from error


class ParquetSource:
    """A Parquet file, read by row groups."""

    digits = True

    def __init__(self, path: Path, options: IngestOptions) -> None:
        self.path = path
        with input_errors(path, "Parquet"), pq.ParquetFile(path) as file:
            schema = file.schema_arrow
        self.names = options.resolve(path, schema.names)
        texts = (self.names[t] for t in ("action", "surface", "topic", "producer") if t in self.names)
        self._encoded = [name for name in texts if pa.types.is_string(schema.field(name).type)]

    def check(self) -> int:
        with input_errors(self.path, "Parquet"), self._open() as file:
            return sum(batch.num_rows for batch in file.iter_batches(CHUNK_ROWS, columns=list(self.names.values())))

    def chunks(self, start: int) -> Iterator[Chunk]:
        with input_errors(self.path, "Parquet"), self._open() as file:
            sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
            group, row = 0, 0
            while group < len(sizes) and row + sizes[group] <= start:
                row += sizes[group]
                group += 1
            for batch in file.iter_batches(CHUNK_ROWS, row_groups=list(range(group, len(sizes))), columns=list(self.names.values())):
                skipped = min(max(start - row, 0), batch.num_rows)
                size = _rows_at_once(batch)
                for at in range(skipped, batch.num_rows, size):
                    part = batch.slice(at, size)
                    columns = {target: part.column(name) for target, name in self.names.items()}
                    first, end = row + at, row + at + part.num_rows
                    yield Chunk(first, end, [Frame(np.arange(first, end), columns)], [])
                row += batch.num_rows

    def _open(self) -> pq.ParquetFile:
        return pq.ParquetFile(self.path, read_dictionary=self._encoded)


def _rows_at_once(batch: pa.RecordBatch) -> int:
    """How many rows are sure to be small enough, though each have the longest text of its columns' dictionaries."""
    each = 0.0
    for column in batch.columns:
        longest = pc.max(pc.binary_length(column.dictionary)).as_py() if isinstance(column, pa.DictionaryArray) else None
        each += longest if longest is not None else column.nbytes / max(1, len(column))
    return max(1, int(CHUNK_BYTES / max(each, 1.0)))


class CsvSource:
    """A CSV or TSV file with a header. A row with too few or too many fields is unreadable and keeps its text."""

    digits = True

    def __init__(self, path: Path, options: IngestOptions, compression: str | None, delimiter: str = ",") -> None:
        self.path = path
        self._compression = compression
        self._delimiter = delimiter
        self._latin = False  # known once `check` has run
        with input_errors(path, "CSV"):
            self._header = self._read_header()
        self.names = options.resolve(path, self._header)

    def check(self) -> int:
        with input_errors(self.path, "CSV"):
            # A ragged row that is no UTF-8 can't pass through pyarrow's handler; read as Latin-1, every file can.
            self._latin = not self._is_utf8()
            bad: list[tuple[int, bytes]] = []
            with self._open(bad) as reader:
                return sum(batch.num_rows for batch in reader) + len(bad)

    def chunks(self, start: int) -> Iterator[Chunk]:
        pending: list[tuple[int, bytes]] = []  # unreadable rows that the parser has met; it may be ahead of us
        row = 0
        with input_errors(self.path, "CSV"), self._open(pending) as reader:
            for batch in reader:
                for at in range(0, batch.num_rows, CHUNK_ROWS):
                    part = batch.slice(at, CHUNK_ROWS)
                    numbers = _numbers(row, part.num_rows, [number for number, _ in pending])
                    first, row = row, int(numbers[-1]) + 1
                    unreadable = [item for item in pending if item[0] < row]
                    del pending[: len(unreadable)]
                    if row > start:
                        keep = int(np.searchsorted(numbers, start))
                        kept = part.slice(keep)
                        columns = {target: self._column(kept.column(i)) for i, target in enumerate(self.names)}
                        unreadable = [item for item in unreadable if item[0] >= start]
                        yield Chunk(max(first, start), row, [Frame(numbers[keep:], columns)], unreadable)
            unreadable = [item for item in pending if item[0] >= start]
            if unreadable:
                yield Chunk(max(row, start), unreadable[-1][0] + 1, [], unreadable)

    def _open(self, unreadable: list[tuple[int, bytes]]) -> Any:
        def handle(row: Any) -> str:
            # Numbers start at 1 and count the header.
            unreadable.append((row.number - 2, row.text.encode("latin-1" if self._latin else "utf-8")))
            return "skip"

        columns = [self._spelled(name) for name in self.names.values()]
        return pacsv.open_csv(
            pa.input_stream(str(self.path), compression=self._compression),
            read_options=pacsv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False, encoding="latin-1" if self._latin else "utf8"),
            parse_options=pacsv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True, invalid_row_handler=handle),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.string() if self._latin else pa.binary()),
                include_columns=columns,
                null_values=[""],
                strings_can_be_null=True,
            ),
        )

    def _read_header(self) -> list[str]:
        with pa.input_stream(str(self.path), compression=self._compression) as stream:
            text = io.TextIOWrapper(stream, "utf-8", errors="surrogateescape", newline="")
            try:
                header = next((row for row in csv.reader(text, delimiter=self._delimiter) if row), None)
            except csv.Error as error:
                raise InputError(f"{self.path} has no header that can be read: {error}") from error
        if not header or header == ["\ufeff"]:
            raise InputError(f"{self.path} has no header: its first line must name the columns")
        self._marked = header[0].startswith("\ufeff")
        header[0] = header[0].removeprefix("\ufeff")
        return header

    def _spelled(self, name: str) -> str:
        """A column's name as pyarrow reads it."""
        if not self._latin:
            return name
        marked = "\ufeff" * (self._marked and name == self._header[0])
        return (marked + name).encode("utf-8", "surrogateescape").decode("latin-1")

    def _is_utf8(self) -> bool:
        decoder = codecs.getincrementaldecoder("utf-8")()
        with pa.input_stream(str(self.path), compression=self._compression) as stream:
            try:
                while block := stream.read(1 << 22):
                    decoder.decode(block)
                decoder.decode(b"", final=True)
            except UnicodeDecodeError:
                return False
        return True

    def _column(self, column: pa.Array) -> pa.Array:
        if not self._latin:
            return column
        if pc.all(pc.string_is_ascii(column), min_count=0).as_py():
            return column
        return pa.array([None if text is None else text.encode("latin-1") for text in column.to_pylist()], pa.binary())


def _numbers(first: int, count: int, skipped: list[int]) -> np.ndarray:
    """The `count` least row numbers from `first` on that are not in `skipped` (ascending)."""
    before = np.array(skipped, np.int64) - np.arange(len(skipped)) - first
    rows = np.arange(count)
    return first + rows + np.searchsorted(before, rows, side="right")
