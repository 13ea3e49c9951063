"""Compiles every kernel once per installation, before the clock of a run starts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from flows.compile_cache import CACHE

_DONE = "warm"


def warm_up(say: Callable[[str], None]) -> None:
    """Compile what isn't compiled yet; says so first, for it takes some 20 s. Nothing to do after the first time.

    Parameters
    ----------
    say : callable
        Takes a line for the user.
    """
    if (CACHE / _DONE).exists():
        return
    # Only now: it needs everything, and a command that starts workers should not wait for that.
    from flows.run.made_up import run_everything

    say("compiling the kernels, once per installation (some 20 s)")
    with tempfile.TemporaryDirectory(prefix="tidemark-warm-up-") as directory:
        run_everything(Path(directory))
    (CACHE / _DONE).touch()
