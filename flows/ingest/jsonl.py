"""JSON lines as a source: one object per line, each line decoded alone, so that a bad one spoils no other. Blank lines are no rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from flows.errors import InputError
from flows.events import INT64_MAX, INT64_MIN
from flows.ingest.columnar import input_errors
from flows.ingest.convert import Column
from flows.ingest.frames import Chunk, Frame
from flows.ingest.options import TARGETS, IngestOptions
from flows.vocabulary import suggestion

BLOCK_BYTES = 8 << 20
LONGEST_LINE = 256 << 20
CHUNK_LINES = 65_536  # parsed objects take about 1 KB each
SAMPLE_LINES = 1_000
_ARROW = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_(), type(None): pa.null()}


class _Big:
    """Stands for the type of an integer outside int64."""


class JsonLinesSource:
    """A file of JSON objects, one a line."""

    digits = False

    def __init__(self, path: Path, options: IngestOptions, compression: str | None) -> None:
        self.path = path
        self._compression = compression
        present: dict[str, None] = {}
        with input_errors(path, "JSON lines"):
            for _, lines in self._lines(SAMPLE_LINES):
                for parsed in map(_parse, lines):
                    if isinstance(parsed, dict):
                        present.update(dict.fromkeys(parsed))
                break
        for target, source in options.columns.items():
            if present and source not in present:
                near = suggestion(source, list(present))
                raise InputError(
                    f"{path}: none of the first {SAMPLE_LINES} objects has the field '{source}' for {target}{near}; "
                    f"their fields: {', '.join(present)}"
                )
        # A field may first appear later in the file, so all are looked for; but event_id decides whether ids are derived.
        taken = set(options.columns.values())
        self.names = {t: options.columns.get(t, t) for t in TARGETS if t in options.columns or t not in taken}
        if "event_id" not in options.columns and "event_id" not in present:
            self.names.pop("event_id", None)

    def check(self) -> int:
        with input_errors(self.path, "JSON lines"):
            return sum(len(lines) for lines in self._blocks())

    def chunks(self, start: int) -> Iterator[Chunk]:
        with input_errors(self.path, "JSON lines"):
            for first, lines in self._lines(CHUNK_LINES):
                if first + len(lines) > start:
                    skipped = max(start - first, 0)
                    yield self._chunk(first + skipped, lines[skipped:])

    def _chunk(self, first: int, lines: list[bytes]) -> Chunk:
        parsed = [_parse(line) for line in lines]
        kept = [i for i, found in enumerate(parsed) if type(found) is dict]
        unreadable = []
        if len(kept) < len(lines):
            unreadable = [(first + i, lines[i].strip()) for i, found in enumerate(parsed) if type(found) is not dict]
            parsed = [parsed[i] for i in kept]
        # A field that no row here has is left out, but not event_id: where the file has ids, a row without is a fault.
        fields = {self.names.get("event_id")}.union(*parsed)
        columns = {target: [found.get(name) for found in parsed] for target, name in self.names.items() if name in fields}
        return Chunk(first, first + len(lines), list(_frames(first + np.array(kept, np.int64), columns)), unreadable)

    def _lines(self, count: int) -> Iterator[tuple[int, list[bytes]]]:
        """Lines that aren't blank, `count` at a time, with the number of the first."""
        row = 0
        held: list[bytes] = []
        for lines in self._blocks():
            held += lines
            while len(held) >= count:
                yield row, held[:count]
                held = held[count:]
                row += count
        if held:
            yield row, held

    def _blocks(self) -> Iterator[list[bytes]]:
        """Lines that aren't blank, a few MB at a time."""
        rest: list[bytes] = []
        length = 0
        with pa.input_stream(str(self.path), compression=self._compression) as stream:
            block = stream.read(BLOCK_BYTES).removeprefix(b"\xef\xbb\xbf")
            while block:
                lines = block.split(b"\n")
                rest.append(lines[0])
                length += len(lines[0])
                if len(lines) > 1:
                    lines[0], rest, length = b"".join(rest), [lines[-1]], len(lines[-1])
                    del lines[-1]
                    yield [line for line in lines if line and not line.isspace()]
                elif length > LONGEST_LINE:
                    raise InputError(f"{self.path} has a line of more than {LONGEST_LINE >> 20} MiB; is it JSON lines, one object a line?")
                block = stream.read(BLOCK_BYTES)
        last = b"".join(rest)
        if last and not last.isspace():
            yield [last]


def _parse(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return None


def _frames(rows: np.ndarray, columns: dict[str, list[Any]]) -> Iterator[Frame]:
    """Frames of one type per column (a null agrees with all types).

    Rows that are of each column's commonest type are one frame; of the others, those with the same combination of types.
    """
    arrays = {target: _column(values) for target, values in columns.items()}
    odd: set[int] = set()
    for target, array in arrays.items():
        if array is None:
            odd.update(_odd(columns[target]))
    if not odd:
        if len(rows):
            yield Frame(rows, arrays)
        return
    groups: dict[tuple[type, ...], list[int]] = {}
    for i in sorted(odd):
        groups.setdefault(tuple(_kind(values[i]) for values in columns.values()), []).append(i)
    for members in ([i for i in range(len(rows)) if i not in odd], *groups.values()):
        if members:
            parts = {target: [values[i] for i in members] for target, values in columns.items()}
            converted = {target: _column(values) for target, values in parts.items()}
            yield Frame(rows[members], {target: parts[target] if array is None else array for target, array in converted.items()})


def _odd(values: list[Any]) -> Iterator[int]:
    """Where a value is not of the commonest type."""
    kinds = list(map(type, values))
    counts = Counter(kinds)
    counts.pop(type(None), None)
    common = counts.most_common(1)[0][0]
    for i, kind in enumerate(kinds):
        other = kind is not common and kind is not type(None)
        if other or kind not in _ARROW or (kind is int and not INT64_MIN <= values[i] <= INT64_MAX):
            yield i


def _column(values: list[Any]) -> Column | None:
    """An Arrow array, if the values are of one type that it can hold."""
    kinds = set(map(type, values))
    if len(kinds) > 1:
        kinds.discard(type(None))
    arrow = _ARROW.get(kinds.pop()) if len(kinds) == 1 else None
    try:
        return None if arrow is None else pa.array(values, arrow)
    except OverflowError:
        return None


def _kind(value: Any) -> type:
    kind = type(value)
    return _Big if kind is int and not INT64_MIN <= value <= INT64_MAX else kind
