"""Sampled softmax: how well the users' outputs tell their positive pins from the pool (section 3.3, equation 1)."""

from __future__ import annotations

import torch


def sampled_softmax(
    outputs: torch.Tensor,
    positive: torch.Tensor,
    candidates: torch.Tensor,
    own: torch.Tensor,
    log_q: torch.Tensor,
    positive_log_q: torch.Tensor,
    temperature: torch.Tensor,
    weight: torch.Tensor,
) -> torch.Tensor:
    """The loss of a batch.

    Parameters
    ----------
    outputs, positive : float32[E, D]
        Of length 1.
    candidates : float32[C, D]
    own : bool[E, C]
        Candidates that are left out.
    log_q, positive_log_q : float32[C], float32[E]
        Subtracted from logits.
    temperature : float32[]
    weight : float32[E]

    Returns
    -------
    float32[]
        Σ w (ln(exp(s⁺) + Σ exp(s⁻)) − s⁺), where s = u·p / τ − ln Q.
    """
    told = (outputs * positive).sum(-1) / temperature - positive_log_q
    others = torch.addmm(-log_q, outputs / temperature, candidates.T).masked_fill(own, -torch.inf)
    return (weight * (torch.logaddexp(told, torch.logsumexp(others, 1)) - told)).sum()
