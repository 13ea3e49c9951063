"""The vectors of IDs as a training sees them: the tables gathered into a batch and given its gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from online_model.model.columns import ExampleColumns, Features
from online_model.model.inputs import Inputs, inputs_of
from online_model.registry.manifest import TABLES
from online_model.table import EmbeddingTable, load, save
from online_model.training.examples import TrainingExamples


@dataclass(frozen=True)
class Tables:
    """The table of users and that of pins."""

    users: EmbeddingTable
    pins: EmbeddingTable

    def save(self, directory: Path) -> None:
        """Write both: the same bytes for the same tables."""
        save(self.users, directory / TABLES["user"])
        save(self.pins, directory / TABLES["pin"])

    @classmethod
    def load(cls, directory: Path) -> Tables:
        """Those that were saved, in memory.

        Raises
        ------
        TableFileError
        DataDirectoryError
        """
        return cls(load(directory / TABLES["user"]), load(directory / TABLES["pin"]))

    def begin(self, examples: TrainingExamples, accumulator_decay: float) -> None:
        """Before an epoch: accumulators decay, and the IDs of all pins that were seen, and of who saw them, are counted in the order of time.

        So it doesn't depend on the order of learning who has a row.
        """
        seen = np.flatnonzero(examples.sightings())
        for table, ids in ((self.users, examples.columns.user_id), (self.pins, examples.columns.pin_id)):
            order = seen[np.lexsort((ids[seen], examples.seen_at[seen]))]
            table.decay_accumulators(accumulator_decay)
            table.admit(ids[order], examples.seen_at[order])

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
        rows, gradients = features.pin_id, _gradient(inputs.pin)
        if inputs.sequence_pin.grad is not None:  # an encoder that reads no sequence leaves none
            there = np.flatnonzero(features.sequence_mask)
            rows = np.concatenate([rows, features.sequence_pin_id.reshape(-1)[there]])
            both = np.empty((len(rows), gradients.shape[1]), np.float32)
            both[: len(gradients)] = gradients
            # Clipped, for `take` copies once more otherwise.
            np.take(_gradient(inputs.sequence_pin).reshape(-1, both.shape[1]), there, axis=0, out=both[len(gradients) :], mode="clip")
            gradients = both
        self.pins.apply(rows, gradients, learning_rate, learn_default=True)

    def _sequences(self, features: Features) -> np.ndarray:
        contexts, length = features.sequence_pin_id.shape
        return self.pins.gather(features.sequence_pin_id.reshape(-1)).reshape(contexts, length, -1)


def _gradient(vectors: torch.Tensor) -> np.ndarray:
    assert vectors.grad is not None
    return np.asarray(vectors.grad.cpu().numpy())


def dropped(features: Features, chance: float, rng: np.random.Generator) -> Features:
    """A batch whose IDs are rows, in which each is the default row with some chance: users, candidates and pins of sequences apart."""
    if not chance:
        return features

    def some(rows: np.ndarray) -> np.ndarray:
        return np.where(rng.random(rows.shape, np.float32) < chance, 0, rows)

    return replace(features, user_id=some(features.user_id), pin_id=some(features.pin_id), sequence_pin_id=some(features.sequence_pin_id))
