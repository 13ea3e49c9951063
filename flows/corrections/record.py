"""A correction as it lies in the CORRECTIONS log: in the partition of the records that it corrects, whole, in one append.

``CORRECTIONS/p`` holds what was corrected in ``ACTIONS/p``. A correction is some pieces (records that no longer count, records that count
otherwise, what goes out to REVISITS because of it) and, last, what it is; without that last one its pieces mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from flows.errors import CorruptionError, DataDirectoryError
from flows.events import EVENT_SCHEMA
from flows.kernels.layout import NEVER
from flows.log import Log, read_before
from flows.outputs import CORRECTIONS

FORMAT = 1
SCHEMA = pa.schema(
    [
        pa.field("generation", pa.int32()),
        pa.field("kind", pa.string()),
        pa.field("content", pa.binary()),
        pa.field("timestamp", pa.int64()),
    ]
)
_EXCLUDED, _PATCHED, _PINNED, _EMITTED, _MADE = "excluded", "patched", "pinned", "emitted", "made"
# Of a piece: with what a broker adds it has to stay below a message of a MiB.
_PIECE_BYTES = 512 << 10
_IPC = pa.ipc.IpcWriteOptions(compression="zstd")
_READ = 64
# A record's place: its offset, and which of the records that share that offset it is.
PLACE_BITS = 20
NO_MOVE = -NEVER
"""As the time by which a record moves the watermark: it doesn't."""

EMITTED_SCHEMA = pa.schema(
    [
        pa.field("destination", pa.int32()),
        *(pa.field(name, pa.int64()) for name in ("pin_id", "user_id", "time")),
        pa.field("kind", pa.int8()),
        pa.field("weight", pa.int8()),
    ]
)
_EXCLUDED_SCHEMA = pa.schema([pa.field("place", pa.int64()), pa.field("clock", pa.int64())])
_PATCHED_SCHEMA = pa.schema([*_EXCLUDED_SCHEMA, *EVENT_SCHEMA])


@dataclass(frozen=True)
class Made:
    """What a correction is, without its records.

    Attributes
    ----------
    generation : int
        Its number; greater than that of any before.
    position : int or None
        Of the task at which it took effect: what went out before follows the corrections before, what goes out after follows this one. None as
        long as it has not.
    sequences, sequences_after : dict of log name to list of int
        The task's numbers at that position, before and after what went out because of the correction.
    first : int or None
        No state behind this offset is right that doesn't reflect it; None where it changes no record.
    undoes : tuple of int
        Corrections that no longer count.
    reason : str
        The filter, or the name of the patch, as it was given.
    author : str
    made_at : int
        Wall clock, ms.
    time : int
        The greatest event time accepted by then, ms: what goes out because of it bears it.
    """

    generation: int
    reason: str
    position: int | None = None
    sequences: dict[str, list[int]] = field(default_factory=dict)
    sequences_after: dict[str, list[int]] = field(default_factory=dict)
    first: int | None = None
    undoes: tuple[int, ...] = ()
    author: str = ""
    made_at: int = 0
    time: int = 0
    format: int = FORMAT


@dataclass(frozen=True)
class Correction:
    """A correction of one partition.

    Attributes
    ----------
    made : Made
    excluded : int64[n]
        Places of records that don't count, ascending.
    excluded_clock : int64[n]
        The event time by which each still moves the watermark, ms; -NEVER for none, NEVER where nothing is said of that.
    patched : int64[m]
        Places of records that count as others, ascending.
    patched_clock : int64[m]
        As above.
    pinned, pinned_clock : int64[k]
        Places of records that count as before and move the watermark as before, whatever becomes of them now.
    events : RecordBatch
        The others, EVENT_SCHEMA, m rows.
    emitted : RecordBatch
        What goes out to REVISITS because of it, EMITTED_SCHEMA, in this order.
    """

    made: Made
    excluded: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    excluded_clock: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    patched: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    patched_clock: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    events: pa.RecordBatch = field(default_factory=lambda: pa.RecordBatch.from_pylist([], schema=EVENT_SCHEMA))
    pinned: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    pinned_clock: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    emitted: pa.RecordBatch = field(default_factory=lambda: pa.RecordBatch.from_pylist([], schema=EMITTED_SCHEMA))

    @property
    def generation(self) -> int:
        """Its number."""
        return self.made.generation

    def places(self) -> np.ndarray:
        """Of all records that it says something of: int64[n + m + k]."""
        return np.concatenate([self.excluded, self.patched, self.pinned])

    def to_records(self) -> list[pa.RecordBatch]:
        """Record batches for the log, to be appended at once."""
        excluded = pa.RecordBatch.from_arrays([pa.array(self.excluded), pa.array(self.excluded_clock)], schema=_EXCLUDED_SCHEMA)
        patched = pa.RecordBatch.from_arrays(
            [pa.array(self.patched), pa.array(self.patched_clock), *self.events.columns], schema=_PATCHED_SCHEMA
        )
        pinned = pa.RecordBatch.from_arrays([pa.array(self.pinned), pa.array(self.pinned_clock)], schema=_EXCLUDED_SCHEMA)
        pieces = [
            (kind, content)
            for kind, batch in ((_EXCLUDED, excluded), (_PATCHED, patched), (_PINNED, pinned), (_EMITTED, self.emitted))
            for content in _cut(batch)
        ]
        pieces.append((_MADE, orjson.dumps({**asdict(self.made), "pieces": len(pieces)})))
        return [
            pa.RecordBatch.from_pylist(
                [{"generation": self.generation, "kind": kind, "content": content, "timestamp": self.made.made_at}], schema=SCHEMA
            )
            for kind, content in pieces
        ]


