"""One layer of a transformer's encoder, as Vaswani et al. 2017 have it: attention with one head, then two linear maps, each added and normalised.

Own code, for torch's layer takes another path when nobody trains, which gives other bits, and NaN where everything is masked.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class AttentionLayer(nn.Module):
    """y = norm(x + attention(x)), z = norm(y + W₂ relu(W₁ y)).

    Parameters
    ----------
    width, hidden : int
        Of a step, and between the two linear maps.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.asked = nn.Linear(width, 3 * width)  # query, key and value side by side
        self.attended = nn.Linear(width, width)
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm_attention, self.norm_forward = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, steps: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Steps that have looked at each other.

        Parameters
        ----------
        steps : float32[B, L, width]
        seen : bool[B, 1, L]
            What may be looked at, at least one step of each row.

        Returns
        -------
        float32[B, L, width]
        """
        query, key, value = self.asked(steps).chunk(3, -1)
        # With an axis of heads, though there is one: without it torch takes a path that is twice as slow.
        looked = functional.scaled_dot_product_attention(
            query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1), attn_mask=seen.unsqueeze(1)
        )
        steps = self.norm_attention(steps + self.attended(looked.squeeze(1)))
        return self.norm_forward(steps + self.second(functional.relu(self.first(steps))))
