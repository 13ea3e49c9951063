"""Small worlds: random histories, and one in which what users will do follows from what they did."""

from __future__ import annotations

import numpy as np

from online_model.embedding.config import EmbeddingConfig
from online_model.embedding.pin_vectors import PinVectors
from online_model.embedding.sequences import UserSequences, sequences_of

DAY = 86_400_000
BEGIN = 1_700_000_000_000
ACTIONS = {"save": 4, "closeup": 1, "click": 2, "hide": 5}
SURFACES = {"homefeed": 0, "search": 2}
TINY = EmbeddingConfig(
    length=16, vector_dim=8, dim=16, layers=2, heads=2, hidden=32, head_hidden=16, output_dim=8, samples=4, random_negatives=16, batch_users=8,
    epochs=2, sketch_width=256, positives=("save", "closeup > 10s"),
)  # fmt: skip


def random_sequences(seed: int, users: int = 12, most: int = 40, pins: int = 30) -> UserSequences:
    """Histories with ties in time, users of one action, and pins of all kinds."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, most + 1, users)
    lengths[: max(1, users // 6)] = 1
    n = int(lengths.sum())
    user = rng.permutation(np.repeat(rng.choice(10_000, users, replace=False), lengths))
    time = BEGIN + rng.integers(0, 50, n) * DAY + rng.choice([0, 0, 1, 5_000, 3_600_000], n)
    duration = rng.choice([0, 9_999, 10_000, 10_001, 60_000], n)
    action, surface = rng.choice(list(ACTIONS.values()), n), rng.choice(list(SURFACES.values()), n)
    return sequences_of(user, rng.integers(100, 100 + pins, n), action, surface, duration, time, ACTIONS, SURFACES)


def random_vectors(seed: int, sequences: UserSequences, dim: int = 8, share: float = 0.9) -> PinVectors:
    """Vectors of most pins."""
    rng = np.random.default_rng(seed)
    ids = np.sort(rng.choice(sequences.pin_ids, max(1, int(share * len(sequences.pin_ids))), replace=False))
    return PinVectors(ids, rng.normal(size=(len(ids), dim)).astype(np.float32))


def of_one_user(count: int, action: str = "save", pins: int = 50, user: int = 7) -> UserSequences:
    """A user with so many actions, an hour apart."""
    at = np.arange(count)
    code = np.full(count, ACTIONS[action])
    return sequences_of(np.full(count, user), at % pins, code, 0 * at, 0 * at, BEGIN + at * 3_600_000, ACTIONS, SURFACES)


def tastes(seed: int, users: int = 120, actions: int = 24, groups: int = 4, pins_each: int = 8) -> UserSequences:
    """Each user saves pins of one group alone: whoever has seen the first ones can tell the rest."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), actions)
    pin = user % groups * pins_each + rng.integers(0, pins_each, len(user))
    time = BEGIN + np.tile(np.arange(actions), users) * 3_600_000
    none = np.zeros(len(user), np.int64)
    return sequences_of(user, pin, none + ACTIONS["save"], none, none, time, ACTIONS, SURFACES)
