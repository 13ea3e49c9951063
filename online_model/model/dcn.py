"""Cross layers: DCN V2 (Wang et al. 2021, arXiv 2008.13535) with weights of low rank. What they must not do is mix rows."""

from __future__ import annotations

import torch
from torch import nn


class CrossNetwork(nn.Module):
    """x_{i+1} = x_0 ⊙ (U_i V_i x_i + b_i) + x_i, float32[B, width] (equations 1 and 2, without a mixture).

    Parameters
    ----------
    width, layers, rank : int
    """

    def __init__(self, width: int, layers: int, rank: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(width, rank, bias=False) for _ in range(layers))
        self.up = nn.ModuleList(nn.Linear(rank, width) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        crossed = x
        for down, up in zip(self.down, self.up, strict=True):
            crossed = torch.addcmul(crossed, x, up(down(crossed)))
        return crossed
