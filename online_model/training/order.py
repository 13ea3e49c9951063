"""Which examples are learned from, with what weight, and in which order: functions of the examples and a seed, so a training can go on anywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from online_model.training.config import TrainingConfig
from online_model.training.examples import TrainingExamples

_KEPT, _SHUFFLED, BATCH = 1, 2, 3
"""What a random stream is for; the seed alone would give all of them the same numbers."""


@dataclass(frozen=True, eq=False)
class Order:
    """Batches of one epoch.

    Attributes
    ----------
    index : int64[k]
        Examples as they are learned from.
    weight : float32[n]
        Of each example, whether it is learned from or not.
    batch_size : int
    """

    index: np.ndarray
    weight: np.ndarray
    batch_size: int

    @classmethod
    def of(cls, examples: TrainingExamples, config: TrainingConfig, heads: int) -> Order:
        """Down-sampled and shuffled; without examples that say nothing of the model's heads."""
        negative = examples.negative()
        kept = ~negative | (np.random.default_rng([config.seed, _KEPT]).random(len(negative)) < config.negatives_kept)
        kept &= examples.saying(heads)
        index = np.random.default_rng([config.seed, _SHUFFLED]).permutation(np.flatnonzero(kept))
        return cls(index, np.where(negative, 1 / config.negatives_kept, 1).astype(np.float32), config.batch_size)

    def __len__(self) -> int:
        """How many batches."""
        return -(-len(self.index) // self.batch_size)

    def batch(self, number: int) -> np.ndarray:
        """The examples of a batch; the last one may be smaller."""
        return self.index[number * self.batch_size : (number + 1) * self.batch_size]
