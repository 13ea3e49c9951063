"""Experts that all heads share, mixed by a gate of each head (MMoE: Ma et al. 2018), and the heads.

In training a gate loses experts at random, for gates tend to collapse onto one (Zhao et al. 2019, "Recommending what video to watch next").
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Mixture(nn.Module):
    """float32[B, heads, hidden] of float32[B, width]: Σ_e softmax(gate_h x)_e · relu(expert_e x).

    Parameters
    ----------
    width, heads, experts, hidden : int
    dropout : float
        In training, the chance that a head doesn't see an expert in an example; the rest of its gate adds up to 1. Instead of none it sees all.
    """

    def __init__(self, width: int, heads: int, experts: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.experts = nn.Linear(width, experts * hidden)
        self.gates = nn.Linear(width, heads * experts)
        self.shape = (experts, hidden)
        self.heads, self.dropout = heads, dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        said = functional.relu(self.experts(x)).view(-1, *self.shape)
        return torch.bmm(self.shares(x), said)

    def shares(self, x: torch.Tensor) -> torch.Tensor:
        """How much of each expert a head takes: float32[B, heads, experts]; the last adds up to 1."""
        gates = self.gates(x).view(-1, self.heads, self.shape[0])
        if self.training and self.dropout:
            kept = torch.rand(gates.shape, device=gates.device) >= self.dropout
            gates = gates.masked_fill(~kept & kept.any(-1, keepdim=True), float("-inf"))
        return torch.softmax(gates, -1)


class Heads(nn.Module):
    """A logit for each head of its own mixture: float32[B, heads] of float32[B, heads, hidden].

    They begin at a chance of 5 %, for outcomes are rare, and an epoch is short.
    """

    def __init__(self, heads: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, hidden))
        self.bias = nn.Parameter(torch.full((heads,), -2.944))
        nn.init.uniform_(self.weight, -(hidden**-0.5), hidden**-0.5)

    def forward(self, mixed: torch.Tensor) -> torch.Tensor:
        return (mixed * self.weight).sum(-1) + self.bias
