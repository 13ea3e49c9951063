"""What every benchmark does alike: the machine it ran on, medians with their spread, memory, and the one way in which a check fails."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

_PACKAGES = ("bytewax", "numba", "numpy", "orjson", "pandas", "pyarrow", "rocksdict")


class CheckFailedError(Exception):
    """A result is wrong: nothing is timed and no figure is printed."""


def machine() -> dict[str, Any]:
    """The machine and the versions, as every benchmark prints them."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory": f"{_kilobytes('/proc/meminfo', 'MemTotal') / 2**20:.1f} GiB",
        "cpu": _cpu(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
    }


def available() -> int:
    """Bytes of memory that are free, or can be made so."""
    return int(1024 * _kilobytes("/proc/meminfo", "MemAvailable"))


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Median, least and greatest of repeats."""
    return {"median": round(statistics.median(values), digits), "min": round(min(values), digits), "max": round(max(values), digits)}


def ratio(of: Sequence[float], to: Sequence[float], digits: int = 3) -> dict[str, float]:
    """The ratio of two series that were measured in turns, pair by pair."""
    return spread([a / b for a, b in zip(of, to, strict=True)], digits)


class Clock:
    """Seconds since it was made: by the clock, and of all cores (all threads of this process)."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """``seconds`` and ``cpu_seconds``."""
        return {"seconds": time.perf_counter() - self._wall, "cpu_seconds": time.process_time() - self._cpu}


def show_ratios(result: dict[str, Any], console: Console) -> None:
    """The ratios of a benchmark's result, for a reader."""
    for name, value in result["ratios"].items():
        console.print(f"{name}: {value['median']:.3g} ({value['min']:.3g} to {value['max']:.3g})")


def where(result: dict[str, Any]) -> str:
    """The machine of a benchmark's result, for a reader."""
    machine = result["machine"]
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['memory']}"


def console() -> Console:
    """Where tables go; wide enough for them where no terminal says how wide it is."""
    return Console(width=None if sys.stdout.isatty() else 120)


def forget_peak() -> float:
    """Let the peak of this process's memory count from now on; returns what it holds now, MiB."""
    # Not getrusage: over fork and exec its maximum starts at what the parent held.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _kilobytes("/proc/self/status", "VmRSS") / 1024


def peak() -> float:
    """The most memory that this process has held, MiB."""
    return _kilobytes("/proc/self/status", "VmHWM") / 1024


def size_of(directory: Path) -> int:
    """Bytes of all files under a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _kilobytes(file: str, name: str) -> float:
    with suppress(OSError):
        for line in Path(file).read_text().splitlines():
            if line.startswith(name + ":"):
                return float(line.split()[1])
    return 0.0


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
