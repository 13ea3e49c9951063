"""One micro-batch: gradients of a frozen model reach the rows of its users and candidates, and nothing else.

No dense weight, no default row and no row of an ID outside the batch's users and candidates is ever changed here; the pins of sequences are looked
up and not learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from flows.examples.picked import Picked
from flows.examples.rows import ExampleRows
from online_model.learner.config import LearnerConfig
from online_model.learner.delayed import weights_for
from online_model.learner.errors import UnlearnableError
from online_model.learner.prepared import Prepared, prepare
from online_model.model.columns import Features
from online_model.model.inputs import VECTOR_LIMIT, Inputs, inputs_of
from online_model.model.loss import loss_of, weights_of
from online_model.model.ranker import Ranker
from online_model.model.served_vectors import ServedVectors
from online_model.table import GradientError
from online_model.training.tables import Tables

DAY_MS = 24 * 3_600_000
# How often it is looked for rows that have expired: in the time of what is learned, so that every run looks at the same places.
_EXPIRY_EVERY_MS = 3_600_000


@dataclass(frozen=True, eq=False)
class Learned:
    """What became of a micro-batch.

    Attributes
    ----------
    examples : int
        Records that were learned from.
    loss : float
        Weighted, the sum over them, before they were learned from.
    logits : float32[examples, heads]
        What the model said of them before, in the slots in which they were shown.
    admitted, expired : int
        IDs of users and pins that have got a row, and that have lost theirs.
    """

    examples: int
    loss: float
    logits: np.ndarray
    admitted: int
    expired: int


class Step:
    """Learns micro-batch after micro-batch.

    What it has done after some is a function of base, config and batches.

    Parameters
    ----------
    ranker : Ranker
        Frozen: put into evaluation mode, and none of its weights asks for a gradient any more.
    tables : Tables
        Changed in place.
    config : LearnerConfig
    time : int
        Newest event time of what was learned before, ms; -1: nothing.
    vectors : ServedVectors, optional
        For a ranker that takes user embeddings; read where records are made ready.

    Attributes
    ----------
    time : int
    """

    def __init__(self, ranker: Ranker, tables: Tables, config: LearnerConfig, time: int = -1, vectors: ServedVectors | None = None) -> None:
        self.vectors = vectors
        self.ranker, self.tables, self.config, self.time = ranker.eval().requires_grad_(False), tables, config, time
        self._head_weights = weights_of(ranker.config.heads, config.head_weights)
        self._device = next(ranker.parameters()).device
        self._head_weights = self._head_weights.to(self._device)

    def learn(self, rows: ExampleRows) -> Learned:
        """Learn from records of EXAMPLES, in their order; see `learn_prepared`."""
        return self.learn_prepared(*prepare([Picked.of(rows)], self.ranker.config, self.config, self.vectors))

    def learn_prepared(self, batch: Prepared) -> Learned:
        """Learn from a micro-batch.

        IDs are admitted first, so a row that begins in this batch learns from it.

        Raises
        ------
        UnlearnableError
            Gradients or loss are no numbers. IDs may have been admitted: begin again at the last checkpoint.
        InputError
            A vector of an ID is no number.
        """
        expired = self._expire(batch.time)
        users, pins = self.tables.users, self.tables.pins
        features = batch.features
        before = len(users) + len(pins)
        users.admit(features.user_id[batch.sighted], batch.seen_at)
        pins.admit(features.pin_id[batch.sighted], batch.seen_at)
        admitted = len(users) + len(pins) - before
        if not len(features):
            return Learned(0, 0.0, np.empty((0, len(self.ranker.config.heads)), np.float32), admitted, expired)
        user_rows, pin_rows = users.rows_of(features.user_id), pins.rows_of(features.pin_id)
        inputs = self._inputs(features, user_rows, pin_rows)
        logits, loss = self.forward_backward(inputs, torch.from_numpy(batch.labels))
        if not np.isfinite(loss):
            raise UnlearnableError(f"learner: the loss of a micro-batch of {len(features)} records is {loss}; {_ADVICE}")
        try:
            for table, rows, vectors in ((users, user_rows, inputs.user), (pins, pin_rows, inputs.pin)):
                assert vectors.grad is not None
                table.apply(rows, vectors.grad.cpu().numpy(), self.config.learning_rate)
        except GradientError as error:
            raise UnlearnableError(f"learner: {error}; {_ADVICE}") from error
        return Learned(len(features), loss, logits, admitted, expired)

    def forward_backward(self, inputs: Inputs, labels: torch.Tensor) -> tuple[np.ndarray, float]:
        """What learning costs without tables: the gradients are left at `inputs.user` and `inputs.pin`.

        Returns
        -------
        (float32[n, heads], float)
            Logits, and the loss summed over records.
        """
        inputs.user.requires_grad_()
        inputs.pin.requires_grad_()
        labels = labels.to(self._device)
        logits = self.ranker(inputs if self._device.type == "cpu" else inputs.to(self._device))
        weights = weights_for(logits, labels, self.config.delayed_labels)
        # The sum over the batch, not its mean: a row is in few of its records.
        loss = loss_of(logits, labels, self._head_weights, weights) * len(labels)
        loss.backward()
        return logits.detach().cpu().numpy(), float(loss.detach())

    def _inputs(self, features: Features, user_rows: np.ndarray, pin_rows: np.ndarray) -> Inputs:
        pins = self.tables.pins
        contexts, length = features.sequence_pin_id.shape
        sequence_rows = pins.rows_of(features.sequence_pin_id.reshape(-1))
        gathered = [
            table.gather_within(rows, VECTOR_LIMIT)
            for table, rows in ((self.tables.users, user_rows), (pins, pin_rows), (pins, sequence_rows))
        ]
        (user, _), (pin, _), (sequence, _) = gathered
        within = all(usual for _, usual in gathered)
        return inputs_of(features, user, pin, sequence.reshape(contexts, length, -1), within=within)

    def _expire(self, time: int) -> int:
        before, self.time = self.time, max(self.time, time)
        if before < 0 or before // _EXPIRY_EVERY_MS == self.time // _EXPIRY_EVERY_MS:
            return 0
        since = self.time - round(self.config.expire_days * DAY_MS)
        return sum(len(table.expire(since)) for table in (self.tables.users, self.tables.pins))


_ADVICE = "nothing of it was applied: look at these records and at the learning rate, or skip them (`tidemark replay learner --skip`)"
