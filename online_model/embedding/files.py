"""Actions out of files that never were in a log: a table of events, or users and items in order and nothing else. For evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from flows.errors import InputError
from flows.events import MAX_EVENT_TIME, ids_of
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
        It can't be read, lacks a column, or a column has nulls, is of a type that makes no sense or has a number that is no ID or no time.
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
    # The model takes a logarithm of a time: one before 1970 has none.
    time_ms = _whole(f"events {path}", time, times, 0, MAX_EVENT_TIME, "times are ms from 1970 to 9999; put it right, or leave it out")
    said = _texts(f"events {path}", action, actions).to_numpy(zero_copy_only=False).astype(str)
    known, code = np.unique(said, return_inverse=True)
    if len(known) > CODES:
        raise InputError(f"events {path}: column '{action}' has {len(known)} different actions; there may be {CODES}")
    none = np.zeros(len(said), np.int64)
    codes = {str(name): i for i, name in enumerate(known)}
    user_ids, item_ids = _ids(f"events {path}", user, users), _ids(f"events {path}", item, items)
    return sequences_of(user_ids, item_ids, code, none, none, time_ms, codes, {ANYWHERE: 0})


def read_pairs(path: Path) -> UserSequences:
    """A text file with a user and an item on each line, a user's lines in the order of the actions; times are a second apart.

    Raises
    ------
    InputError
        It can't be read, there is nothing in it, or a line has not two words; empty lines at the end count for nothing.
    """
    options = {
        "read_options": csv.ReadOptions(column_names=["user", "item"]),
        "parse_options": csv.ParseOptions(delimiter=" ", quote_char=False, ignore_empty_lines=True),
        "convert_options": csv.ConvertOptions(column_types={"user": pa.string(), "item": pa.string()}, strings_can_be_null=False),
    }
    try:
        table = csv.read_csv(path, **options)
    except OSError as error:
        raise InputError(f"sequences {path}: can't be read ({error.strerror or error}); give a text file of lines: user item") from error
    except pa.ArrowException as error:
        raise _bad_line(path, str(error).splitlines()[0]) from error
    if not table.num_rows:
        raise _bad_line(path, "it has no line")
    for name in ("user", "item"):
        if pc.any(pc.equal(table.column(name), "")).as_py():
            raise _bad_line(path, f"a line has no {name}")
    users, items = (_ids(f"sequences {path}", name, table.column(name).combine_chunks()) for name in ("user", "item"))
    order = np.argsort(users, kind="stable")
    owner = users[order]
    first = np.flatnonzero(np.diff(owner, prepend=owner[0] - 1 if len(owner) else 0))
    since = np.arange(len(owner)) - np.repeat(first, np.diff(np.append(first, len(owner))))
    none = np.zeros(len(owner), np.int64)
    return sequences_of(owner, items[order], none, none, none, since * _STEP_MS, {EVENT: 0}, {ANYWHERE: 0})


def _bad_line(path: Path, otherwise: str) -> InputError:
    """Which line it is that has not two words; what else is wrong where all have."""
    try:
        with path.open(encoding="utf-8") as lines:
            something = False
            for number, line in enumerate(lines, 1):
                words = line.rstrip("\r\n").split(" ")
                if words == [""]:
                    continue
                something = True
                if len(words) != 2 or not all(words):
                    said = line.strip()[:40]
                    return InputError(
                        f"sequences {path}: line {number}: '{said}' is not a user and an item, with one space between; put it right"
                    )
            if not something:
                return InputError(f"sequences {path}: there is nothing in it; give a text file of lines: user item")
    except UnicodeDecodeError as error:
        return InputError(f"sequences {path}: it is no text in UTF-8 (byte {error.start}); write it as UTF-8")
    except OSError as error:
        return InputError(f"sequences {path}: can't be read ({error.strerror or error}); give a text file of lines: user item")
    return InputError(f"sequences {path}: can't be read ({otherwise}); give a text file of lines: user item")


def _ids(where: str, name: str, column: pa.Array) -> np.ndarray:
    if pa.types.is_integer(column.type):
        return _whole(where, name, column, -(2**63), 2**63 - 1, "IDs are of 64 bits, with a sign; give another, or texts")
    return ids_of(_texts(where, name, column).to_pylist())


def _whole(where: str, name: str, column: pa.Array, least: int, most: int, advice: str) -> np.ndarray:
    """Whole numbers within bounds as int64; never wrapped."""
    values = column.to_numpy(zero_copy_only=False)
    bad = np.flatnonzero((values < least) | (values > most))
    if len(bad):
        raise InputError(f"{where}: row {bad[0]}: '{name}' is {values[bad[0]]}; {advice} (so in {len(bad):,} rows)")
    return values.astype(np.int64)


def _texts(where: str, name: str, column: pa.Array) -> pa.Array:
    try:
        return column.cast(pa.string())
    except pa.ArrowException as error:
        raise InputError(
            f"{where}: column '{name}' is {column.type}, and can't be read as texts; give texts in UTF-8, or whole numbers"
        ) from error
