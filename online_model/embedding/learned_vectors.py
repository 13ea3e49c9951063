"""Vectors of pins out of the log, where nobody has any: pins that the same users act on soon after each other come to lie near each other.

Positive pointwise mutual information of pins within a window of a user's actions, factorised (Levy and Goldberg 2014, with their context smoothing):
what skip-gram learns by steps, in one. One more number says how often a pin was acted on: towers see directions alone, and that
of the rest doesn't say it. Seeded, and the same to the bit for the same actions, threads and build.
"""

from __future__ import annotations

import numpy as np
import torch

from online_model.embedding.pin_vectors import PinVectors
from online_model.embedding.sequences import UserSequences

MADE = 2
"""Raised when the same actions come to have other vectors, for whoever keeps what follows from them and can't look at them."""
_WINDOW = 20
_SMOOTHING = 0.75
_ITERATIONS = 4
_OVERSAMPLED = 10
_POPULARITY = 0.5
"""What a standard deviation of the logarithm of how often pins were acted on is worth, as a share of the length of all other numbers."""


def learned_vectors(sequences: UserSequences, dim: int, seed: int) -> PinVectors:
    """Vectors of all pins that a user acted on beside another pin.

    Parameters
    ----------
    sequences : UserSequences
    dim : int
        How many numbers a vector has; those that so few pins can't fill are 0. The last of two or more is of how often the pin was acted on.
    seed : int

    Returns
    -------
    PinVectors
    """
    pairs = together(sequences)
    one, other, count = mutual_information(*pairs, len(sequences.pin_ids))
    known = np.unique(one)
    place = np.zeros(len(sequences.pin_ids), np.int64)
    place[known] = np.arange(len(known))
    vectors = np.zeros((len(known), dim), np.float32)
    if len(known):
        index = torch.from_numpy(np.stack([place[one], place[other]]))
        matrix = torch.sparse_coo_tensor(index, torch.from_numpy(count), (len(known), len(known)), check_invariants=True).coalesce()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            rank = min(max(dim - 1, 1), len(known))
            left, values, _ = torch.svd_lowrank(matrix, q=min(rank + _OVERSAMPLED, len(known)), niter=_ITERATIONS)
        vectors[:, :rank] = (left[:, :rank] * values[:rank].sqrt()).numpy()
    # A pin whose every number is 0 has no place; it counts as one without a vector.
    placed = np.abs(vectors).sum(axis=1) > 0
    vectors, known = vectors[placed], known[placed]
    if dim > 1 and len(known):
        often = np.log(np.bincount(sequences.pin, minlength=len(sequences.pin_ids))[known])
        vectors[:, -1] = _POPULARITY * (often - often.mean()) / max(often.std(), 1e-12) * np.linalg.norm(vectors, axis=1)
    return PinVectors(sequences.pin_ids[known], vectors)


def together(sequences: UserSequences) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of different pins within a window of one user's actions, each once, and how often: int64[p] each, the lower pin first."""
    pin, owner, pins = sequences.pin.astype(np.int64), sequences.owner, max(len(sequences.pin_ids), 1)
    keys, counts = np.empty(0, np.int64), np.empty(0, np.int64)
    for apart in range(1, _WINDOW + 1):
        one, other = pin[:-apart], pin[apart:]
        same = (owner[:-apart] == owner[apart:]) & (one != other)
        found, times = np.unique(np.minimum(one, other)[same] * pins + np.maximum(one, other)[same], return_counts=True)
        keys, where = np.unique(np.concatenate([keys, found]), return_inverse=True)
        counts = np.bincount(where, np.concatenate([counts, times]), len(keys)).astype(np.int64)
    return keys // pins, keys % pins, counts


def mutual_information(one: np.ndarray, other: np.ndarray, count: np.ndarray, pins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positive entries of ln(P(a, b) / (P(a) P'(b))), both ways round: int64[q], int64[q], float32[q].

    P' is smoothed: the counts of b to the power of 0.75.
    """
    one, other, count = np.concatenate([one, other]), np.concatenate([other, one]), np.concatenate([count, count])
    of = np.bincount(one, count, pins)
    smooth = of**_SMOOTHING
    information = np.log(count) - np.log(of[one]) - np.log(smooth[other] / max(smooth.sum(), 1e-300))
    kept = information > 0
    return one[kept], other[kept], information[kept].astype(np.float32)
