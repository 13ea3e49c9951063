"""A trained embedding at work: users and pins as vectors.

Batches have fixed shapes, chosen by a user's own number of actions, so that a vector is the same to the bit alone or among others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from online_model.embedding.batches import Windows, vector_rows
from online_model.embedding.config import EmbeddingConfig
from online_model.embedding.errors import OtherActionsError
from online_model.embedding.model import PinnerFormer, scaled
from online_model.embedding.pin_vectors import PinVectors
from online_model.embedding.sequences import UserSequences
from online_model.training.epoch import reproducible

_TOKENS = 8_192
_LEAST = 32
_PINS = 1_024


@dataclass(frozen=True, eq=False)
class EmbeddingModel:
    """An embedding.

    Attributes
    ----------
    former : PinnerFormer
    vectors : PinVectors
        What it was trained with.
    actions, surfaces : dict of str to int
        Codes that it was trained with.
    """

    former: PinnerFormer
    vectors: PinVectors
    actions: dict[str, int]
    surfaces: dict[str, int]

    @property
    def config(self) -> EmbeddingConfig:
        """What it is made of."""
        return self.former.config

    def users(
        self,
        sequences: UserSequences,
        as_of_ms: int | np.ndarray | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> np.ndarray:
        """Users by their actions.

        Parameters
        ----------
        sequences : UserSequences
        as_of_ms : int or int64[n], optional
            Only actions up to this moment, or up to one for each user.
        progress : callable
            Told users done, and how many there are.

        Returns
        -------
        float32[n, D]
            Of length 1; zeros for a user without actions.

        Raises
        ------
        OtherActionsError
            The codes of the actions mean something else.
        """
        self._check(sequences)
        if as_of_ms is not None:
            sequences = sequences.until(as_of_ms)
        last = sequences.offsets[1:]
        lengths = np.minimum(sequences.lengths, self.config.length)
        rows = vector_rows(self.vectors.rows_of(sequences.pin_ids), len(self.vectors))
        windows, out = Windows(sequences, rows), np.zeros((len(sequences), self.config.output_dim), np.float32)
        done = int((lengths == 0).sum())
        device = next(self.former.parameters()).device
        with torch.inference_mode(), _at_work(self.former):
            shortest = 0
            for length in _shapes(self.config.length):
                of = np.flatnonzero((lengths > shortest) & (lengths <= length))
                size = max(1, _TOKENS // length)
                for begin in range(0, len(of), size):
                    some = of[begin : begin + size]
                    batch = windows.batch(last[some] - lengths[some], last[some], length, size).to(device)
                    states = self.former.states(batch)[torch.arange(size, device=device), (batch.length - 1).clamp(min=0)]
                    out[some] = self.former.outputs(states).cpu().numpy()[: len(some)]
                    done += len(some)
                    progress(done, len(sequences))
                shortest = length
        return out

    def pins(self, vectors: PinVectors) -> np.ndarray:
        """Pins by their vectors: float32[m, D], of length 1.

        Raises
        ------
        OtherActionsError
            The vectors are of another size than those of the training.
        """
        if vectors.dim != self.config.vector_dim:
            raise OtherActionsError(f"vectors of pins have {vectors.dim} numbers; the embedding was trained with {self.config.vector_dim}")
        out = np.empty((len(vectors), self.config.output_dim), np.float32)
        device = next(self.former.parameters()).device
        with torch.inference_mode(), _at_work(self.former):
            for begin in range(0, len(vectors), _PINS):
                some = vectors.vectors[begin : begin + _PINS]
                padded = np.zeros((_PINS, vectors.dim), np.float32)
                padded[: len(some)] = some
                out[begin : begin + _PINS] = self.former.pins(scaled(torch.from_numpy(padded).to(device))).cpu().numpy()[: len(some)]
        return out

    def _check(self, sequences: UserSequences) -> None:
        for kind, ours, theirs in (("action", self.actions, sequences.actions), ("surface", self.surfaces, sequences.surfaces)):
            for name, code in theirs.items():
                if ours.get(name, code) != code:
                    raise OtherActionsError(
                        f"{kind} '{name}' has code {code}, and had {ours[name]} when this was trained; put the vocabulary back, or train anew"
                    )


def _shapes(length: int) -> list[int]:
    """Lengths of batches: powers of two from 32 on, then the greatest."""
    shapes = []
    shape = _LEAST
    while shape < length:
        shapes.append(shape)
        shape *= 2
    return [*shapes, length]


@contextmanager
def _at_work(former: PinnerFormer) -> Iterator[None]:
    """Nothing is dropped, and the same bits come each time."""
    training = former.training
    former.eval()
    try:
        with reproducible(next(former.parameters()).device):
            yield
    finally:
        former.train(training)
