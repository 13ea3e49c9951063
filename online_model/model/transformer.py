"""Transformer encoders: a plain one, and TransAct in its two versions.

v1.0 reads a user's actions alone; v1.1, the published TransAct (Xia et al. 2023, arXiv 2306.00248), has the candidate in every step, so that
each candidate needs a pass of its own. In training both miss the actions of a random time before the request, or they would learn to
repeat the last one.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from online_model.model.attention import AttentionLayer
from online_model.model.config import ModelConfig
from online_model.model.encoder import Encoded, SequenceEncoder, Steps
from online_model.model.inputs import Inputs


def readable(mask: torch.Tensor) -> torch.Tensor:
    """What attention may look at: bool[C, 1, L] of bool[C, L]. A row without any step looks at all, which gives finite numbers; they are not used."""
    return (mask | ~mask.any(1, keepdim=True)).unsqueeze(1)


class VanillaEncoder(SequenceEncoder):
    """Positions added as sines (Vaswani et al. 2017, section 3.5), layers, the mean of their outputs: float32[C, d + action_dim + surface_dim]."""

    positions: torch.Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.steps = Steps(config)
        self.width = config.step_width
        self.layers = nn.ModuleList(AttentionLayer(self.width, config.encoder_hidden) for _ in range(config.encoder_layers))
        self.register_buffer("positions", sines(config.sequence_length, self.width), persistent=False)

    def of_contexts(self, inputs: Inputs) -> Encoded:
        mask = inputs.sequence_mask
        steps, seen = self.steps(inputs) + self.positions[: mask.shape[1]], readable(mask)
        for layer in self.layers:
            steps = layer(steps, seen)
        share = mask / mask.sum(1, keepdim=True).clamp(min=1)
        return (torch.bmm(share.unsqueeze(1), steps).squeeze(1),)


class _TransAct(SequenceEncoder):
    """What both versions do: mask, layers, and of the outputs the newest few one by one and the maximum of all (section 3.3.3).

    Outputs of steps that are masked are zeros, and take no maximum.
    """

    def __init__(self, config: ModelConfig, width: int) -> None:
        super().__init__()
        self.steps = Steps(config)
        self.layers = nn.ModuleList(AttentionLayer(width, config.encoder_hidden) for _ in range(config.encoder_layers))
        self.pooled = nn.Linear(width, width)
        self.window_hours = config.window_hours
        self.first_outputs = min(config.first_outputs, config.sequence_length)
        self.width = (self.first_outputs + 1) * width

    def mask(self, inputs: Inputs) -> torch.Tensor:
        """The actions that are looked at, bool[C, L]: in training, not those of a random time before the request (section 3.3.2)."""
        if not self.training:
            return inputs.sequence_mask
        window = torch.rand(len(inputs.sequence_age), 1, device=inputs.sequence_age.device) * self.window_hours
        return inputs.sequence_mask & (inputs.sequence_age >= window)

    def compressed(self, steps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Through the layers, and put together: float32[B, width] of float32[B, L, step] and bool[B, L]."""
        seen = readable(mask)
        for layer in self.layers:
            steps = layer(steps, seen)
        shown = mask.unsqueeze(-1)
        highest = steps.masked_fill(~shown, -math.inf).amax(1)
        highest = torch.where(mask.any(1, keepdim=True), highest, torch.zeros_like(highest))
        first = (steps * shown)[:, : self.first_outputs]
        missing = self.first_outputs - first.shape[1]
        if missing:
            first = nn.functional.pad(first, (0, 0, 0, missing))
        return torch.cat([first.flatten(1), self.pooled(highest)], -1)


class TransActEncoder(_TransAct):
    """v1.0: a step is [engaged pin, action]; the candidate meets the result in the cross layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, config.step_width)

    def of_contexts(self, inputs: Inputs) -> Encoded:
        return (self.compressed(self.steps(inputs), self.mask(inputs)),)


class EarlyTransActEncoder(_TransAct):
    """v1.1: a step is [candidate, engaged pin, action] (early fusion by concatenation, section 3.3.1)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, config.dim + config.step_width)

    def of_contexts(self, inputs: Inputs) -> Encoded:
        return self.steps(inputs), self.mask(inputs)

    def of_rows(self, encoded: Encoded, context: torch.Tensor, pin: torch.Tensor) -> torch.Tensor:
        steps, mask = (one.index_select(0, context) for one in encoded)
        candidate = pin.unsqueeze(1).expand(-1, steps.shape[1], -1)
        return self.compressed(torch.cat([candidate, steps], -1), mask)


def sines(length: int, width: int) -> torch.Tensor:
    """Positions as float32[length, width]."""
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10_000.0) / width))
    angles = torch.arange(length, dtype=torch.float64).unsqueeze(1) * rates
    out = torch.zeros(length, width, dtype=torch.float64)
    out[:, 0::2], out[:, 1::2] = torch.sin(angles), torch.cos(angles)[:, : width // 2]
    return out.float()
