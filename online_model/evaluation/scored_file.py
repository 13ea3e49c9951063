"""Scored rows from a Parquet file. What columns it may have is told in docs/evaluation.md; whatever lacks or is of another type is named at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.errors import InputError
from flows.examples.record import MASKED
from online_model.evaluation.scored import ScoredRows, scored_rows

_KEYS = ("user_id", "request_id", "pin_id", "request_time")
_LABEL, _SCORE = "label_", "score_"
_YEAR_10000 = 253_402_300_800_000
_WANTED = "user_id, request_id, pin_id, request_time, label_HEAD and score_HEAD of at least one head (or `score`)"


@dataclass(frozen=True, eq=False)
class ScoredFile:
    """What a file holds.

    Attributes
    ----------
    rows : ScoredRows
    left_out : tuple of str
        Columns of a head that lacks its label or its score.
    first_action_time : bool
        Whether the file says when users acted first.
    """

    rows: ScoredRows
    left_out: tuple[str, ...]
    first_action_time: bool


def read_scored(path: Path, by_head: bool = False) -> ScoredFile:
    """Read a file.

    Parameters
    ----------
    path : Path
    by_head : bool
        Rank by each head's own score, also where there is a column `score`.

    Raises
    ------
    InputError
        It can't be read, lacks a column, or holds what no metric can be made of.
    """
    try:
        names = pq.read_schema(path).names
        heads, left_out, score = _heads(path, names, by_head)
        optional = [name for name in ("topic", "first_action_time") if name in names]
        labels, scores = [f"{_LABEL}{head}" for head in heads], [f"{_SCORE}{head}" for head in heads if f"{_SCORE}{head}" in names]
        table = pq.read_table(path, columns=[*_KEYS, *optional, *labels, *scores, *(["score"] if score else [])]).combine_chunks()
        if not table.num_rows:
            raise InputError(f"scored rows {path}: there are no rows, so there is nothing to evaluate; give scored rows")
        read = _Reader(path, table)
        rows = scored_rows(
            user_id=read.integers("user_id"),
            request_id=read.text("request_id"),
            pin_id=read.integers("pin_id"),
            request_time=read.times("request_time"),
            labels={head: read.label(f"{_LABEL}{head}") for head in heads},
            probabilities={name.removeprefix(_SCORE): read.floats(name) for name in scores},
            score=read.floats("score") if score else None,
            topic=read.topic() if "topic" in names else None,
            first_seen=read.times("first_action_time") if "first_action_time" in names else None,
            where=f"scored rows {path}",
        )
        return ScoredFile(rows, left_out, "first_action_time" in names)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"can't read scored rows {path}: {' '.join(str(error).split())}; give a Parquet file with {_WANTED}") from error


def _heads(path: Path, names: list[str], by_head: bool) -> tuple[list[str], tuple[str, ...], bool]:
    """Heads, columns of those that lack something, and whether all are ranked by the column `score`."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"scored rows {path} has several columns of one name: {', '.join(twice)}; name each once")
    score = "score" in names and not by_head
    labels, scores = (
        [name.removeprefix(prefix) for name in names if name.startswith(prefix) and name != prefix] for prefix in (_LABEL, _SCORE)
    )
    heads = [head for head in labels if score or head in scores]
    missing = [name for name in _KEYS if name not in names]
    if not heads:
        missing.append("label_HEAD with its score_HEAD")
    if missing:
        raise InputError(
            f"scored rows {path} lacks {', '.join(missing)}; it has {', '.join(names[:12]) or 'no columns'}; wanted are {_WANTED}"
        )
    lacking = [f"{_LABEL}{head}" for head in labels if head not in heads] + [f"{_SCORE}{head}" for head in scores if head not in labels]
    return heads, tuple(lacking), score


class _Reader:
    """Columns of a table, each checked as it is taken."""

    def __init__(self, path: Path, table: pa.Table) -> None:
        self._path, self._table = path, table

    def integers(self, name: str) -> np.ndarray:
        """int64[n]; timestamps become ms."""
        column = self._column(name)
        if pa.types.is_timestamp(column.type):
            column = pc.cast(column, pa.timestamp("ms", column.type.tz), safe=False).cast(pa.int64())
        if not pa.types.is_integer(column.type):
            raise self._other(name, column.type, "whole numbers" + (" (ms) or timestamps" if name.endswith("_time") else ""))
        self._refuse_nulls(name, column)
        try:
            return column.cast(pa.int64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid as error:
            raise self._other(name, column.type, "whole numbers within 64 bits") from error

    def times(self, name: str) -> np.ndarray:
        """int64[n], ms, of years that there are."""
        values = self.integers(name)
        wrong = (values < 0) | (values >= _YEAR_10000)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise InputError(
                f"scored rows {self._path}: {name} is {values[at]} in row {at}, which is no time in ms since 1970; give such (or timestamps)"
            )
        return values

    def text(self, name: str) -> pa.Array:
        """Strings; whole numbers become some."""
        column = self._column(name)
        if not (pa.types.is_integer(column.type) or _is_text(column.type)):
            raise self._other(name, column.type, "texts")
        self._refuse_nulls(name, column)
        return column.cast(pa.string())

    def floats(self, name: str) -> np.ndarray:
        """float64[n]; null is nan."""
        column = self._column(name)
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
            raise self._other(name, column.type, "numbers")
        return column.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)

    def label(self, name: str) -> np.ndarray:
        """int64[n]; null is MASKED."""
        column = self._column(name)
        if pa.types.is_boolean(column.type) or pa.types.is_null(column.type):
            column = column.cast(pa.int8())
        if not pa.types.is_integer(column.type):
            raise self._other(name, column.type, f"0, 1, or {MASKED} for not known, as whole numbers")
        return column.cast(pa.int64()).fill_null(MASKED).to_numpy(zero_copy_only=False)

    def topic(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """Codes, -1 for null, and what they stand for."""
        column = self._column("topic")
        if not (pa.types.is_integer(column.type) or pa.types.is_null(column.type) or _is_text(column.type)):
            raise self._other("topic", column.type, "texts")
        coded = column.cast(pa.string()).dictionary_encode()
        return coded.indices.fill_null(-1).to_numpy(zero_copy_only=False), tuple(coded.dictionary.to_pylist())

    def _column(self, name: str) -> pa.Array:
        column = self._table.column(name)
        one = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
        return one.cast(one.type.value_type) if pa.types.is_dictionary(one.type) else one

    def _refuse_nulls(self, name: str, column: pa.Array) -> None:
        if column.null_count:
            raise InputError(f"scored rows {self._path}: {name} is null in {column.null_count:,} rows; give it in every row")

    def _other(self, name: str, found: pa.DataType, wanted: str) -> InputError:
        return InputError(f"scored rows {self._path}: {name} is of type {found}; give {wanted}")


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
