"""What a run leads to, in one form whoever computed it: sequences, counters and labels as sorted integer tables that must be equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks._measure import CheckFailedError
from flows.export import export_features, export_labels
from flows.features import PIN_COUNTERS, USER_COUNTERS
from flows.kernels.layout import NEVER
from flows.kernels.reads import counters, group_bounds
from flows.kernels.rows import fold_sums, sort_rows
from flows.reading import FeatureReader
from flows.settings import DAY_MS, HOUR_MS, Settings

Outcome = dict[str, np.ndarray]
"""Name → int64[n, columns].

sequences : user_id, rank (0 is the newest), pin_id, action, surface, event_time, duration_ms
users, pins : the entity, then its 24 counters; only entities with a credited revisit
labels : user_id, pin_id, save_time, surface, three labels, first_revisit_time (NEVER for none)
"""


def check_equal(one: Outcome, another: Outcome, names: str) -> None:
    """Raise unless two outcomes are the same to the last value."""
    for table in sorted(one.keys() | another.keys()):
        a, b = one[table], another[table]
        if a.shape != b.shape:
            raise CheckFailedError(f"{names}: {table} have {len(a)} and {len(b)} rows")
        if not np.array_equal(a, b):
            row, column = np.argwhere(a != b)[0]
            raise CheckFailedError(f"{names}: {table} differ, first in row {row}, column {column}: {a[row].tolist()} and {b[row].tolist()}")


def values(outcome: Outcome) -> int:
    """How many values a comparison of an outcome compares."""
    return sum(table.size for table in outcome.values())


def ordered(rows: np.ndarray) -> np.ndarray:
    """Rows sorted by all their columns."""
    return rows[np.lexsort(rows.T[::-1])] if len(rows) else rows


def counted(rows: np.ndarray, as_of: int) -> np.ndarray:
    """Entities and their counters at a time, of unsorted revisit rows (entity, other, kind, time, weight)."""
    rows = fold_sums(sort_rows(np.ascontiguousarray(rows, np.int64), 4), 4)
    bounds = group_bounds(rows[:, 0])
    if len(bounds) == 1:
        return np.empty((0, 1 + len(PIN_COUNTERS)), np.int64)
    numbers, present = counters(rows, bounds, as_of)
    return np.column_stack([rows[bounds[:-1], 0], numbers])[present]


def labelled(saves: np.ndarray) -> np.ndarray:
    """Labels of saves, of rows user_id, pin_id, save_time, surface, first_impression, first_click (NEVER for none)."""
    time, impression, click = saves[:, 2], saves[:, 4], saves[:, 5]
    labels = [impression < time + DAY_MS, click < time + DAY_MS, click != NEVER, np.minimum(impression, click)]
    return ordered(np.column_stack([saves[:, :4], *labels]).astype(np.int64))


def ranked(entries: np.ndarray, length: int) -> np.ndarray:
    """Sequences of rows user_id, event_time, event_id, pin_id, action, surface, duration_ms that are sorted by the first three."""
    bounds = group_bounds(entries[:, 0])
    ends = np.repeat(bounds[1:], np.diff(bounds))
    rank = ends - 1 - np.arange(len(entries))
    table = np.column_stack([entries[:, 0], rank, entries[:, 3], entries[:, 4], entries[:, 5], entries[:, 1], entries[:, 6]])
    return ordered(table[rank < length])


def exported(settings: Settings, scratch: Path) -> Outcome:
    """What a data directory's exports say at the newest event."""
    scratch.mkdir(parents=True, exist_ok=True)
    with FeatureReader(settings) as reader:
        as_of = reader.default_as_of() or 0
        for entity in ("user", "pin"):
            export_features(reader, entity, as_of, scratch / entity)
        export_labels(reader, as_of, scratch / "labels")
    vocabulary = settings.load_vocabulary()
    users, pins, labels = (pq.read_table(scratch / name) for name in ("user", "pin", "labels"))

    lists = {
        name: users.column(f"sequence_{name}").combine_chunks() for name in ("pin_id", "action", "surface", "event_time", "duration_ms")
    }
    lengths = lists["pin_id"].value_lengths().to_numpy()
    flat = {name: values.flatten() for name, values in lists.items()}
    user = np.repeat(users.column("user_id").to_numpy(), lengths)
    rank = np.arange(len(user)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    numbers = {name: values.to_numpy() for name, values in flat.items() if name not in ("action", "surface")}
    action = [vocabulary.actions[text] for text in flat["action"].to_pylist()]
    surface = [vocabulary.surfaces[text] for text in flat["surface"].to_pylist()]
    table = [user, rank, numbers["pin_id"], action, surface, numbers["event_time"], numbers["duration_ms"]]

    of_users = np.column_stack([users.column(name).to_numpy() for name in ("user_id", *USER_COUNTERS)])
    of_pins = np.column_stack([pins.column(name).to_numpy() for name in ("pin_id", *PIN_COUNTERS)])
    saved_on = [vocabulary.surfaces[text] for text in labels.column("save_surface").to_pylist()]
    first = labels.column("first_revisit_time").fill_null(int(NEVER)).to_numpy()
    flags = [labels.column(name).to_numpy().astype(np.int64) for name in ("label_1dRevImpre", "label_1dRevGrid", "label_7dRevGrid")]
    of_saves = [*(labels.column(name).to_numpy() for name in ("user_id", "pin_id", "save_time")), saved_on, *flags, first]
    return {
        "sequences": ordered(np.column_stack(table).astype(np.int64)),
        # A user without revisits is exported for the sequence's sake; all of a stream shorter than 90 days that has any shows it.
        "users": ordered(of_users[of_users[:, 1:].any(axis=1)]),
        "pins": ordered(of_pins[of_pins[:, 1:].any(axis=1)]),
        "labels": ordered(np.column_stack(of_saves).astype(np.int64)),
    }


def on_the_hour(time: int) -> int:
    """The beginning of a time's hour, for those who keep no more."""
    return time // HOUR_MS * HOUR_MS
