"""What the model is given: features as torch tensors, and the vectors of IDs, which others own.

A vector that is no number is refused here, and one that is too large is cut, so that nothing behind has to look.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch

from flows.errors import InputError
from flows.examples.rows import FeatureRows
from online_model.model.columns import ExampleColumns, Features
from online_model.model.config import ModelConfig
from online_model.table.kernels.updates import first_unusable

VECTOR_LIMIT = 100.0
"""No component of an ID's vector counts for more. Learned ones lie within a few units; beyond, products of the cross layers would overflow."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """A batch of B candidates of C requests.

    Attributes
    ----------
    user, pin : float32[B, d]
        Vectors of the user and of the candidate.
    context : int64[B]
        Which of the C requests.
    sequence_pin : float32[C, L, d]
        Vectors of the pins that the user acted on, newest first.
    sequence_action, sequence_surface : int64[C, L]
        1 + code, 0 is padding.
    sequence_age : float32[C, L]
        Hours before the request.
    sequence_mask : bool[C, L]
        Whether there is an action.
    user_counters, pin_counters : float32[C, 24], float32[B, 24]
        log1p.
    surface, slot : int64[B]
        1 + code, 0 for none; the slot, -1 for not known.
    hour, weekday : int64[C]
    user_embedding : float32[B, D + 1]
        The user's vector of an embedding, and 1; zeros where there is none. Of width 0 for a model that takes none.
    """

    user: torch.Tensor
    pin: torch.Tensor
    context: torch.Tensor
    sequence_pin: torch.Tensor
    sequence_action: torch.Tensor
    sequence_surface: torch.Tensor
    sequence_age: torch.Tensor
    sequence_mask: torch.Tensor
    user_counters: torch.Tensor
    pin_counters: torch.Tensor
    surface: torch.Tensor
    hour: torch.Tensor
    weekday: torch.Tensor
    slot: torch.Tensor
    user_embedding: torch.Tensor

    def __len__(self) -> int:
        return len(self.pin)

    def to(self, device: str | torch.device) -> Self:
        """The same on another device."""
        return type(self)(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


CONTEXT_FIELDS = (
    "sequence_pin",
    "sequence_action",
    "sequence_surface",
    "sequence_age",
    "sequence_mask",
    "user_counters",
    "hour",
    "weekday",
)
"""The fields of `Inputs` that have a row per request; the others have one per candidate."""


def features_of(rows: FeatureRows, config: ModelConfig) -> Features:
    """Rows as one batch, in their order.

    Raises
    ------
    InputError
        A row holds what no vocabulary and no counter can say.
    """
    return ExampleColumns.of([rows]).all_features(config.sequence_length)


def inputs_of(features: Features, user: np.ndarray, pin: np.ndarray, sequence_pin: np.ndarray, *, within: bool = False) -> Inputs:
    """Features with the vectors of their IDs.

    Parameters
    ----------
    features : Features
    user, pin : float32[n, d]
    sequence_pin : float32[c, l, d]
    within : bool
        Whether it is known that all vectors are numbers within ±VECTOR_LIMIT, and nobody has to look.

    Raises
    ------
    InputError
        A vector or a counter is no number.
    """
    if not within:
        user, pin = _bounded("the vector of a user", user), _bounded("the vector of a pin", pin)
        sequence_pin = _bounded("the vector of a pin of a sequence", sequence_pin)
    return Inputs(
        user=torch.from_numpy(user),
        pin=torch.from_numpy(pin),
        sequence_pin=torch.from_numpy(sequence_pin),
        user_counters=torch.from_numpy(_numbers("a user counter", features.user_counters)),
        pin_counters=torch.from_numpy(_numbers("a pin counter", features.pin_counters)),
        user_embedding=torch.from_numpy(_numbers("an embedding of a user", features.user_embedding)),
        **{
            name: torch.from_numpy(np.ascontiguousarray(getattr(features, name)))
            for name in (
                "context",
                "sequence_action",
                "sequence_surface",
                "sequence_age",
                "sequence_mask",
                "surface",
                "hour",
                "weekday",
                "slot",
            )
        },
    )


def _numbers(what: str, values: np.ndarray) -> np.ndarray:
    values = np.ascontiguousarray(values, np.float32)
    if _beyond(values, np.finfo(np.float32).max):
        row = int(np.argwhere(~np.isfinite(values))[0, 0])
        raise InputError(f"model: {what} is not a finite number (row {row}); restore the table or the features that it came from")
    return values


def _beyond(values: np.ndarray, limit: np.float32) -> bool:
    """Whether a value is not within ±limit, or no number."""
    return values.size > 0 and bool(first_unusable(values.reshape(-1, values.shape[-1]), limit) >= 0)


def _bounded(what: str, values: np.ndarray) -> np.ndarray:
    values = np.ascontiguousarray(values, np.float32)
    if _beyond(values, np.float32(VECTOR_LIMIT)):
        return np.clip(_numbers(what, values), -VECTOR_LIMIT, VECTOR_LIMIT)
    return values
