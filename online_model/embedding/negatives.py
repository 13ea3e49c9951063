"""The pins that a positive one is told from (section 3.3), and how likely each was to be among them.

Candidates are one pool for a batch: the positive pins of all its users, pins drawn at random, or both. A user's own positive pins are nobody to tell
a positive one from. Logits are corrected by ln Q of how often a pin is expected in the pool, positive ones by the same: else popular pins, which are
often in batches, would be pushed away for being popular.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from online_model.embedding.config import EmbeddingConfig, Negatives
from online_model.embedding.positives import Positives
from online_model.embedding.sketch import CountMinSketch


@dataclass(frozen=True, eq=False)
class Pool:
    """Candidates of a batch.

    Attributes
    ----------
    pin : int64[C]
        Rows of vectors; a pin may be there several times.
    own : bool[B, C]
        Whether a candidate is a positive pin of a user.
    log_q, positive_log_q : float32[C], float32[E]
        Of candidates and of the examples' positive pins; zeros without correction.
    """

    pin: np.ndarray
    own: np.ndarray
    log_q: np.ndarray
    positive_log_q: np.ndarray


def pool_of(
    users: np.ndarray,
    pins: np.ndarray,
    positives: Positives,
    vectors: int,
    sketch: CountMinSketch,
    config: EmbeddingConfig,
    rng: np.random.Generator,
) -> Pool:
    """Candidates for a batch.

    Parameters
    ----------
    users : int64[B]
    pins : int64[E]
        The examples' positive pins: rows of vectors.
    positives : Positives
    vectors : int
        How many pins can be drawn.
    sketch : CountMinSketch
        Of all positive pins so far; these are added.
    config : EmbeddingConfig
    rng : Generator
    """
    sketch.add(pins)
    drawn = config.random_negatives if config.negatives != Negatives.IN_BATCH else 0
    in_batch = pins if config.negatives != Negatives.RANDOM else pins[:0]
    pool = np.concatenate([in_batch, rng.integers(0, vectors, drawn)])

    def log_q(of: np.ndarray) -> np.ndarray:
        if not config.log_q:
            return np.zeros(len(of), np.float32)
        return np.log(expected_count(of, len(in_batch), drawn, vectors, sketch)).astype(np.float32)

    return Pool(pool, own_pins(users, pool, positives), log_q(pool), log_q(pins))


def expected_count(pins: np.ndarray, in_batch: int, drawn: int, vectors: int, sketch: CountMinSketch) -> np.ndarray:
    """How often each pin is expected among so many positive pins and so many of all: float64[n]."""
    return in_batch * sketch.share(pins) + drawn / vectors


def own_pins(users: np.ndarray, pool: np.ndarray, positives: Positives) -> np.ndarray:
    """Whether each candidate is a positive pin of each user, at any time: bool[B, C]."""
    distinct, where = np.unique(pool, return_inverse=True)
    low, high = positives.bounds[users], positives.bounds[users + 1]
    counts = high - low
    owner = np.repeat(np.arange(len(users)), counts)
    rows = positives.row[np.repeat(low - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())]
    own = np.zeros((len(users), len(distinct)), np.bool_)
    if len(distinct):
        at = np.minimum(np.searchsorted(distinct, rows), len(distinct) - 1)
        there = distinct[at] == rows
        own[owner[there], at[there]] = True
    return own[:, where]
