"""Imports Feast without the two things that make its import slow and that nobody here uses.

Measured with 0.67.0 on one shared core: 6.5 s and 780 MB as it is, 1.2 s and 180 MB so. The rest is `typeguard`, which reads the source of
Feast's classes again and compiles it with type checks (3.3 s), and torch (2.0 s, 600 MB), which only `OnlineResponse.to_tensor` needs.
Must never change what Feast computes, nor touch a Feast that is imported already (the `feast` command's own).
"""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from typing import Any

_TORCH_WRAPPER = "feast.torch_wrapper"


def import_feast() -> None:
    """Import Feast, unless somebody has."""
    if "feast" in sys.modules:
        return
    import typeguard

    # Feast asks this module for torch, and its own version imports torch at once. Ours waits for the first to_tensor().
    wrapper = types.ModuleType(_TORCH_WRAPPER, "torch, imported when it is first asked for")
    wrapper.get_torch = lambda: importlib.import_module("torch")  # type: ignore[attr-defined]
    sys.modules.setdefault(_TORCH_WRAPPER, wrapper)

    typechecked = typeguard.typechecked
    typeguard.typechecked = _unchecked  # what typeguard itself does under `python -O`
    try:
        # Feast sets "once" filters for all DeprecationWarnings and RuntimeWarnings of the process; ours are the application's to set.
        with warnings.catch_warnings():
            importlib.import_module("feast")
    finally:
        typeguard.typechecked = typechecked


def _unchecked(target: Any = None, **_options: Any) -> Any:
    return target if target is not None else _unchecked
