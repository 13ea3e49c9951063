"""A training set as one side of a comparison: a Parquet file with the columns that `get_historical_features` gives.

Columns are `view__feature`, or features alone where their entity says which view is meant. A null means that there was nothing, which
models read as 0.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.errors import FingerprintError, InputError
from flows.skew.names import COLUMNS, ENTITY, KINDS, SEQUENCE, USER, VIEWS
from flows.skew.sides import Coded, Side

FINGERPRINT = b"tidemark.fingerprint"
"""In a file's metadata, if whoever wrote it says under which definitions and settings its values were made."""
_KEYS = {"user": "user_id", "pin": "pin_id", "topic": "topic"}
_TIME = "event_timestamp"
_AS_OF = "tidemark_as_of"  # of rows that were served: what their sequences' ages count from, as those of SERVED do
_BATCH_ROWS = 32_768
_NONE: Coded = (np.empty(0, np.int64), [])


def of_training(
    path: Path,
    fingerprint: str | None,
    told: tuple[Callable[[int], None], Callable[[int], None]] = (lambda n: None, lambda n: None),
) -> Side:
    """What a training set says of each feature.

    Parameters
    ----------
    path : Path
        Parquet.
    fingerprint : str or None
        What the file must have been made under, if it says so; None: whatever.
    told : (callable, callable)
        Called with how many rows there are, and with how many have just been read.

    Raises
    ------
    InputError
        It can't be read, or has no column of any feature.
    FingerprintError
        It was made under other definitions or settings.
    """
    side = Side(f"training set {path.name}")
    try:
        with pq.ParquetFile(path) as file:
            _refuse_other(path, file.schema_arrow, fingerprint)
            columns = _columns(path, file.schema_arrow)
            told[0](file.metadata.num_rows)
            times = {_TIME, _AS_OF} & set(file.schema_arrow.names)
            wanted = sorted({name for of in columns.values() for name in of.values()} | times)
            for batch in file.iter_batches(_BATCH_ROWS, columns=wanted):
                _add(side, batch, columns)
                told[1](batch.num_rows)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"can't read training set {path}: {error}; give a Parquet file of `get_historical_features`") from error
    return side


def _refuse_other(path: Path, schema: pa.Schema, fingerprint: str | None) -> None:
    said = (schema.metadata or {}).get(FINGERPRINT)
    if fingerprint is not None and said is not None and said.decode("utf-8", "replace") != fingerprint:
        raise FingerprintError(
            f"training set {path} was made under other features or settings (fingerprint {said.decode('utf-8', 'replace')}, now {fingerprint}): "
            "make it anew, or take it all the same with --any-fingerprint"
        )


def _columns(path: Path, schema: pa.Schema) -> dict[str, dict[int, str]]:
    """By kind: which column of the file is which feature."""
    names = set(schema.names)
    out: dict[str, dict[int, str]] = {}
    for kind in KINDS:
        for place, feature in enumerate(COLUMNS[kind]):
            full = f"{VIEWS[kind]}__{feature}"
            if full in names:
                out.setdefault(kind, {})[place] = full
            elif feature in names and _means(kind, feature, names):
                out.setdefault(kind, {})[place] = feature
    if not out:
        raise InputError(
            f"training set {path} has no column of any feature; its columns are {', '.join(schema.names[:8])}…: give a Parquet file of "
            "`get_historical_features`, best with full_feature_names=True"
        )
    return out


def _means(kind: str, feature: str, names: set[str]) -> bool:
    """Whether a feature's name alone, which users and pins may share, means this kind."""
    sharing = [other for other in KINDS if feature in COLUMNS[other]]
    if len(sharing) == 1:
        return True
    there = [other for other in sharing if _KEYS[ENTITY[other]] in names]
    return there == [kind]


def _add(side: Side, batch: pa.RecordBatch, columns: dict[str, dict[int, str]]) -> None:
    side.records += batch.num_rows
    at = _times(batch, _TIME)
    as_of = _times(batch, _AS_OF, at)
    for kind, of in columns.items():
        if kind == SEQUENCE:
            _add_sequences(side, batch, of, at, as_of)
            continue
        values = np.zeros((batch.num_rows, len(COLUMNS[kind])), np.float64)
        there = np.zeros(values.shape, np.bool_)
        asked = np.zeros(len(COLUMNS[kind]), np.bool_)
        for place, name in of.items():
            column = batch.column(name)
            there[:, place] = column.is_valid().to_numpy(zero_copy_only=False)
            values[:, place] = column.fill_null(0).to_numpy(zero_copy_only=False)
            asked[place] = True
        if kind == USER:
            there &= values.any(axis=1, keepdims=True)
        side.add_numbers(kind, values, there, np.zeros(batch.num_rows, np.bool_), asked)


def _times(batch: pa.RecordBatch, name: str, otherwise: np.ndarray | None = None) -> np.ndarray | None:
    """A column of times in ms, however it is typed; where it says nothing, or isn't there, those of another."""
    if name not in batch.schema.names:
        return otherwise
    column = batch.column(name)
    if pa.types.is_timestamp(column.type):
        column = pc.cast(column, pa.timestamp("ms"), safe=False)
    said = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return said if otherwise is None else np.where(column.is_valid().to_numpy(zero_copy_only=False), said, otherwise)


def _add_sequences(side: Side, batch: pa.RecordBatch, of: dict[int, str], at: np.ndarray | None, as_of: np.ndarray | None) -> None:
    names = {COLUMNS[SEQUENCE][place]: name for place, name in of.items()}
    lists = batch.column(next(iter(names.values())))
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    numbers, some = np.zeros((len(lengths), 2), np.int64), lengths > 0
    numbers[:, 0] = lengths
    asked = np.array([True, "sequence_event_time" in names and as_of is not None])
    if asked[1] and as_of is not None:
        flat = batch.column(names["sequence_event_time"]).flatten().to_numpy(zero_copy_only=False)
        first = np.concatenate([[0], np.cumsum(lengths)])[:-1][some]
        numbers[some, 1] = as_of[some] - flat[first]
    side.add_numbers(SEQUENCE, numbers, np.column_stack([np.ones(len(some), np.bool_), some]), np.zeros(len(some), np.bool_), asked)
    times = np.repeat(at, lengths) if at is not None else None
    action, surface = (_coded(batch.column(names[name])) if name in names else _NONE for name in ("sequence_action", "sequence_surface"))
    side.add_entries(action, surface, times if len(action[0]) else None)


def _coded(lists: pa.Array) -> Coded:
    flat = lists.flatten().dictionary_encode()
    return flat.indices.to_numpy(zero_copy_only=False).astype(np.int64), [str(name) for name in flat.dictionary.to_pylist()]
