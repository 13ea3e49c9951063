"""Counts how exported values differ from the oracles': every value of both sides is looked at, whatever is missing counts too."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from tests.agreement import SEQUENCE
from tests.oracles import features as oracle

_LABELS = (
    "user_id", "pin_id", "save_time", "save_surface", "label_1dRevImpre", "label_1dRevGrid", "label_7dRevGrid", "first_revisit_time", "matured",
)  # fmt: skip


@dataclass
class Tally:
    """How many values were compared and differ, with a few examples."""

    values: int = 0
    mismatches: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, values: int, mismatches: int, example: str = "") -> None:
        """Count one comparison."""
        self.values += values
        self.mismatches += mismatches
        if mismatches and len(self.examples) < 5:
            self.examples.append(example)


def compare(exports: dict[str, pd.DataFrame], decided: pd.DataFrame, as_of: int) -> Tally:
    """Exports of all entities and labels (frames by name) with the oracles at a time."""
    tally = Tally()
    where = f"as_of {as_of}"
    users = exports["user"]
    lists = [f"sequence_{name}" for name in SEQUENCE]
    _sequences(tally, where, users, oracle.sequences(decided, as_of))
    _frames(tally, f"users {where}", users.drop(columns=lists).set_index("user_id"), oracle.counters(decided, "user", as_of))
    _frames(tally, f"pins {where}", exports["pin"].set_index("pin_id"), oracle.counters(decided, "pin", as_of))
    _frames(tally, f"topics {where}", exports["topic"].set_index("topic"), oracle.topics(decided, as_of))
    _labels(tally, where, exports["labels"], oracle.saves(decided, as_of))
    return tally


def _sequences(tally: Tally, where: str, users: pd.DataFrame, want: dict[int, list[oracle.Action]]) -> None:
    lists = [users[f"sequence_{name}"] for name in SEQUENCE]
    got = {
        user: list(zip(*(one.tolist() for one in row), strict=True)) for user, *row in zip(users["user_id"].tolist(), *lists, strict=True)
    }
    for user in want.keys() | {user for user, sequence in got.items() if sequence}:
        a, b = got.get(user, []), want.get(user, [])
        size = len(SEQUENCE) * max(len(a), len(b))
        wrong = 0 if a == b else sum(x != y for one, other in zip(a, b, strict=False) for x, y in zip(one, other, strict=True))
        wrong += len(SEQUENCE) * abs(len(a) - len(b))
        tally.add(size, wrong, f"sequence of user {user} {where}: {a[:3]} …, by the oracle {b[:3]} …")


def _frames(tally: Tally, where: str, got: pd.DataFrame, want: pd.DataFrame) -> None:
    if set(got.columns) != set(want.columns) or not got.index.is_unique:
        tally.add(want.size, want.size, f"{where}: columns {list(got.columns)}, or rows that come twice")
        return
    got = got[list(want.columns)]
    types = [name for name in want.columns if got[name].dtype != want[name].dtype]
    shared = want.index.intersection(got.index)
    alone = want.index.symmetric_difference(got.index)
    tally.add(len(alone) * want.shape[1], len(alone) * want.shape[1], f"{where}: only one side has {alone[:5].tolist()}")
    different = got.loc[shared].to_numpy() != want.loc[shared].to_numpy()
    example = ""
    if different.any():
        row, column = np.argwhere(different)[0]
        name = want.columns[column]
        example = f"{where}: {name} of {shared[row]} is {got.loc[shared[row], name]}, by the oracle {want.loc[shared[row], name]}"
    tally.add(different.size, int(different.sum()), example)
    tally.add(len(types), len(types), f"{where}: types of {types}")


def _labels(tally: Tally, where: str, got: pd.DataFrame, want: pd.DataFrame) -> None:
    if list(got.columns) != list(_LABELS):
        tally.add(len(_LABELS), len(_LABELS), f"labels {where}: columns {list(got.columns)}")
        return
    # As a multiset: a user may save a pin twice in one millisecond.
    one, other = _rows(got), _rows(want[list(_LABELS)])
    ours, theirs = one - other, other - one
    size, wrong = (max(a.total(), b.total()) * len(_LABELS) for a, b in ((one, other), (ours, theirs)))
    tally.add(size, wrong, f"labels {where}: {[*ours][:2]}, by the oracle {[*theirs][:2]}")


def _rows(frame: pd.DataFrame) -> Counter[tuple[object, ...]]:
    columns = [[None if missing else value for value, missing in zip(frame[n], frame[n].isna(), strict=True)] for n in frame.columns]
    return Counter(zip(*columns, strict=True))
