"""A table of vectors that does what it must, row by row: what a training is tested with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from online_model.training.tables import Table, Tables

DIM = 8


class PlainTable:
    def __init__(self, dim: int = DIM, admit_after: int = 2) -> None:
        self.admit_after = admit_after
        self.numbers: dict[int, int] = {}
        self.counts: dict[int, int] = {}
        self.weights = [np.full(dim, 0.01, np.float32)]
        self.accumulators = [np.float32(0.1)]

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        return np.array([self.numbers.get(one, 0) for one in ids.tolist()], np.int64)

    def admit(self, ids: np.ndarray, times: np.ndarray) -> np.ndarray:
        for one in ids.tolist():
            self.counts[one] = self.counts.get(one, 0) + 1
            if self.counts[one] >= self.admit_after and one not in self.numbers:
                self.numbers[one] = len(self.weights)
                self.weights.append(self.weights[0].copy())
                self.accumulators.append(np.float32(0.1))
        return self.rows_of(ids)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        return np.stack(self.weights)[rows]

    def apply(self, rows: np.ndarray, gradients: np.ndarray, learning_rate: float, *, learn_default: bool = False) -> None:
        sums: dict[int, np.ndarray] = {}
        for row, gradient in zip(rows.tolist(), gradients, strict=True):
            if row or learn_default:
                sums[row] = sums[row] + gradient if row in sums else gradient.copy()
        for row, gradient in sums.items():
            self.accumulators[row] += np.float32(np.mean(gradient * gradient))
            self.weights[row] = self.weights[row] - np.float32(learning_rate) * gradient / np.sqrt(self.accumulators[row])

    def decay_accumulators(self, factor: float) -> None:
        self.accumulators = [np.float32(one * factor) for one in self.accumulators]


def save(table: Any, path: Path) -> None:
    ids = np.array(list(table.numbers), np.int64)
    state = {"ids": ids, "weights": np.stack(table.weights), "accumulators": np.array(table.accumulators, np.float32)}
    save_file(state | {"seen": np.array([*table.counts.items()], np.int64).reshape(-1, 2)}, path)


def load(path: Path) -> Table:
    said, table = load_file(path), PlainTable()
    table.numbers = {one: row for row, one in enumerate(said["ids"].tolist(), 1)}
    table.counts = dict(said["seen"].tolist())
    table.weights, table.accumulators = list(said["weights"]), list(said["accumulators"])
    return table


def tables(dim: int = DIM) -> Tables:
    return Tables(PlainTable(dim), PlainTable(dim), save, load)
