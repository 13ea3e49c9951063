"""What the embedding table is measured against: torch's EmbeddingBag with sparse gradients and an optimiser of its own, given each ID's place ready.

Bags of one, so that a batch's vectors come back one by one. torch knows no IDs, counts nobody, admits and forgets nobody.
"""

from __future__ import annotations

import numpy as np
import torch

# As many as the table uses.
torch.set_num_threads(1)
# Said either way, or torch warns that nobody has said it. Checks would only make it slower.
torch.sparse.check_sparse_tensor_invariants.disable()


class TorchTable:
    """An EmbeddingBag and its optimiser.

    Parameters
    ----------
    rows, dimension : int
    optimiser : {"sparse_adam", "adagrad"}
    learning_rate : float
    """

    def __init__(self, rows: int, dimension: int, optimiser: str, learning_rate: float) -> None:
        self.bag = torch.nn.EmbeddingBag(rows, dimension, mode="sum", sparse=True)
        torch.nn.init.zeros_(self.bag.weight)
        make = {"sparse_adam": torch.optim.SparseAdam, "adagrad": torch.optim.Adagrad}[optimiser]
        self.optimiser = make(self.bag.parameters(), lr=learning_rate)

    def step(self, places: torch.Tensor, offsets: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        """Vectors of a batch, and one update by their gradients.

        Parameters
        ----------
        places, offsets : int64[n]
        gradients : f32[n, d]

        Returns
        -------
        f32[n, d]
            As they were before the update.
        """
        self.optimiser.zero_grad()
        out: torch.Tensor = self.bag(places, offsets)
        out.backward(gradients)
        self.optimiser.step()
        return out.detach()

    def vectors(self) -> np.ndarray:
        """All of them, f32[rows, d]."""
        return self.bag.weight.detach().numpy()
