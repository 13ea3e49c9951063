"""Harm to files: a bit, a tail, all of it."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random


def flip(path: Path, rng: Random, start: int = 0, end: int | None = None) -> str:
    """Turn one bit of a file over, between two offsets; says which."""
    at, bit = rng.randrange(start, path.stat().st_size if end is None else end), rng.randrange(8)
    with path.open("r+b") as file:
        file.seek(at)
        [value] = file.read(1)
        file.seek(at)
        file.write(bytes([value ^ 1 << bit]))
    return f"bit {bit} of byte {at:,} of {path.name}"


def cut(path: Path, rng: Random) -> str:
    """Cut off more than the second half of a file; says where."""
    size = path.stat().st_size
    kept = rng.randrange(size // 2 + 1)
    os.truncate(path, kept)
    return f"{path.name} cut to {kept:,} of {size:,} bytes"
