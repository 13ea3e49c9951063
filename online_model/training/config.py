"""How a model is trained, as one value. It goes into the manifest, for it decides every weight together with examples, start and build of torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flows.errors import SettingsError
from online_model.model.heads import HEAD_WEIGHTS, check_weights


@dataclass(frozen=True)
class TrainingConfig:
    """One epoch.

    Parameters
    ----------
    batch_size : int
    learning_rate : float
        Of Adam, for the model's own weights.
    table_learning_rate : float
        Of row-wise Adagrad, for the vectors of IDs.
    negatives_kept : float
        α: of the examples that are negative on every head so many are learned from, each with weight 1/α; all others stay as they are.
    id_dropout : float
        With this chance an ID counts as unknown, so that the default row learns what to say of those.
    accumulator_decay : float
        What rows' accumulators are multiplied with at the beginning: they only grow, and rates would die.
    head_weights : mapping of str to float
    checkpoint_every : int
        Batches.
    seed : int
        Of order, down-sampling, dropout and window masks.

    Raises
    ------
    SettingsError
        A value makes no training.
    """

    batch_size: int = 512
    learning_rate: float = 3e-3
    table_learning_rate: float = 0.05
    negatives_kept: float = 1.0
    id_dropout: float = 0.05
    accumulator_decay: float = 0.5
    head_weights: Mapping[str, float] = field(default_factory=lambda: dict(HEAD_WEIGHTS))
    checkpoint_every: int = 1_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in {"batch_size": 1, "checkpoint_every": 1, "seed": 0}.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise SettingsError(f"training: {name} must be a whole number of at least {least}, not {value!r}")
        for name, low, high in (
            ("learning_rate", 0.0, 1e3),
            ("table_learning_rate", 0.0, 1e3),
            ("negatives_kept", 0.0, 1.0),
            ("accumulator_decay", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and low < value <= high):
                raise SettingsError(f"training: {name} must be above {low:g} and at most {high:g}, not {value!r}")
        if not 0 <= self.id_dropout < 1:
            raise SettingsError(f"training: id_dropout must be at least 0 and below 1, not {self.id_dropout!r}")
        check_weights(tuple(HEAD_WEIGHTS), self.head_weights)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a manifest keeps them."""
        return asdict(self) | {"head_weights": dict(self.head_weights)}
