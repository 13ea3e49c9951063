"""What every encoder of a user's actions is: a part for each request, done once, and a part for each candidate.

An encoder must say the same of a request whatever padding follows its actions, and zeros where there are none.
"""

from __future__ import annotations

import torch
from torch import nn

from online_model.model.columns import CODES
from online_model.model.config import ModelConfig
from online_model.model.inputs import Inputs

Encoded = tuple[torch.Tensor, ...]
"""What is known of C requests before any candidate is looked at; each tensor has C rows."""


class SequenceEncoder(nn.Module):
    """The base of encoders: one that doesn't look at the candidate gives a vector for each request.

    Attributes
    ----------
    width : int
        Of the vectors.
    """

    width: int

    def of_contexts(self, inputs: Inputs) -> Encoded:
        """Encode the requests: float32[C, …] each."""
        raise NotImplementedError

    def of_rows(self, encoded: Encoded, context: torch.Tensor, pin: torch.Tensor) -> torch.Tensor:
        """A vector for each candidate.

        Parameters
        ----------
        encoded : Encoded
        context : int64[B]
        pin : float32[B, d]

        Returns
        -------
        float32[B, width]
        """
        return encoded[0].index_select(0, context)


class NoEncoder(SequenceEncoder):
    """Nothing is said of the sequence: what a model is worth without it."""

    width = 0

    def of_contexts(self, inputs: Inputs) -> Encoded:
        return (inputs.user_counters.new_zeros(len(inputs.sequence_mask), 0),)


class Steps(nn.Module):
    """A step of the sequence as a vector: pin, action and surface side by side (TransAct, section 3.3.1).

    `forward` gives float32[C, L, d + action_dim + surface_dim], zeros where there is no action.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.action = nn.Embedding(CODES, config.action_dim, padding_idx=0)
        self.surface = nn.Embedding(CODES, config.surface_dim, padding_idx=0)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        pin = inputs.sequence_pin * inputs.sequence_mask.unsqueeze(-1)
        return torch.cat([pin, self.action(inputs.sequence_action), self.surface(inputs.sequence_surface)], -1)
