"""What Adam remembers of a model's own weights, as one safetensors file: part of a base, so that the next training goes on where the last one was."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from flows.errors import CorruptionError

OPTIMIZER = "optimizer.safetensors"


def save_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Write it; the caller syncs."""
    state = optimizer.state_dict()["state"]
    flat = {f"{number}.{name}": value.detach().cpu().contiguous() for number, of in state.items() for name, value in of.items()}
    save_file(flat, path)


def load_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Fill an optimiser of the same weights.

    Raises
    ------
    CorruptionError
        The file is damaged, or of other weights.
    """
    state: dict[int, dict[str, torch.Tensor]] = {}
    try:
        for key, value in load_file(path).items():
            number, name = key.split(".", 1)
            state.setdefault(int(number), {})[name] = value
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptionError(f"optimiser {path}: can't be read ({error}); use another base, or restore this one from a copy") from error
    groups = optimizer.state_dict()["param_groups"]
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    fits = all(
        number < len(weights) and value.shape in (weights[number].shape, ()) for number, of in state.items() for value in of.values()
    )
    if not fits:
        raise CorruptionError(f"optimiser {path}: it is of other weights than the model's; take that of the model's own base")
    optimizer.load_state_dict({"state": state, "param_groups": groups})
