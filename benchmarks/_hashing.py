"""What cores give to work that shares nothing: `python -m benchmarks._hashing CORE` hashes for a second once it is told to, and says how much."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_DATA = bytes(1 << 20)
_SECONDS = 1.0


def rate(cores: Sequence[int]) -> float:
    """MiB per second that processes hash, one on each core, all at once."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks._hashing", str(core)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        for core in cores
    ]
    for process in processes:
        process.stdout.readline()  # type: ignore[union-attr]
    for process in processes:
        process.stdin.write("go\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    return sum(float(process.communicate()[0]) for process in processes)


def _hash() -> float:
    started, n = time.perf_counter(), 0
    while (took := time.perf_counter() - started) < _SECONDS:
        hashlib.blake2b(_DATA).digest()
        n += 1
    return n / took


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[1])})
    print("ready", flush=True)
    sys.stdin.readline()
    print(_hash())
