"""What a ranking model is made of, as one value: the same configuration and seed make the same model.

It goes into every manifest, so a field never changes its meaning, and nothing here depends on the machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from flows.configured import configured
from flows.errors import SettingsError
from flows.examples.record import HEADS
from flows.features import SEQUENCE_LENGTH
from flows.vocabulary import suggestion


class Encoder(StrEnum):
    """How the actions of a user become one vector."""

    NONE = "none"
    MEAN = "mean"
    CNN = "cnn"
    GRU = "gru"
    LSTM = "lstm"
    VANILLA = "vanilla"
    TRANSACT_V1_0 = "transact_v1_0"
    TRANSACT_V1_1 = "transact_v1_1"


REVISIT = HEADS.index("revisit")
_COUNTS = {  # field: the least that makes sense
    "sequence_length": 1,
    "dim": 1,
    "action_dim": 1,
    "surface_dim": 1,
    "encoder_hidden": 1,
    "encoder_layers": 1,
    "first_outputs": 0,
    "cross_layers": 0,
    "cross_rank": 1,
    "experts": 1,
    "expert_hidden": 1,
    "slots": 1,
    "seed": 0,
    "user_embedding": 0,
}


@dataclass(frozen=True)
class ModelConfig:
    """A ranking model.

    Parameters
    ----------
    encoder : Encoder
        Mean pooling by default: what two CPU cores keep up with (docs/model.md has the figures).
    sequence_length : int
        So many of a user's newest actions are looked at, 1 to 100.
    dim : int
        Width of the vectors of users and pins, which are given to the model.
    action_dim, surface_dim : int
        Widths of what stands for an action and for a surface in a step of the sequence.
    encoder_hidden, encoder_layers : int
        Width of CNN, GRU, LSTM and of the transformers' feed-forward; layers of the transformers.
    first_outputs : int
        Of TransAct's outputs, the newest so many go on one by one, beside the maximum of all (TransAct, section 3.3).
    window_hours : float
        In training, TransAct does not see actions of a random time before the request, of up to so many hours.
    cross_layers, cross_rank : int
        Of DCNv2.
    experts, expert_hidden : int
        Of the mixture.
    expert_dropout : float
        In training a gate loses each expert with this probability.
    slots : int
        Slots 0 to slots − 1 are told apart; those below are one.
    serving_slot : int
        The slot that every candidate has when it is ranked.
    user_embedding : int
        Width of the vector of the user that the model is given beside that of their ID (`online_model.embedding`); 0: none.
    revisit_head, revisit_features : bool
        Without the head there are four logits; without the features the model doesn't see counters of revisits.
    seed : int
        Of the first weights.

    Raises
    ------
    SettingsError
        A value makes no model.
    """

    encoder: Encoder = Encoder.MEAN
    sequence_length: int = SEQUENCE_LENGTH
    dim: int = 32
    action_dim: int = 24
    surface_dim: int = 8
    encoder_hidden: int = 64
    encoder_layers: int = 2
    first_outputs: int = 10
    window_hours: float = 24.0
    cross_layers: int = 2
    cross_rank: int = 64
    experts: int = 4
    expert_hidden: int = 64
    expert_dropout: float = 0.1
    slots: int = 32
    serving_slot: int = 0
    revisit_head: bool = True
    revisit_features: bool = True
    seed: int = 0
    user_embedding: int = 0

    def __post_init__(self) -> None:
        names = [one.value for one in Encoder]
        if self.encoder not in names:
            raise SettingsError(
                f"model: there is no encoder '{self.encoder}'{suggestion(str(self.encoder), names)}; there are {', '.join(names)}"
            )
        object.__setattr__(self, "encoder", Encoder(self.encoder))
        for name, least in _COUNTS.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise SettingsError(f"model: {name} must be a whole number of at least {least}, not {value!r}")
        if self.sequence_length > SEQUENCE_LENGTH:
            raise SettingsError(
                f"model: sequence_length is at most {SEQUENCE_LENGTH}, which is what features hold, not {self.sequence_length}"
            )
        if not 0 <= self.serving_slot < self.slots:
            raise SettingsError(f"model: serving_slot must be one of the slots 0 to {self.slots - 1}, not {self.serving_slot!r}")
        if not 0 <= self.expert_dropout < 1:
            raise SettingsError(f"model: expert_dropout must be at least 0 and below 1, not {self.expert_dropout!r}")
        if not (math.isfinite(self.window_hours) and self.window_hours >= 0):
            raise SettingsError(f"model: window_hours must be 0 or more, not {self.window_hours!r}")

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of the logits, in their order."""
        return HEADS if self.revisit_head else HEADS[:REVISIT]

    @property
    def step_width(self) -> int:
        """Width of a step of the sequence without the candidate."""
        return self.dim + self.action_dim + self.surface_dim

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a manifest keeps them."""
        said = asdict(self) | {"encoder": self.encoder.value}
        if not self.user_embedding:
            # As manifests were before there was such an input.
            del said["user_embedding"]
        return said

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave.

        Raises
        ------
        SettingsError
            A field isn't known, or makes no model.
        """
        return configured(cls, values, "model")
