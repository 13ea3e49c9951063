"""Tensors in files: safetensors and nothing else, for they can be read without executing what is in them. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flows.errors import SettingsError
from online_model.registry.errors import DamagedModelError

try:
    from safetensors import SafetensorError
    from safetensors.numpy import load, save
except ImportError as error:
    raise SettingsError(f"models need a package that is not installed ({error}): pip install 'tidemark[model]'") from error

State = Mapping[str, np.ndarray]
"""An embedding table: ids int64[n], weights float32[n, d], accumulators float32[n], counts int32[n], last_seen int64[n], default float32[d]."""
_NEEDED = {"ids": np.int64, "weights": np.float32, "default": np.float32}


def to_bytes(tensors: State) -> bytes:
    """Tensors as the content of a file: the same for the same tensors."""
    return save({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)})


def from_bytes(data: bytes, where: str) -> dict[str, np.ndarray]:
    """Tensors of a file; they can't be written to.

    Raises
    ------
    DamagedModelError
        It is no safetensors file.
    """
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise DamagedModelError(f"{where} holds no tensors that can be read (safetensors: {error})") from error


def check_table(state: State, where: str) -> None:
    """Refuse what is no embedding table: each ID has one row, and every weight is a number.

    Raises
    ------
    DamagedModelError
    """
    for name, dtype in _NEEDED.items():
        if name not in state or state[name].dtype != dtype:
            raise DamagedModelError(f"{where} is no embedding table: it has no tensor '{name}' of {np.dtype(dtype).name}")
    ids, weights, default = state["ids"], state["weights"], state["default"]
    if ids.ndim != 1 or default.ndim != 1 or weights.shape != (len(ids), len(default)):
        raise DamagedModelError(
            f"{where} is no embedding table: ids {ids.shape}, weights {weights.shape} and default {default.shape} don't fit each other"
        )
    if len(np.unique(ids)) != len(ids):
        raise DamagedModelError(f"{where}: an ID has more than one row")
    if not (np.isfinite(weights).all() and np.isfinite(default).all()):
        raise DamagedModelError(f"{where}: some weights are no numbers (nan or infinite)")
