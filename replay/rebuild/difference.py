"""What two states of one task say differently: rows, entities, and the features that are made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from flows.errors import DataDirectoryError
from flows.features import PIN_COUNTERS, TOPIC_STATS, USER_COUNTERS
from flows.kernels.reads import counters, newest, topic_statistics
from flows.kernels.rows import CUT, OFFSET_SHIFT, SEQUENCE_CODES, fold_sums, merge_rows, sort_rows
from flows.log import Log
from flows.outputs import ACTIONS
from flows.settings import Settings
from flows.state import tables
from flows.state.actions_task import merged_labels, resumed, topics_in
from flows.state.meta import Meta
from flows.state.runs import BLOCK_ROWS, Run, RunReader, Table
from flows.state.view import TaskView
from flows.vocabulary import Vocabulary

_SLICE_ROWS = 1 << 18
# Of the largest changes that are shown.
LARGEST = 10


@dataclass(frozen=True)
class State:
    """A state that stands still.

    Attributes
    ----------
    runs : RunReader
    meta : Meta
    labels : int64[n, 8]
        Of every save, sorted, for a task of the actions flow.
    topics : mapping of int to str
        Names of its topics.
    """

    runs: RunReader
    meta: Meta
    labels: np.ndarray
    topics: Mapping[int, str] = field(default_factory=dict)

    def manifest(self, table: Table) -> list[Run]:
        """The table's runs."""
        return self.meta.manifest.get(table.name, [])

    def rows(self, table: Table, entities: np.ndarray) -> np.ndarray:
        """Folded rows of some entities (ascending)."""
        rows = self.runs.rows_of(table, self.manifest(table), entities)
        return table.fold(rows) if table.fold is not None else rows


@dataclass(frozen=True, order=True)
class Change:
    """A feature of an entity, in one state and in the other."""

    by: float
    entity: str
    feature: str
    before: float
    after: float


@dataclass
class Difference:
    """What differs.

    Attributes
    ----------
    entities : dict of str to int
        users, pins, topics, saves: how many.
    features : dict of str to int
        Of how many entities each feature has another value.
    largest : list of Change
        The largest changes, the largest first.
    """

    entities: dict[str, int] = field(default_factory=dict)
    features: dict[str, int] = field(default_factory=dict)
    largest: list[Change] = field(default_factory=list)

    def add(self, other: Difference) -> None:
        """Add what differs in another task."""
        for mine, theirs in ((self.entities, other.entities), (self.features, other.features)):
            for name, n in theirs.items():
                mine[name] = mine.get(name, 0) + n
        self.largest = sorted([*self.largest, *other.largest], reverse=True)[:LARGEST]

    def note(self, entity: str, entities: np.ndarray, names: tuple[str, ...], before: np.ndarray, after: np.ndarray) -> None:
        """Note feature values float or int[n, features] of n entities in either state."""
        changed = before != after
        for i in np.flatnonzero(changed.any(axis=0)):
            self.features[names[i]] = self.features.get(names[i], 0) + int(changed[:, i].sum())
        by = np.abs(after.astype(np.float64) - before)
        for flat in np.argsort(by, axis=None)[::-1][:LARGEST]:
            row, column = np.unravel_index(flat, by.shape)
            if by[row, column] > 0:
                self.largest.append(
                    Change(
                        float(by[row, column]),
                        f"{entity} {entities[row]}",
                        names[column],
                        float(before[row, column]),
                        float(after[row, column]),
                    )
                )
        self.largest = sorted(self.largest, reverse=True)[:LARGEST]

    def __bool__(self) -> bool:
        return any(self.entities.values())


def state_of(settings: Settings, vocabulary: Vocabulary, view: TaskView, log: Log) -> State:
    """What a task's state says, at the commit where its view stands.

    Parameters
    ----------
    log : Log
        The task's input: saves that can still change are kept by position alone.
    """
    meta, labels = view.meta, np.empty((0, tables.LABELS.columns), np.int64)
    if meta is None:
        raise DataDirectoryError(f"there is no state in {view.path} yet")
    if meta.flow == ACTIONS:
        judge = resumed(settings, vocabulary, view, meta, log)
        labels = merged_labels(view.runs.scan(tables.LABELS, meta.manifest.get(tables.LABELS.name, [])), judge.working_set)
    return State(view.runs, meta, labels, topics_in(view))


