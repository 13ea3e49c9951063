"""Which actions are positive, and which positive ones follow each action within the window: all that objectives ask of a history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flows.compiled import compiled
from flows.errors import SettingsError
from flows.vocabulary import suggestion
from online_model.embedding.config import EmbeddingConfig, Positive
from online_model.embedding.sequences import UserSequences


@dataclass(frozen=True, eq=False)
class Positives:
    """Positive actions of sequences with k actions, p of them positive.

    Attributes
    ----------
    place : int64[p]
        Which actions, ascending.
    row : int64[p]
        The rows of their pins' vectors.
    first, last : int64[k]
        Those that follow action i within the window are first[i] up to, but not with, last[i] of `place`.
    next : bool[k]
        Whether the very next action of the same user is positive: number first[i] of `place`.
    bounds : int64[n + 1]
        Those of user u are bounds[u] to bounds[u + 1] of `place`.
    """

    place: np.ndarray
    row: np.ndarray
    first: np.ndarray
    last: np.ndarray
    next: np.ndarray
    bounds: np.ndarray

    @classmethod
    def of(cls, sequences: UserSequences, vector_of: np.ndarray, vectors: int, config: EmbeddingConfig) -> Positives:
        """Find them.

        Parameters
        ----------
        sequences : UserSequences
        vector_of : int64[m]
            The row of each pin's vector, `vectors` for one without: that is no pin to learn.
        vectors : int
        config : EmbeddingConfig

        Raises
        ------
        SettingsError
            The configuration names an action or a surface that nobody knows.
        """
        rows = vector_of[sequences.pin]
        positive = is_positive(sequences, config.positives) & (rows < vectors)
        place = np.flatnonzero(positive)
        through = np.concatenate([[0], np.cumsum(positive)]).astype(np.int64)
        ends = window_ends(sequences.time_ms, sequences.offsets, config.window_ms)
        follows = np.zeros(len(positive), np.bool_)
        follows[:-1] = positive[1:] & (sequences.owner[1:] == sequences.owner[:-1])
        return cls(place, rows[place], through[1:], through[ends], follows, through[sequences.offsets])


def is_positive(sequences: UserSequences, rules: Sequence[str]) -> np.ndarray:
    """Whether any rule says so of each action: bool[k].

    Raises
    ------
    SettingsError
        A rule names an action or a surface that nobody knows.
    """
    found = np.zeros(len(sequences.pin), np.bool_)
    for text in rules:
        rule = Positive.of(text)
        for kind, name, known in (("action", rule.action, sequences.actions), ("surface", rule.surface, sequences.surfaces)):
            if name is not None and name not in known:
                raise SettingsError(
                    f"embedding: '{text}': there is no {kind} '{name}'{suggestion(name, known)}; there are {', '.join(known)}"
                )
        fits = sequences.action == sequences.actions[rule.action]
        if rule.surface is not None:
            fits &= sequences.surface == sequences.surfaces[rule.surface]
        if rule.longer_than_ms is not None:
            fits &= sequences.duration_ms > rule.longer_than_ms
        found |= fits
    return found


@compiled
def window_ends(time_ms: np.ndarray, offsets: np.ndarray, window_ms: int) -> np.ndarray:
    """Of each action, the first one of its user that is later by more than the window, or the user's end: int64[k]."""
    ends = np.empty(len(time_ms), np.int64)
    for user in range(len(offsets) - 1):
        end = offsets[user]
        for i in range(offsets[user], offsets[user + 1]):
            while end < offsets[user + 1] and time_ms[end] - time_ms[i] <= window_ms:
                end += 1
            ends[i] = end
    return ends
