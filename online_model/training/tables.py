"""The vectors of IDs as a training sees them: tables that others keep, gathered into a batch and given its gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch

from online_model.model.columns import ExampleColumns, Features
from online_model.model.inputs import Inputs, inputs_of


class Table(Protocol):
    """Of the embedding table, what a training needs. Row 0 is the default row."""

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Rows int64[n] of IDs int64[n]; 0 where there is none."""

    def admit(self, ids: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Count sightings of IDs; those seen often enough get a row."""

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Vectors float32[n, d]."""

    def apply(self, rows: np.ndarray, gradients: np.ndarray, learning_rate: float, *, learn_default: bool = False) -> None:
        """One step of row-wise Adagrad."""

    def decay_accumulators(self, factor: float) -> None:
        """Multiply every accumulator."""


@dataclass(frozen=True)
class Tables:
    """The table of users and that of pins, and how one is kept in a file.

    Attributes
    ----------
    users, pins : Table
    save : callable
        Writes a table to a path: the same bytes for the same table.
    load : callable
        Reads it back.
    """

    users: Table
    pins: Table
    save: Callable[[Table, Path], None] = field(repr=False)
    load: Callable[[Path], Table] = field(repr=False)

    def loaded(self, users: Path, pins: Path) -> Self:
        """Those of two files in their place."""
        return replace(self, users=self.load(users), pins=self.load(pins))

    def begin(self, columns: ExampleColumns, seen_at: np.ndarray, accumulator_decay: float) -> None:
        """Before an epoch: accumulators decay, and the IDs of all examples are counted in the order in which they were seen.

        So it doesn't depend on the order of learning who has a row.
        """
        for table, ids in ((self.users, columns.user_id), (self.pins, columns.pin_id)):
            order = np.lexsort((ids, seen_at))
            table.decay_accumulators(accumulator_decay)
            table.admit(ids[order], seen_at[order])

    def rows_in(self, columns: ExampleColumns) -> ExampleColumns:
        """The same examples with rows in the place of IDs, looked up once. They hold as long as nothing is admitted."""
        return replace(
            columns,
            user_id=self.users.rows_of(columns.user_id),
            pin_id=self.pins.rows_of(columns.pin_id),
            action_pin_id=self.pins.rows_of(columns.action_pin_id),
        )

    def gather(self, features: Features) -> Inputs:
        """A batch whose IDs are rows, with their vectors."""
        return inputs_of(
            features,
            self.users.gather(features.user_id),
            self.pins.gather(features.pin_id),
            self._sequences(features),
        )

    def apply(self, features: Features, inputs: Inputs, learning_rate: float) -> None:
        """Give rows the gradients that a backward pass has left at the vectors; default rows learn as well."""
        self.users.apply(features.user_id, _gradient(inputs.user), learning_rate, learn_default=True)
        # Candidates and actions in one step: a row that is both learns once, from the sum.
        there = np.flatnonzero(features.sequence_mask)
        candidates, width = inputs.pin.shape
        gradients = np.empty((candidates + len(there), width), np.float32)
        gradients[:candidates] = _gradient(inputs.pin)
        # Clipped, for `take` checks and copies once more otherwise.
        np.take(_gradient(inputs.sequence_pin).reshape(-1, width), there, axis=0, out=gradients[candidates:], mode="clip")
        rows = np.concatenate([features.pin_id, features.sequence_pin_id.reshape(-1)[there]])
        self.pins.apply(rows, gradients, learning_rate, learn_default=True)

    def _sequences(self, features: Features) -> np.ndarray:
        contexts, length = features.sequence_pin_id.shape
        return self.pins.gather(features.sequence_pin_id.reshape(-1)).reshape(contexts, length, -1)


def _gradient(vectors: torch.Tensor) -> np.ndarray:
    # A model that doesn't read the sequence leaves none there.
    return np.zeros(vectors.shape, np.float32) if vectors.grad is None else vectors.grad.cpu().numpy()


def dropped(features: Features, chance: float, rng: np.random.Generator) -> Features:
    """A batch whose IDs are rows, in which each is the default row with some chance: users, candidates and pins of sequences apart."""
    if not chance:
        return features

    def some(rows: np.ndarray) -> np.ndarray:
        return np.where(rng.random(rows.shape, np.float32) < chance, 0, rows)

    return replace(features, user_id=some(features.user_id), pin_id=some(features.pin_id), sequence_pin_id=some(features.sequence_pin_id))
