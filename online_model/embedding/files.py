"""Actions out of files that never were in a log: a table of events, or users and items in order and nothing else. For evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from flows.errors import InputError
from flows.events import ids_of
from online_model.embedding.model import CODES
from online_model.embedding.sequences import UserSequences, sequences_of

EVENT, ANYWHERE = "event", "anywhere"
"""The action and the surface of files that tell none."""
_STEP_MS = 1_000


def read_events(path: Path, user: str = "user", item: str = "item", action: str = "action", time: str = "ts") -> UserSequences:
    """A Parquet file of events.

    Parameters
    ----------
    path : Path
    user, item, action, time : str
        Columns; the time in ms since 1970. Actions get codes by their names' order.

    Raises
    ------
    InputError
        It can't be read, lacks a column, or a column has nulls or is of a type that makes no sense.
    """
    names = [user, item, action, time]
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"events {path}: can't be read ({str(error).splitlines()[0]}); give a Parquet file") from error
    for name in names:
        if name not in table.column_names:
            raise InputError(f"events {path}: there is no column '{name}'; it has {', '.join(table.column_names)}")
        if table.column(name).null_count:
            raise InputError(f"events {path}: column '{name}' has nulls; leave out such events")
    users, items, actions, times = (table.column(name).combine_chunks() for name in names)
    if not pa.types.is_integer(times.type):
        raise InputError(f"events {path}: column '{time}' is {times.type}; give whole ms since 1970")
    said = actions.cast(pa.string()).to_numpy(zero_copy_only=False).astype(str)
    known, code = np.unique(said, return_inverse=True)
    if len(known) > CODES:
        raise InputError(f"events {path}: column '{action}' has {len(known)} different actions; there may be {CODES}")
    none = np.zeros(len(said), np.int64)
    codes = {str(name): i for i, name in enumerate(known)}
    return sequences_of(_ids(users), _ids(items), code, none, none, times.to_numpy(zero_copy_only=False), codes, {ANYWHERE: 0})


def read_pairs(path: Path) -> UserSequences:
    """A text file with a user and an item on each line, a user's lines in the order of the actions; times are a second apart.

    Raises
    ------
    InputError
        It can't be read, or a line has not two words.
    """
    options = {
        "read_options": csv.ReadOptions(column_names=["user", "item"]),
        "parse_options": csv.ParseOptions(delimiter=" "),
        "convert_options": csv.ConvertOptions(column_types={"user": pa.string(), "item": pa.string()}),
    }
    try:
        table = csv.read_csv(path, **options)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"pairs {path}: can't be read ({str(error).splitlines()[0]}); each line is: user item") from error
    users, items = (_ids(table.column(name).combine_chunks()) for name in ("user", "item"))
    order = np.argsort(users, kind="stable")
    owner = users[order]
    first = np.flatnonzero(np.diff(owner, prepend=owner[0] - 1 if len(owner) else 0))
    since = np.arange(len(owner)) - np.repeat(first, np.diff(np.append(first, len(owner))))
    none = np.zeros(len(owner), np.int64)
    return sequences_of(owner, items[order], none, none, none, since * _STEP_MS, {EVENT: 0}, {ANYWHERE: 0})


def _ids(column: pa.Array) -> np.ndarray:
    return (
        column.to_numpy(zero_copy_only=False).astype(np.int64)
        if pa.types.is_integer(column.type)
        else ids_of(column.cast(pa.string()).to_pylist())
    )
