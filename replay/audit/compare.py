"""Where state and log differ: rows of each sampled entity, folded and with expiry applied, as a digest takes them, bit by bit."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.kernels.layout import LABEL_COLUMNS, NEVER, TILE_COLUMNS
from flows.kernels.reads import group_bounds
from flows.kernels.rows import OFFSET_SHIFT
from flows.state import tables
from flows.state.runs import Table
from flows.vocabulary import Vocabulary
from replay.audit.said import PIN

# Rows of each side that a mismatch shows.
_SHOWN = 5


@dataclass(frozen=True)
class Mismatch:
    """An entity of which state and log say different things.

    Attributes
    ----------
    task : str
    entity : str
        Kind and ID, or a topic's name: ``user 17``, ``topic art``.
    table : str
    position : int
        The task's, which both sides are at.
    state, log : list of dict
        Rows that only one of them has, at most a few.
    more : int
        Such rows that are not shown.
    what : str
        In words.
    """

    task: str
    entity: str
    table: str
    position: int
    state: list[dict[str, Any]]
    log: list[dict[str, Any]]
    more: int
    what: str


@dataclass(frozen=True)
class Difference:
    """Rows of an entity that only one side has: int64[n, columns] each."""

    entity: int
    state: np.ndarray
    log: np.ndarray


def differences(table: Table, state: np.ndarray, log: np.ndarray, before: int) -> Iterator[Difference]:
    """Of each entity that is not the same on both sides.

    Parameters
    ----------
    state, log : int64[n, columns]
        Sorted, folded rows.
    before : int
        See `flows.state.tables.expiry`.
    """
    of_state, of_log = tables.canonical(table, state, before), tables.canonical(table, log, before)
    if all(np.array_equal(a, b) for a, b in zip(of_state, of_log, strict=True)):
        return
    here, there = _by_entity(of_state[0]), _by_entity(of_log[0])
    none = np.empty((0, table.columns), np.int64)
    told = set()
    for entity in sorted(here.keys() | there.keys()):
        a, b = here.get(entity, none), there.get(entity, none)
        if not np.array_equal(a, b):
            told.add(entity)
            yield Difference(entity, _without(a, b), _without(b, a))
    for a, b in zip(of_state[1:], of_log[1:], strict=True):
        for entity in np.setxor1d(a, b).tolist():
            if entity not in told:
                # All of its rows are out of every window; one side doesn't know that it was ever there.
                yield Difference(entity, state[state[:, 0] == entity], log[log[:, 0] == entity])


def shown(kind: str, table: Table, row: np.ndarray, vocabulary: Vocabulary) -> dict[str, Any]:
    """A row for people: without its entity, codes by name."""
    values = [int(value) for value in row]
    if table is tables.SEQUENCES:
        _, event_time, event_id, codes, pin_id, duration_ms = values
        return {
            "event_time": event_time,
            "event_id": event_id,
            "action": vocabulary.action_names().get(codes & 0xFF, codes & 0xFF),
            "surface": vocabulary.surface_names().get(codes >> 8 & 0xFF, codes >> 8 & 0xFF),
            "offset": codes >> OFFSET_SHIFT,
            "pin_id": pin_id,
            "duration_ms": duration_ms,
        }
    if table is tables.REVISITS:
        _, other, code, time, weight = values
        what = {"type": "click" if code & 1 else "impression", "rp": bool(code & 2), "time": time, "weight": weight}
        return {"user_id" if kind == PIN else "pin_id": other, **what}
    if table is tables.LABELS:
        return {name: None if value == NEVER else value for name, value in zip(LABEL_COLUMNS[1:], values[1:], strict=True)}
    return dict(zip(TILE_COLUMNS[1:], values[1:], strict=True))


def told(task: str, kind: str, name: str, table: Table, position: int, found: Difference, vocabulary: Vocabulary) -> Mismatch:
    """A difference in words."""
    n, m = len(found.state), len(found.log)
    if n and m:
        what = f"state has {_rows(n)} that the log doesn't lead to, and lacks {m}"
    elif m:
        what = f"state lacks {_rows(m)}"
    else:
        what = f"state has {_rows(n)} that the log doesn't lead to"
    return Mismatch(
        task,
        f"{kind} {name}",
        table.name,
        position,
        [shown(kind, table, row, vocabulary) for row in found.state[:_SHOWN]],
        [shown(kind, table, row, vocabulary) for row in found.log[:_SHOWN]],
        max(n - _SHOWN, 0) + max(m - _SHOWN, 0),
        what,
    )


def _rows(n: int) -> str:
    return f"{n:,} row{'s' * (n != 1)}"


def _by_entity(rows: np.ndarray) -> dict[int, np.ndarray]:
    bounds = group_bounds(np.ascontiguousarray(rows[:, 0]))
    return {int(rows[start, 0]): rows[start:end] for start, end in itertools.pairwise(bounds)}


def _without(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Rows that the other side lacks, in order; all, where the two only differ in their order."""
    left = Counter(map(tuple, others.tolist()))
    only = []
    for row in rows.tolist():
        if left[tuple(row)]:
            left[tuple(row)] -= 1
        else:
            only.append(row)
    same = len(rows) == len(others) and not only
    return rows if same else np.array(only, np.int64).reshape(-1, rows.shape[1])
