"""The entity frame of a historical read: which entities, as of which moments and prefixes. Whatever is wrong with it is said in one line.

A row without logged positions is a training row: events strictly before its timestamp that had arrived by then. One with positions is a row that was
served: the prefix that it was served from, and events up to its as_of. Nothing of the frame is changed: its rows, their order and its other columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.errors import HistoricalReadError
from flows.positions import Positions

TIMESTAMP = "event_timestamp"
POSITIONS = "tidemark_positions"
AS_OF = "tidemark_as_of"
FINGERPRINT = "tidemark_fingerprint"

_FAR = 2**62
# Parts of a millisecond in a unit, or milliseconds in it.
_FINER = {"us": 1_000, "ns": 1_000_000}
_COARSER = {"s": 1_000, "ms": 1}


@dataclass(frozen=True, eq=False)
class Moments:
    """What each row may see; as of `flows.point_in_time.Asked`."""

    time: np.ndarray
    arrived_by: np.ndarray
    positions: list[Positions]
    position: np.ndarray


class EntityFrame:
    """An entity frame as Feast's users give it.

    Parameters
    ----------
    frame : pandas DataFrame or pyarrow Table

    Attributes
    ----------
    table : pyarrow Table
        All of it.
    timestamp : str
        Name of the column with the rows' moments.
    moments : Moments

    Raises
    ------
    HistoricalReadError
    """

    def __init__(self, frame: Any) -> None:
        self.table = _table(frame)
        names = self.table.column_names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise HistoricalReadError(f"the entity frame has two columns '{twice[0]}'; drop or rename one")
        self.timestamp = _timestamp_column(self.table.schema)
        self.moments = self._moments()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def refuse_other(self, fingerprint: str) -> None:
        """Refuse rows that say that they were served under other definitions or settings than these."""
        if FINGERPRINT not in self.table.column_names:
            return
        said = self.table.column(FINGERPRINT)
        if not _is_text(said.type) and not pa.types.is_null(said.type):
            raise HistoricalReadError(f"column '{FINGERPRINT}' is of type {said.type}; a fingerprint is text, as the log 'served' has it")
        others = [one for one in pc.unique(said.cast(pa.string())).to_pylist() if one is not None and one != fingerprint]
        if others:
            row = next(row for row, one in enumerate(said.to_pylist()) if one == others[0])
            raise HistoricalReadError(
                f"row {row} of the entity frame was served under fingerprint {others[0]}, and features are {fingerprint} now: the same names may "
                f"mean something else; leave such rows out, or drop the column '{FINGERPRINT}' to have them all the same"
            )

    def bounds(self) -> tuple[Any, Any]:
        """The least and the greatest moment, as datetimes; None of an empty frame, and of moments beyond the years that datetimes have."""
        found = pc.min_max(self.table.column(self.timestamp))
        try:
            return found["min"].as_py(), found["max"].as_py()
        except (OverflowError, ValueError):
            return None, None

    def integers(self, column: str, view: str) -> np.ndarray:
        """IDs, int64[n]."""
        values = self._entity_column(column, view)
        # An empty column of pandas has no type that means anything.
        if not pa.types.is_integer(values.type) and len(values):
            raise HistoricalReadError(
                f"entity column '{column}' is of type {values.type}, and an ID is a whole number; make it int64"
                + (" (text IDs are hashed when they are ingested: flows.events.id_of)" if _is_text(values.type) else "")
            )
        try:
            return _whole(values.cast(pa.int64()))
        except pa.ArrowInvalid as error:
            raise HistoricalReadError(f"entity column '{column}' of type {values.type} holds an ID that is no int64 ({error})") from error

    def texts(self, column: str, view: str) -> list[str]:
        """Names."""
        values = self._entity_column(column, view)
        if not _is_text(values.type) and len(values):
            raise HistoricalReadError(f"entity column '{column}' is of type {values.type}, and the key of feature view '{view}' is text")
        return [] if not len(values) else values.cast(pa.string()).to_pylist()

    def _entity_column(self, column: str, view: str) -> pa.ChunkedArray:
        if column not in self.table.column_names:
            raise HistoricalReadError(
                f"the entity frame has no column '{column}', the key of feature view '{view}'; it has {', '.join(self.table.column_names)}"
            )
        values = self.table.column(column)
        _refuse_null(values, column)
        return values

    def _moments(self) -> Moments:
        column = self.table.column(self.timestamp)
        _refuse_null(column, self.timestamp)
        floor, ceiling = _milliseconds(column)
        n = len(self)
        time, position, positions = ceiling - 1, np.full(n, -1, np.int32), list[Positions]()
        if POSITIONS in self.table.column_names:
            positions, position = _positions(self.table.column(POSITIONS))
            as_of = floor
            if AS_OF in self.table.column_names:
                given = self.table.column(AS_OF)
                if not pa.types.is_integer(given.type) and not pa.types.is_null(given.type):
                    raise HistoricalReadError(
                        f"column '{AS_OF}' is of type {given.type}; it must be whole milliseconds since 1970-01-01 UTC"
                    )
                as_of = np.where(_valid(given), _whole(given.cast(pa.int64()).fill_null(0)), floor)
            time = np.where(position >= 0, as_of, time)
        elif AS_OF in self.table.column_names:
            raise HistoricalReadError(
                f"the entity frame has a column '{AS_OF}' and none '{POSITIONS}'; only a row that was served has an as_of"
            )
        return Moments(time, floor, positions, position)


def _table(frame: Any) -> pa.Table:
    if frame is None:
        raise HistoricalReadError("an entity frame is needed: say for which entities, and as of when")
    if isinstance(frame, str):
        raise HistoricalReadError(
            "an entity frame by SQL is not supported; run the query yourself, and give its result as a pandas DataFrame"
        )
    if isinstance(frame, pa.Table):
        return frame
    if not isinstance(frame, pd.DataFrame):
        raise HistoricalReadError(f"the entity frame is a {type(frame).__name__}; give a pandas DataFrame or a pyarrow Table")
    try:
        return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, ValueError, OverflowError, TypeError) as error:
        raise HistoricalReadError(f"the entity frame can't become an Arrow table: {' '.join(str(error).split())}") from error


def _timestamp_column(schema: pa.Schema) -> str:
    times = [field.name for field in schema if pa.types.is_timestamp(field.type)]
    if TIMESTAMP in schema.names:
        if TIMESTAMP not in times:
            kind = schema.field(TIMESTAMP).type
            if pa.types.is_null(kind):
                raise HistoricalReadError(f"column '{TIMESTAMP}' of the entity frame holds no times")
            raise HistoricalReadError(
                f"column '{TIMESTAMP}' of the entity frame is of type {kind}; make it a timestamp (pandas.to_datetime)"
            )
        return TIMESTAMP
    if len(times) != 1:
        raise HistoricalReadError(
            f"the entity frame has no column '{TIMESTAMP}', and {'no other' if not times else 'more than one'} column of times; "
            f"give each row its moment in '{TIMESTAMP}'"
        )
    return times[0]


def _milliseconds(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Of each time the whole millisecond at or before it, and the one at or after it: int64[n] each."""
    unit = column.type.unit
    numbers = _whole(column.cast(pa.int64()))
    if unit in _COARSER:
        factor = _COARSER[unit]
        exact = np.clip(numbers, -_FAR // factor, _FAR // factor) * factor
        return exact, exact
    return numbers // _FINER[unit], -(-numbers // _FINER[unit])


def _positions(column: pa.ChunkedArray) -> tuple[list[Positions], np.ndarray]:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_null(kind):
        return [], np.full(len(column), -1, np.int32)
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise HistoricalReadError(f"column '{POSITIONS}' is of type {kind}; it must hold the bytes of a served row's positions")
    coded = column.cast(kind).combine_chunks().dictionary_encode()
    coded = coded if isinstance(coded, pa.Array) else coded.combine_chunks()
    index = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    found = []
    for number, value in enumerate(coded.dictionary.to_pylist()):
        positions = Positions.from_bytes(value)
        if positions is None:
            row = int(np.flatnonzero(index == number)[0])
            raise HistoricalReadError(f"column '{POSITIONS}', row {row}: these bytes are no positions that this Tidemark can read")
        found.append(positions)
    return found, index


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _refuse_null(column: pa.ChunkedArray, name: str) -> None:
    if column.null_count:
        row = int(np.flatnonzero(~_valid(column))[0])
        more = f" (and {column.null_count - 1} more)" if column.null_count > 1 else ""
        raise HistoricalReadError(f"column '{name}' of the entity frame is empty in row {row}{more}")


def _valid(column: pa.ChunkedArray) -> np.ndarray:
    return column.is_valid().to_numpy()


def _whole(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy().astype(np.int64, copy=False)
