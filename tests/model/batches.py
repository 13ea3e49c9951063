"""Batches of any features, small, for all tests of the model."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch

from online_model.model.config import ModelConfig
from online_model.model.inputs import Inputs

SMALL = {"dim": 4, "action_dim": 3, "surface_dim": 2, "encoder_hidden": 6, "cross_rank": 3, "experts": 3, "expert_hidden": 5, "slots": 4}


def config(**changes: object) -> ModelConfig:
    return ModelConfig(**{**SMALL, "sequence_length": 7, "first_outputs": 3, **changes})  # type: ignore[arg-type]


def batch(seed: int, rows: int, contexts: int, of: ModelConfig) -> Inputs:
    """The first request has no action, the second a whole sequence."""
    rng = np.random.default_rng(seed)
    length, dim = of.sequence_length, of.dim
    lengths = rng.integers(0, length + 1, contexts)
    lengths[:2] = [0, length][:contexts]
    mask = np.arange(length) < lengths[:, None]
    values = {
        "user": rng.normal(size=(rows, dim)).astype(np.float32),
        "pin": rng.normal(size=(rows, dim)).astype(np.float32),
        "context": rng.integers(0, contexts, rows),
        "sequence_pin": rng.normal(size=(contexts, length, dim)).astype(np.float32),
        "sequence_action": np.where(mask, rng.integers(1, 9, mask.shape), 0),
        "sequence_surface": np.where(mask, rng.integers(1, 9, mask.shape), 0),
        "sequence_age": np.where(mask, np.sort(rng.random(mask.shape) * 60, 1), 0).astype(np.float32),
        "sequence_mask": mask,
        "user_counters": (rng.random((contexts, 24)) * 16).astype(np.float32),
        "pin_counters": (rng.random((rows, 24)) * 16).astype(np.float32),
        "surface": rng.integers(0, 9, rows),
        "hour": rng.integers(0, 24, contexts),
        "weekday": rng.integers(0, 7, contexts),
        "slot": rng.integers(-1, 9, rows),
        "user_embedding": embedded(rng, rows, of.user_embedding),
    }
    return Inputs(**{name: torch.from_numpy(value) for name, value in values.items()})


def embedded(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    """Unit vectors with 1 behind; every third user has none."""
    if not width:
        return np.empty((rows, 0), np.float32)
    vectors = rng.normal(size=(rows, width))
    out = np.concatenate([vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.ones((rows, 1))], 1).astype(np.float32)
    out[::3] = 0
    return out


def arrays(inputs: Inputs) -> dict[str, np.ndarray]:
    return {field.name: getattr(inputs, field.name).detach().numpy() for field in fields(inputs)}
