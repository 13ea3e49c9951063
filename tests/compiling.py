"""Has all loops compiled before the workers of pytest-xdist begin: on a clean checkout each of them would do so for itself, at once."""

from __future__ import annotations

import tempfile
from pathlib import Path

from flows.compile_cache import CACHE
from tests.processes import simulate

if __name__ == "__main__":
    done = CACHE / "compiled-before-tests"
    if not done.exists():
        with tempfile.TemporaryDirectory() as directory:
            simulate(Path(directory), events=500)
        done.touch()
