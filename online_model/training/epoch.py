"""One epoch: batch by batch, dense weights by Adam and rows by row-wise Adagrad.

What is random in a batch follows from its number and the seed, never from what ran before it in this process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from online_model.model.loss import loss_of, weights_of
from online_model.model.ranker import Ranker
from online_model.training.config import TrainingConfig
from online_model.training.errors import DivergedError
from online_model.training.examples import TrainingExamples
from online_model.training.order import BATCH, Order
from online_model.training.tables import Tables, dropped


@dataclass
class Progress:
    """How far an epoch is: batches, examples, and the sum of the losses that examples had before they were learned from."""

    batches: int = 0
    examples: int = 0
    loss: float = 0.0


class Epoch:
    """The batches of one training.

    Parameters
    ----------
    ranker : Ranker
        Changed in place, like the tables.
    tables : Tables
        Their `begin` is done.
    examples : TrainingExamples
    config : TrainingConfig
    """

    def __init__(self, ranker: Ranker, tables: Tables, examples: TrainingExamples, config: TrainingConfig) -> None:
        self.ranker, self.tables, self.config = ranker, tables, config
        self.optimizer = torch.optim.Adam(ranker.parameters(), lr=config.learning_rate)
        self.order = Order.of(examples, config, len(ranker.config.heads))
        self.progress = Progress()
        self.columns = tables.rows_in(examples.columns)
        self._labels = examples.labels[:, : len(ranker.config.heads)]
        self._weights = weights_of(ranker.config.heads, config.head_weights)
        self._device = next(ranker.parameters()).device

    def step(self) -> None:
        """Learn from the next batch.

        Raises
        ------
        DivergedError
            The loss is no number; nothing was changed by this batch.
        """
        number, config = self.progress.batches, self.config
        index = self.order.batch(number)
        rng = np.random.default_rng([config.seed, BATCH, number])
        torch.manual_seed(int(rng.integers(2**63)))
        features = dropped(self.columns.features(index, self.ranker.config.sequence_length), config.id_dropout, rng)
        inputs = self.tables.gather(features)
        for vectors in (inputs.user, inputs.pin, inputs.sequence_pin):
            vectors.requires_grad_()
        labels, weight = torch.from_numpy(self._labels[index]), torch.from_numpy(self.order.weight[index])
        logits = self.ranker(inputs if self._device.type == "cpu" else inputs.to(self._device))
        loss = loss_of(logits, labels.to(self._device), self._weights.to(self._device), weight.unsqueeze(1).to(self._device))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergedError(
                f"training: the loss of batch {number} is {value}; train again with a smaller learning_rate or table_learning_rate"
            )
        self.optimizer.zero_grad()
        # The sum over the batch, not its mean: a row is in few of its examples. To Adam, sum and mean are the same but for its epsilon.
        (loss * len(index)).backward()
        self.tables.apply(features, inputs, config.table_learning_rate)
        self.optimizer.step()
        self.progress = Progress(number + 1, self.progress.examples + len(index), self.progress.loss + value * len(index))


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Operations that give the same bits each time, and torch's own settings and random state as they were afterwards."""
    before, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.use_deterministic_algorithms(device.type == "cpu" or before, warn_only=warn)
        # It would write every tensor once more, to show who reads what nobody wrote.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        try:
            yield
        finally:
            torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
            torch.use_deterministic_algorithms(before, warn_only=warn)
