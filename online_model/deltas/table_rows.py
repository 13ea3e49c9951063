"""The rows of one table as a consumer has them: what a base or a snapshot holds, with deltas applied.

Values never change in place, so that whoever reads one has one delta's rows, whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from online_model.deltas.record import TABLES, Delta
from online_model.registry.tensors import State


@dataclass(frozen=True, eq=False)
class TableRows:
    """Rows of IDs, sorted.

    Attributes
    ----------
    ids : int64[n]
        Ascending.
    weights : float32[n, d]
    default : float32[d]
        Of every ID that has no row.
    """

    ids: np.ndarray
    weights: np.ndarray
    default: np.ndarray

    @classmethod
    def of(cls, state: State) -> TableRows:
        """Of a table's state."""
        order = np.argsort(state["ids"], kind="stable")
        return cls(state["ids"][order], state["weights"][order], state["default"])

    def applied(self, ids: np.ndarray, weights: np.ndarray, deleted: np.ndarray) -> TableRows:
        """With some rows changed and others gone: int64[k] ascending, float32[k, d], int64[m]."""
        if not len(ids) and not len(deleted):
            return self
        weights = weights.reshape(len(ids), len(self.default))
        # Most rows that change are there: then only weights are copied, and the order of IDs stays.
        rows, there = self.rows_of(ids), self.ids
        old, new = rows >= 0, rows < 0
        changed = self.weights.copy()
        changed[rows[old]] = weights[old]
        if len(deleted):
            gone = self.rows_of(deleted)
            keep = np.ones(len(there), np.bool_)
            keep[gone[gone >= 0]] = False
            there, changed = there[keep], changed[keep]
        if new.any():
            at = np.searchsorted(there, ids[new])
            there, changed = np.insert(there, at, ids[new]), np.insert(changed, at, weights[new], axis=0)
        return TableRows(there, changed, self.default)

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """The place of each ID: int64[n] to int64[n]; -1: it has no row."""
        if not len(self.ids):
            return np.full(len(ids), -1, np.int64)
        at = np.searchsorted(self.ids, ids).clip(0, len(self.ids) - 1)
        return np.where(self.ids[at] == ids, at, -1)

    def gather(self, ids: np.ndarray) -> np.ndarray:
        """The row of each ID: int64[n] to float32[n, d]."""
        rows = self.rows_of(ids)
        out = np.broadcast_to(self.default, (len(ids), len(self.default))).copy()
        out[rows >= 0] = self.weights[rows[rows >= 0]]
        return out


def tables_of(states: Mapping[str, State]) -> dict[str, TableRows]:
    """Both tables of a base or a snapshot."""
    return {table: TableRows.of(states[table]) for table in TABLES}


def applied(tables: Mapping[str, TableRows], delta: Delta) -> dict[str, TableRows]:
    """Both tables behind a delta."""
    return {table: tables[table].applied(*delta.rows.of_table(table)) for table in TABLES}
