"""The loss: weighted binary cross-entropy, summed over the heads of which an example says something (TransAct, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional

from flows.examples.record import MASKED
from online_model.model.heads import HEAD_WEIGHTS, check_weights


def loss_of(logits: torch.Tensor, labels: torch.Tensor, head_weights: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Σ over rows and heads of weight · head weight · cross-entropy, divided by the number of rows.

    Parameters
    ----------
    logits : float32[B, heads]
    labels : int8[B, heads]
        0, 1 or MASKED; a masked head adds nothing, and no gradient.
    head_weights : float32[heads]
    weights : float32[B, 1] or float32[B, heads]
        Of rows (what down-sampling took away), or of rows and heads (what delayed labels ask for).

    Returns
    -------
    float32[]
    """
    said = labels != MASKED
    each = functional.binary_cross_entropy_with_logits(logits, (labels == 1).to(logits.dtype), reduction="none")
    # Not each · weight where the head is masked: 0 · inf is no number.
    return (each * head_weights * weights).masked_fill(~said, 0.0).sum() / max(len(logits), 1)


def weights_of(heads: tuple[str, ...], weights: Mapping[str, float] = HEAD_WEIGHTS) -> torch.Tensor:
    """Weights by name as float32[heads], in the order of `heads`.

    Raises
    ------
    SettingsError
        A head has no weight, or there is none of that name.
    """
    check_weights(heads, weights)
    return torch.tensor([weights[name] for name in heads], dtype=torch.float32)
