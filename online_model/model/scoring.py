"""Logits of any number of rows, the same to the bit whatever rows they are asked for with, and what probabilities are worth together.

Matrix products of other shapes add up in another order. So rows and requests go through the model in blocks of one size, filled up with
copies, and nothing of a block says where in it a row lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

import numpy as np
import torch

from flows.errors import SettingsError
from online_model.model.inputs import CONTEXT_FIELDS, Inputs
from online_model.model.ranker import Ranker

ROW_BLOCK = 64
CONTEXT_BLOCK = 8
UTILITY: Mapping[str, float] = {"click": 0.5, "long_click": 1.0, "save": 2.0, "hide": -5.0, "revisit": 2.0}
"""What an outcome is worth. Nobody has published such weights; by these a save is worth four clicks, and a hide costs more than any other gives."""
_ROW_FIELDS = tuple(field.name for field in fields(Inputs) if field.name not in CONTEXT_FIELDS)


def score_rows(ranker: Ranker, inputs: Inputs) -> np.ndarray:
    """Logits as they are served: every candidate in the serving slot.

    Equal to the bit alone and in any batch on one machine: torch build, instruction set, threads and device decide the bits.

    Parameters
    ----------
    ranker : Ranker
        Left in the mode (training or not) that it was in.
    inputs : Inputs
        B candidates of C requests, on the ranker's device.

    Returns
    -------
    float32[B, heads]
    """
    training = ranker.training
    if training:  # either way takes as long as a block of rows
        ranker.eval()
    try:
        with torch.inference_mode():
            return _scored(ranker, inputs)
    finally:
        if training:
            ranker.train()


def _scored(ranker: Ranker, inputs: Inputs) -> np.ndarray:
    rows, contexts = len(inputs), len(inputs.hour)
    if not rows:
        return np.empty((0, len(ranker.config.heads)), np.float32)
    starts = range(0, contexts, CONTEXT_BLOCK)
    blocks = [ranker.encoder.of_contexts(_some(inputs, CONTEXT_FIELDS, _block(start, CONTEXT_BLOCK, contexts, inputs))) for start in starts]
    encoded = tuple(torch.cat(parts) for parts in zip(*blocks, strict=True))
    fixed = replace(inputs, slot=torch.full_like(inputs.slot, ranker.config.serving_slot))
    own = torch.arange(ROW_BLOCK, device=inputs.context.device)
    logits = []
    for start in range(0, rows, ROW_BLOCK):
        block = _some(fixed, _ROW_FIELDS, _block(start, ROW_BLOCK, rows, inputs))
        # Of requests too there are as many as of rows, one each.
        shared = _some(block, ("user_counters", "hour", "weekday"), block.context)
        logits.append(ranker.logits(tuple(one.index_select(0, block.context) for one in encoded), replace(shared, context=own)))
    return torch.cat(logits)[:rows].cpu().numpy()


def _block(start: int, size: int, of: int, inputs: Inputs) -> torch.Tensor:
    """Indices of a whole block, the last one again and again behind the end."""
    return torch.arange(start, start + size, device=inputs.context.device).clamp(max=of - 1)


def _some(inputs: Inputs, names: tuple[str, ...], index: torch.Tensor) -> Inputs:
    return replace(inputs, **{name: getattr(inputs, name).index_select(0, index) for name in names})


def utility_of(probabilities: np.ndarray, heads: tuple[str, ...], weights: Mapping[str, float] = UTILITY) -> np.ndarray:
    """The score that candidates are ranked by: Σ weight · probability; a hide counts against.

    Parameters
    ----------
    probabilities : float64[n, heads]
        Calibrated, in the order of `heads`.
    heads : tuple of str
    weights : mapping of str to float

    Returns
    -------
    float64[n]

    Raises
    ------
    SettingsError
        A head has no weight.
    """
    missing = [name for name in heads if name not in weights]
    if missing:
        raise SettingsError(f"model: head '{missing[0]}' has no utility; there must be one for each of {', '.join(heads)}")
    score = np.zeros(len(probabilities))
    for i, name in enumerate(heads):
        score += weights[name] * probabilities[:, i]
    return score
