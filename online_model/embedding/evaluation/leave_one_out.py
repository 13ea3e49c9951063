"""The public yardstick: users' items in their order and nothing else, the last of each user to be found among all items (Kang and McAuley 2018).

The last item of a user is the test's, the last but one the validation's; all before are learned from, and all of users with fewer than three.
Ranking is full, among all items, so figures can be held against those of others who rank fully, and not against those of sampled rankings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from flows.errors import InputError, SettingsError
from online_model.embedding.config import EmbeddingConfig
from online_model.embedding.evaluation.measures import refuse_not_finite
from online_model.embedding.evaluation.plan import PLANS, YARDSTICK, read_content
from online_model.embedding.learned_vectors import learned_vectors
from online_model.embedding.pin_vectors import PinVectors
from online_model.embedding.sequences import UserSequences
from online_model.embedding.training import train
from online_model.embedding.version import trained_vectors
from online_model.studies.running import one_thread

K = 10
LEAST = 3
"""Items of a user who is evaluated."""
_AT_ONCE = 512


@dataclass(frozen=True)
class Yardstick:
    """How it is measured.

    Parameters
    ----------
    embedding : EmbeddingConfig
    known_left_out : bool
        Whether items that a user has had are left out of the ranking, but for the one to be found.
    """

    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    known_left_out: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"embedding": self.embedding.to_dict(), "known_left_out": self.known_left_out}


def read_yardstick(path: Path | None = None, quick: bool = False) -> Yardstick:
    """A file with `known_left_out` and a table [embedding], and [quick] over both; by default the committed one, a SASRec with sampled softmax.

    Raises
    ------
    SettingsError
    """
    place = PLANS / f"{YARDSTICK}.toml" if path is None else path
    where = YARDSTICK if path is None else f"--plan {path}"
    content = read_content(place, where, [one.name for one in fields(Yardstick)], ("embedding",), quick)
    left_out = content.get("known_left_out", True)
    if not isinstance(left_out, bool):
        raise SettingsError(f"{where}: known_left_out must be true or false, not {left_out!r}")
    return Yardstick(EmbeddingConfig.from_dict(content.get("embedding", {}), f"{where}: [embedding]"), left_out)


def measure(
    sequences: UserSequences,
    yardstick: Yardstick,
    checkpoints: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> dict[str, Any]:
    """HR@10 and NDCG@10.

    Parameters
    ----------
    sequences : UserSequences
    yardstick : Yardstick
    checkpoints : Path, optional
        Where the training is kept, and from where it goes on.
    progress : callable

    Returns
    -------
    dict
        Plain values.

    Raises
    ------
    InputError
        Nobody has three items.
    TrainingStoppedError
    """
    asked = np.flatnonzero(sequences.lengths >= LEAST)
    if not len(asked):
        raise InputError(
            f"sequences: none of {len(sequences):,} users has {LEAST} items or more; the last two of a user are not learned from"
        )
    learned = before_last(sequences, asked, 2)
    config, left_out = yardstick.embedding, yardstick.known_left_out
    with one_thread():
        progress("vectors", 0, 1)
        vectors = _vectors_of_all(learned, config)
        model, metrics = train(learned, vectors, config, checkpoints, lambda done, of: progress("training", done, of))
        out = {}
        for name, apart in (("test", 1), ("validation", 2)):
            progress(f"ranking, {name}", 0, 1)
            known = before_last(sequences, asked, apart).take(asked)
            target = sequences.pin[sequences.offsets[asked + 1] - apart]
            rows = vectors.rows_of(sequences.pin_ids)
            pins = model.pins(trained_vectors(model))[rows]
            out[name] = hit_and_gain(_ranks(model.users(known), known, pins, target, left_out))
            if name == "test":
                times = np.bincount(learned.pin, minlength=len(sequences.pin_ids)).astype(np.float32)
                out["popular"] = hit_and_gain(_ranks(np.ones((len(asked), 1), np.float32), known, times[:, None], target, left_out))
    return {
        "evaluation": "leave-one-out",
        "users": len(asked),
        "items": len(sequences.pin_ids),
        "actions": len(sequences.pin),
        "configuration": yardstick.to_dict(),
        "losses": metrics["losses"],
        **out,
    }


def before_last(sequences: UserSequences, users: np.ndarray, count: int) -> UserSequences:
    """The sequences without the last `count` actions of some users, by their places."""
    cut = np.zeros(len(sequences), np.int64)
    cut[users] = count
    return sequences.where(np.arange(len(sequences.pin)) < (sequences.offsets[1:] - cut)[sequences.owner])


def _vectors_of_all(learned: UserSequences, config: EmbeddingConfig) -> PinVectors:
    """A vector to begin with for each item, one at random for those of which nothing is known."""
    known = learned_vectors(learned, config.vector_dim, config.seed)
    vectors = np.random.default_rng([config.seed, 3]).normal(size=(len(learned.pin_ids), config.vector_dim)).astype(np.float32)
    vectors[np.searchsorted(learned.pin_ids, known.ids)] = known.vectors
    return PinVectors(learned.pin_ids, vectors)


def _ranks(users: np.ndarray, known: UserSequences, pins: np.ndarray, target: np.ndarray, left_out: bool) -> np.ndarray:
    """Some users at once: a score for each user and item would be gigabytes."""
    out = []
    for begin in range(0, len(users), _AT_ONCE):
        some = np.arange(begin, min(begin + _AT_ONCE, len(users)))
        out.append(ranks(users[some] @ pins.T, target[some], known.take(some) if left_out else None))
    return np.concatenate(out)


def ranks(scores: np.ndarray, target: np.ndarray, known: UserSequences | None = None) -> np.ndarray:
    """How many other items score as high as the one to be found, or higher.

    Parameters
    ----------
    scores : float32[n, m]
    target : int64[n]
    known : UserSequences of n users, optional
        Whose items are left out.

    Returns
    -------
    int64[n]

    Raises
    ------
    DivergedError
        A score is not finite: nothing would be above it, so it would come first.
    """
    refuse_not_finite("user", scores)
    rows = np.arange(len(scores))
    above = scores >= scores[rows, target][:, None]
    if known is not None:
        above[known.owner, known.pin] = False
    above[rows, target] = False
    return above.sum(axis=1)


def hit_and_gain(rank: np.ndarray, k: int = K) -> dict[str, Any]:
    """HR@k, the share of users whose item is among the first k, and NDCG@k, the mean of 1 ÷ log₂(rank + 2) of these, 0 of others."""
    hit = rank < k
    return {
        f"hr@{k}": float(hit.mean()),
        f"ndcg@{k}": float(np.where(hit, 1 / np.log2(rank + 2.0), 0).mean()),
        "users": len(rank),
    }
