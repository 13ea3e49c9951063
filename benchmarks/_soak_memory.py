"""Memory of processes over a soak, and the slope of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

_MB = 2**20
# Longer than a round of what works in rounds: a check that recomputes a partition takes more meanwhile, and gives it back.
_WINDOW_S = 150.0


@dataclass
class Memory:
    """Of one service: what it and its children held beyond its working sets, life by life; of Redis, beyond the rows that it was given.

    A working set has an entry for each open save, which stays for a week, and for each ID within H: it grows as long as a soak lasts, and should. An
    audit and a skew check make those of the partition that they go through.

    Attributes
    ----------
    lives : list of list of (float, int)
        Of each life, from its start: seconds since the soak began, and bytes. A process that was killed and started begins anew.
    working_sets : int
        Bytes of them (of Redis, of its rows and what lies free between them), when that was looked at last.
    """

    lives: list[list[tuple[float, int]]] = field(default_factory=lambda: [[]])
    working_sets: int = 0

    def begin(self) -> None:
        """Another life begins."""
        if self.lives[-1]:
            self.lives.append([])

    def add(self, at: float, held: int, working_sets: int = 0) -> None:
        """What is held at a time, and how much of it by working sets."""
        self.working_sets = working_sets
        self.lives[-1].append((at, held - working_sets))


@dataclass(frozen=True)
class Slope:
    """A straight line through the least that was held in each of consecutive windows: what is not given back.

    One slope for all lives, each with a level of its own.

    Attributes
    ----------
    mean_mib, greatest_mib : float
        Of all samples.
    mib_an_hour, error : float
        The slope, and its standard error as if windows were independent, which they are not quite.
    growth : float
        What that slope adds over the time looked at, as a share of the mean of the windows.
    minutes : float
        That time, over all lives.
    """

    mean_mib: float
    greatest_mib: float
    mib_an_hour: float
    error: float
    growth: float
    minutes: float


def slope(memory: Memory, settle_s: float, begin_s: float = 0.0) -> Slope | None:
    """Fit it; None if too little is left to say anything.

    Parameters
    ----------
    memory : Memory
    settle_s : float
        What is left out at the beginning of each life: caches fill, and modules are loaded when they are first needed.
    begin_s : float
        What is left out at the beginning of the soak.
    """
    times, held, seen, lives, spanned = [], [], [], 0, 0.0
    for life in memory.lives:
        kept = np.array([(at, size) for at, size in life if at >= max(life[0][0] + settle_s, begin_s)], float)
        least = _least(kept)
        if len(least) < 2:
            continue
        lives, spanned = lives + 1, spanned + float(np.ptp(kept[:, 0]))
        times.append(least[:, 0] - least[:, 0].mean())
        held.append(least[:, 1])
        seen.append(kept[:, 1])
    if sum(map(len, times)) < lives + 2:
        return None
    t, y = np.concatenate(times), np.concatenate([one - one.mean() for one in held])
    within = float((t * t).sum())
    a = float((t * y).sum()) / within
    left = float(((y - a * t) ** 2).sum())
    error = (left / max(1, len(t) - lives - 1) / within) ** 0.5
    mean, floor = float(np.concatenate(seen).mean()), float(np.concatenate(held).mean())
    greatest = max(size for life in memory.lives for _, size in life)
    hour = 3600 / _MB
    return Slope(mean / _MB, greatest / _MB, a * hour, error * hour, a * spanned / floor, spanned / 60)


def _least(samples: np.ndarray) -> np.ndarray:
    """The sample of each whole window that held least: float64[n, 2] out of float64[m, 2], (seconds, bytes)."""
    if not len(samples):
        return samples
    window = ((samples[:, 0] - samples[0, 0]) // _WINDOW_S).astype(np.int64)
    whole = int((samples[-1, 0] - samples[0, 0]) // _WINDOW_S)
    return np.array([found[np.argmin(found[:, 1])] for n in range(whole) if len(found := samples[window == n])]).reshape(-1, 2)


def rows_in(told: Mapping[str, float]) -> int:
    """Bytes that Redis' rows take, with the room that its allocator leaves free between them.

    Rows that grow move, and leave pieces of other sizes: within some minutes of its start, pages come to hold less than they could, by a share that
    stays then. It is no leak, and grows with the rows.

    Parameters
    ----------
    told : mapping
        Redis' `INFO memory`.
    """
    return int(told["used_memory_dataset"] * max(1.0, told["allocator_active"] / max(1.0, told["allocator_allocated"])))


def held_by(processes: Iterable[int]) -> int:
    """What processes and all that they have started hold in memory that no file backs, bytes: what can leak."""
    total, left = 0, list(processes)
    while left:
        one = left.pop()
        with suppress(OSError):
            for line in Path(f"/proc/{one}/status").read_text().splitlines():
                if line.startswith(("RssAnon:", "RssShmem:")):
                    total += int(line.split()[1]) * 1024
            left += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
    return total
