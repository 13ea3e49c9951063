"""How fast numbers grow, seen from time to time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

# A rate is of about so long; of less than the least nothing is said, and of more than the most it would be no rate of now.
_SPAN_S, _LEAST_S, _MOST_S = 10.0, 0.5, 60.0


class Rates(Generic[Key]):
    """What grew by how much a second, over about the last ten seconds.

    Parameters
    ----------
    span_s : float
        Over how long.
    clock : callable
        Seconds.
    """

    def __init__(self, span_s: float = _SPAN_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._span_s, self._clock = span_s, clock
        self._seen: deque[tuple[float, dict[Key, float]]] = deque()

    def add(self, values: Mapping[Key, float]) -> None:
        """What the numbers are now."""
        now = self._clock()
        self._seen.append((now, dict(values)))
        # The newest of those that lie a span back is what is compared with.
        while len(self._seen) > 2 and now - self._seen[1][0] >= self._span_s:
            self._seen.popleft()
        while self._seen and now - self._seen[0][0] > max(_MOST_S, 2 * self._span_s):
            self._seen.popleft()

    def grown(self, key: Key) -> tuple[float, float] | None:
        """By how much a number has grown, and in how many seconds; None where that can't be told yet, or it went back."""
        if len(self._seen) < 2:
            return None
        (began, before), (now, after) = self._seen[0], self._seen[-1]
        if now - began < _LEAST_S or key not in before or key not in after or after[key] < before[key]:
            return None
        return after[key] - before[key], now - began

    def of(self, key: Key) -> float | None:
        """A number's growth a second."""
        found = self.grown(key)
        return found[0] / found[1] if found is not None else None
