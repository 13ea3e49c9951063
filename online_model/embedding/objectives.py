"""What outputs are trained to tell, objective by objective (section 3.4): which window of each user, which outputs, which positive pin for each.

Examples are drawn while training, one row for each user of a batch; each user has the same weight, however many examples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from online_model.embedding.config import EmbeddingConfig, Objective
from online_model.embedding.positives import Positives
from online_model.embedding.sequences import UserSequences

_AT_LAST = (Objective.NEXT_ACTION, Objective.ALL_ACTION)


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples of a batch of B users, E in all.

    Attributes
    ----------
    first, last : int64[B]
        The window of each user: actions first up to, but not with, last.
    user, output : int64[E]
        Which row of the batch, which action of its window.
    pin : int64[E]
        The row of the positive pin's vector.
    weight : float32[E]
        In all 1, the same of each user.
    """

    first: np.ndarray
    last: np.ndarray
    user: np.ndarray
    output: np.ndarray
    pin: np.ndarray
    weight: np.ndarray


class Drawing:
    """Draws examples of some sequences.

    Parameters
    ----------
    sequences : UserSequences
    positives : Positives
    config : EmbeddingConfig

    Attributes
    ----------
    users : int64[u]
        Those who have an example at all.
    """

    def __init__(self, sequences: UserSequences, positives: Positives, config: EmbeddingConfig) -> None:
        self._sequences, self._positives, self._config = sequences, positives, config
        follows = config.objective in (Objective.NEXT_ACTION, Objective.SASREC)
        self._told = positives.next if follows else positives.last > positives.first
        # Actions that can be an output, and those of user u among them.
        self._outputs = np.flatnonzero(self._told)
        self._bounds = np.searchsorted(self._outputs, sequences.offsets)
        self.users = np.flatnonzero(np.diff(self._bounds))

    def draw(self, users: np.ndarray, rng: np.random.Generator) -> Examples:
        """Examples of int64[B] of `self.users`."""
        first, last = self._windows(users, rng)
        if self._config.objective in _AT_LAST:
            user, output = np.arange(len(users)), last - 1 - first
        else:
            user, output = self._within(first, last, rng)
        at = first[user] + output
        if self._config.objective == Objective.ALL_ACTION:
            user, output, chosen = self._several(user, output, at, rng)
        elif self._config.objective == Objective.DENSE_ALL_ACTION:
            p = self._positives
            chosen = p.first[at] + rng.integers(0, p.last[at] - p.first[at])
        else:
            chosen = self._positives.first[at]
        counts = np.bincount(user, minlength=len(users))
        weight = 1 / (counts[user] * len(users))
        return Examples(first, last, user, output, self._positives.row[chosen], weight.astype(np.float32))

    def _windows(self, users: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A window of each that has an example: where an output must be the last of it, it ends there; else it is as long as can be."""
        low, high, length = self._sequences.offsets[users], self._sequences.offsets[users + 1], self._config.length
        chosen = self._outputs[rng.integers(self._bounds[users], self._bounds[users + 1])]
        if self._config.objective in _AT_LAST:
            last = chosen + 1
        else:
            last = rng.integers(np.minimum(np.maximum(chosen + 1, low + length), high), np.minimum(chosen + length, high) + 1)
        return np.maximum(last - length, low), last

    def _within(self, first: np.ndarray, last: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Outputs of each window: all that can be (SASRec), or some by chance."""
        at = first[:, None] + np.arange(int((last - first).max(initial=0)))
        inside = at < last[:, None]
        can = inside & self._told[np.where(inside, at, 0)]
        if self._config.objective == Objective.SASREC:
            user, output = np.nonzero(can)
            return user, output
        drawn = np.where(can, rng.random(can.shape), 2.0)
        some = np.argsort(drawn, axis=1)[:, : self._config.samples]
        user, column = np.nonzero(np.take_along_axis(drawn, some, 1) < 1)
        return user, some[user, column]

    def _several(
        self, user: np.ndarray, output: np.ndarray, at: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Some of the positive actions in the window behind each output, each at most once."""
        low, high = self._positives.first[at], self._positives.last[at]
        counts = high - low
        owner = np.repeat(np.arange(len(at)), counts)
        each = np.repeat(low - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        order = np.lexsort((rng.random(len(each)), owner))
        rank = np.arange(len(each)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept = order[rank < self._config.samples]
        return user[owner[kept]], output[owner[kept]], each[kept]