def read_corrections(log: Log, partition: int) -> list[Correction]:
    """All corrections of a partition, in the order in which they were made.

    Raises
    ------
    CorruptionError
        A piece is missing or can't be read.
    DataDirectoryError
        One is of another format.
    """
    found: list[Correction] = []
    rows: list[dict[str, Any]] = []
    at, end = log.start_positions()[partition], log.end_position(partition)
    where = f"log '{CORRECTIONS}', partition {partition}"
    if at:
        raise CorruptionError(
            f"{where}, begins at offset {at}: without its first corrections, records that they took out would count again; bring back its archive"
        )
    while at < end:
        batches = read_before(log, end, partition, at, _READ)
        if not batches:
            raise CorruptionError(f"{where}: records from offset {at} on are missing, though it ends at {end}")
        for row in (row for batch in batches for row in batch.records.to_pylist()):
            rows.append(row)
            if row["kind"] == _MADE:
                found.append(correction_of(rows, where))
                rows = []
        at = batches[-1].end_offset
    return found


def correction_of(rows: list[dict[str, Any]], where: str) -> Correction:
    """A correction of its records, as `Correction.to_records` made them.

    Parameters
    ----------
    where : str
        They lie, for messages.
    """
    pieces: dict[str, list[pa.RecordBatch]] = {}
    for row in rows[:-1]:
        pieces.setdefault(row["kind"], []).append(pa.ipc.open_stream(pa.py_buffer(row["content"])).read_next_batch())
    return _whole(orjson.loads(rows[-1]["content"]), pieces, where)


def _whole(content: dict[str, object], pieces: dict[str, list[pa.RecordBatch]], where: str) -> Correction:
    if content.get("format") != FORMAT:
        raise DataDirectoryError(f"{where}: a correction has format {content.get('format')}; this Tidemark reads format {FORMAT}")
    if content.pop("pieces") != sum(map(len, pieces.values())):
        raise CorruptionError(f"{where}: correction {content['generation']} has lost records; restore the log from a copy")
    content["undoes"] = tuple(content["undoes"])  # type: ignore[arg-type]
    made = Made(**content)  # type: ignore[arg-type]
    excluded = _joined(pieces.get(_EXCLUDED), _EXCLUDED_SCHEMA)
    patched = _joined(pieces.get(_PATCHED), _PATCHED_SCHEMA)
    pinned = _joined(pieces.get(_PINNED), _EXCLUDED_SCHEMA)
    return Correction(
        made,
        excluded.column(0).to_numpy(),
        excluded.column(1).to_numpy(),
        patched.column(0).to_numpy(),
        patched.column(1).to_numpy(),
        pa.RecordBatch.from_arrays(patched.columns[2:], schema=EVENT_SCHEMA),
        pinned.column(0).to_numpy(),
        pinned.column(1).to_numpy(),
        _joined(pieces.get(_EMITTED), EMITTED_SCHEMA),
    )


def _joined(parts: list[pa.RecordBatch] | None, schema: pa.Schema) -> pa.RecordBatch:
    if not parts:
        return pa.RecordBatch.from_pylist([], schema=schema)
    return pa.Table.from_batches(parts).combine_chunks().to_batches()[0]


def _cut(batch: pa.RecordBatch) -> Iterator[bytes]:
    """A batch as Arrow IPC streams of about a piece each; none of an empty one."""
    if not len(batch):
        return
    rows = max(1, len(batch) * _PIECE_BYTES // max(1, batch.nbytes))
    for start in range(0, len(batch), rows):
        piece = _alone(batch.slice(start, rows))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, piece.schema, options=_IPC) as writer:
            writer.write_batch(piece)
        if sink.tell() > _PIECE_BYTES and len(piece) > 1:
            half = len(piece) // 2
            yield from _cut(piece.slice(0, half))
            yield from _cut(piece.slice(half))
        else:
            yield sink.getvalue().to_pybytes()


def _alone(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A slice with no more texts in its dictionaries than it needs."""
    columns = [
        column.dictionary_decode().dictionary_encode().cast(field.type) if pa.types.is_dictionary(field.type) else column
        for column, field in zip(batch.columns, batch.schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def places_of(offsets: np.ndarray) -> np.ndarray:
    """The place of each of consecutive records: int64[n], ascending.

    Parameters
    ----------
    offsets : int64[n]
        Not descending; all records of an offset, if any.
    """
    first = np.searchsorted(offsets, offsets, "left") if len(offsets) and not (np.diff(offsets) > 0).all() else np.arange(len(offsets))
    return (offsets << PLACE_BITS) | (np.arange(len(offsets)) - first)