def cuts(table: Table, *states: State) -> Iterator[tuple[int | None, int | None]]:
    """Ranges of entities that hold not too many rows in any of some states."""
    runs = [(state, run) for state in states for run in state.manifest(table)]
    if not runs:
        return
    state, largest = max(runs, key=lambda found: found[1].rows)
    step = max(1, _SLICE_ROWS // (BLOCK_ROWS * len(runs)))
    at = [int(c) for c in np.unique(state.runs.index(largest)[step::step])]
    yield from zip([None, *at], [*at, None], strict=True)


def folded(table: Table, state: State, low: int | None, high: int | None) -> np.ndarray:
    """A table's rows of a range of entities."""
    parts = [state.runs.rows_between(table, run, low, high) for run in state.manifest(table)]
    rows = merge_rows([np.empty((0, table.columns), np.int64), *parts], table.keys) if parts else np.empty((0, table.columns), np.int64)
    return table.fold(rows) if table.fold is not None else rows


def only_in_one(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rows that are in one of two arrays alone, int64[n, columns + 1]: the last column is −1 for those of `a`, 1 for those of `b`."""
    both = np.concatenate([np.column_stack([a, np.full(len(a), -1)]), np.column_stack([b, np.full(len(b), 1)])])
    keys = both.shape[1] - 1
    return fold_sums(sort_rows(np.ascontiguousarray(both), keys), keys)


def moved(a: State, b: State, before: int) -> np.ndarray:
    """By how much the weights of revisits differ, from `a` to `b`: int64[n, 5], rows of tables.REVISITS.

    Parameters
    ----------
    before : int
        Revisits whose hour ended by then are left out, ms: either state may have dropped them.
    """
    parts = [np.empty((0, tables.REVISITS.columns), np.int64)]
    for low, high in cuts(tables.REVISITS, a, b):
        parts.append(_moved(folded(tables.REVISITS, a, low, high), folded(tables.REVISITS, b, low, high), before))
    return np.concatenate(parts)


def rows_moved(rows: np.ndarray, b: State, before: int) -> np.ndarray:
    """The same, from all the folded rows of revisits that another source has."""
    return _moved(rows, folded(tables.REVISITS, b, None, None), before)


def _moved(old: np.ndarray, new: np.ndarray, before: int) -> np.ndarray:
    old = old.copy()
    old[:, -1] *= -1
    rows = fold_sums(merge_rows([old, new], tables.REVISITS.keys), tables.REVISITS.keys)
    return tables.canonical(tables.REVISITS, rows, before)[0]


def changed_entities(table: Table, a: State, b: State, before: int) -> np.ndarray:
    """Entities of a table whose rows differ, ascending: int64[n]."""
    found = [np.empty(0, np.int64)]
    for low, high in cuts(table, a, b):
        old, new = (_said(table, folded(table, state, low, high), before) for state in (a, b))
        if all(np.array_equal(x, y) for x, y in zip(old, new, strict=True)):
            continue
        found.append(only_in_one(old[0], new[0])[:, 0])
        if len(old) > 1:
            found.append(np.setxor1d(old[1], new[1]))
    return np.unique(np.concatenate(found))


def _said(table: Table, rows: np.ndarray, before: int) -> list[np.ndarray]:
    """As `tables.canonical`, without the offsets by which ties are broken: another log may hold the same events."""
    parts = tables.canonical(table, rows, before)
    if table is tables.SEQUENCES:
        parts[0][:, SEQUENCE_CODES] &= (1 << OFFSET_SHIFT) - 1
    return parts


def difference(a: State, b: State, before: int, as_of: int) -> Difference:
    """What two states of a task say differently.

    Parameters
    ----------
    before : int
        As of `moved`.
    as_of : int
        When features are compared, ms; not before either state's watermark.
    """
    found = Difference()
    if a.meta.flow != ACTIONS:
        pins = changed_entities(tables.REVISITS, a, b, before)
        found.entities["pins"] = len(pins)
        _counters(found, "pin", pins, PIN_COUNTERS, a, b, as_of)
        return found
    sequences = changed_entities(tables.SEQUENCES, a, b, before)
    revisits = changed_entities(tables.REVISITS, a, b, before)
    labels = only_in_one(a.labels, b.labels)
    saves = np.unique(labels[:, :4], axis=0)
    topics = changed_entities(tables.TILES, a, b, before)
    found.entities = {
        "users": len(np.unique(np.concatenate([sequences, revisits, labels[:, 0]]))),
        "saves": len(saves),
        "topics": len(topics),
    }
    found.features["labels"] = len(saves)
    if len(sequences):
        entries = [_entries(state, sequences, as_of) for state in (a, b)]
        differing = np.array([[len(set(old) ^ set(new))] for old, new in zip(*entries, strict=True)], np.int64)
        found.note("user", sequences, ("action_sequence (entries that differ)",), np.zeros_like(differing), differing)
    _counters(found, "user", revisits, USER_COUNTERS, a, b, as_of)
    if len(topics):
        values = [_topics(state, topics, as_of) for state in (a, b)]
        known = {**a.topics, **b.topics}
        found.note(
            "topic", np.array([known.get(int(topic), str(topic)) for topic in topics]), tuple(name for name, _ in TOPIC_STATS), *values
        )
    found.features = {name: n for name, n in found.features.items() if n}
    return found


def _entries(state: State, users: np.ndarray, as_of: int) -> list[list[tuple[int, ...]]]:
    rows = state.rows(tables.SEQUENCES, users)
    index, offsets, _ = newest(rows, bounds(rows, users), as_of)
    rows[:, SEQUENCE_CODES] &= CUT - 1
    taken = rows[index].tolist()
    return [list(map(tuple, taken[offsets[i] : offsets[i + 1]])) for i in range(len(users))]


def _counters(found: Difference, entity: str, entities: np.ndarray, names: tuple[str, ...], a: State, b: State, as_of: int) -> None:
    if len(entities):
        values = []
        for state in (a, b):
            rows = state.rows(tables.REVISITS, entities)
            values.append(counters(rows, bounds(rows, entities), as_of)[0])
        found.note(entity, entities, names, *values)


def _topics(state: State, topics: np.ndarray, as_of: int) -> np.ndarray:
    rows = state.rows(tables.TILES, topics)
    return topic_statistics(rows, bounds(rows, topics), as_of)


def bounds(rows: np.ndarray, entities: np.ndarray) -> np.ndarray:
    """Where the rows of each entity lie, of rows of these entities alone: int64[n + 1]."""
    return np.concatenate([np.searchsorted(rows[:, 0], entities, "left"), [len(rows)]]).astype(np.int64)
