"""Recurrent encoders, GRU and LSTM: what is left after reading a user's actions from the oldest to the newest.

They don't look at the candidate, so a request is encoded once however many candidates it has.
"""

from __future__ import annotations

import torch
from torch import nn

from online_model.model.config import Encoder, ModelConfig
from online_model.model.encoder import Encoded, SequenceEncoder, Steps
from online_model.model.inputs import Inputs


class RecurrentEncoder(SequenceEncoder):
    """The output at the newest action: float32[C, encoder_hidden]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.steps = Steps(config)
        kind = nn.GRU if config.encoder == Encoder.GRU else nn.LSTM
        self.cells = kind(config.step_width, config.encoder_hidden, batch_first=True)
        self.width = config.encoder_hidden

    def of_contexts(self, inputs: Inputs) -> Encoded:
        steps, lengths = self.steps(inputs), inputs.sequence_mask.sum(1)
        # Oldest first, the padding still behind: what follows the newest action can't change the output there.
        order = lengths.unsqueeze(1) - 1 - torch.arange(steps.shape[1], device=steps.device)
        order = torch.where(order >= 0, order, torch.arange(steps.shape[1], device=steps.device))
        outputs, _ = self.cells(torch.take_along_dim(steps, order.unsqueeze(-1), 1))
        newest = (lengths - 1).clamp(min=0).view(-1, 1, 1)
        return (torch.take_along_dim(outputs, newest, 1).squeeze(1) * (lengths > 0).unsqueeze(-1),)
