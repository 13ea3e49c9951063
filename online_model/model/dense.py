"""A model's own weights as one safetensors file, and back. Nothing is unpickled, and equal weights are equal bytes."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from flows.errors import CorruptionError
from online_model.model.config import ModelConfig
from online_model.model.ranker import Ranker


def save_dense(ranker: Ranker, path: Path) -> None:
    """Write the weights; the caller syncs."""
    save_file({name: value.detach().cpu().contiguous() for name, value in ranker.state_dict().items()}, path)


def load_dense(config: ModelConfig, path: Path, device: str | torch.device = "cpu") -> Ranker:
    """The model that was saved.

    Parameters
    ----------
    config : ModelConfig
        What it was made of.
    path : Path
    device : str or torch.device

    Raises
    ------
    CorruptionError
        The file is damaged, or holds another model's weights.
    """
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CorruptionError(f"model {path}: can't be read ({error}); use another base, or restore this one from a copy") from error
    ranker = Ranker(config)
    expected = ranker.state_dict()
    for name in expected.keys() | weights.keys():
        if name not in weights or name not in expected or weights[name].shape != expected[name].shape:
            raise CorruptionError(f"model {path}: '{name}' is not as its configuration says; take the configuration of its own manifest")
    if any(not torch.isfinite(value).all() for value in weights.values()):
        raise CorruptionError(f"model {path}: some weights are no finite numbers; use another base")
    ranker.load_state_dict(weights)
    return ranker.to(device)
