"""Encoders that forget the order of a user's actions, or all but their neighbours: mean pooling and a convolution.

Neither looks at the candidate, so a request is encoded once however many candidates it has.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from online_model.model.columns import CODES
from online_model.model.config import ModelConfig
from online_model.model.encoder import Encoded, SequenceEncoder, Steps
from online_model.model.inputs import Inputs

_KERNEL = 3


class MeanEncoder(SequenceEncoder):
    """The mean of the steps: float32[C, d + action_dim + surface_dim].

    The mean of steps is the means of their parts side by side, so the steps are never put together.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.steps = Steps(config)
        self.width = config.step_width

    def of_contexts(self, inputs: Inputs) -> Encoded:
        mask = inputs.sequence_mask
        share = mask / mask.sum(1, keepdim=True).clamp(min=1)
        pin = torch.bmm(share.unsqueeze(1), inputs.sequence_pin).squeeze(1)
        action = _shares(share, inputs.sequence_action) @ self.steps.action.weight
        surface = _shares(share, inputs.sequence_surface) @ self.steps.surface.weight
        return (torch.cat([pin, action, surface], -1),)


def _shares(share: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """How much of a sequence each code is, float32[C, CODES]: with them a mean of embeddings is one product, a tenth of an embedding bag's time."""
    return share.new_zeros(len(codes), CODES).scatter_add_(1, codes, share)


class CnnEncoder(SequenceEncoder):
    """Convolution over three neighbouring steps, then the maximum over the sequence: float32[C, encoder_hidden]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.steps = Steps(config)
        self.convolution = nn.Conv1d(config.step_width, config.encoder_hidden, _KERNEL, padding=_KERNEL // 2)
        self.width = config.encoder_hidden

    def of_contexts(self, inputs: Inputs) -> Encoded:
        convolved = functional.relu(self.convolution(self.steps(inputs).transpose(1, 2)))
        # ReLU gives at least 0, so a step that isn't there takes no maximum, and a request without actions is zeros.
        return ((convolved * inputs.sequence_mask.unsqueeze(1)).amax(-1),)
