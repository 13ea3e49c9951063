"""Which cases of a test run each time, and which only with `-m soak`: twins that cost processes and seconds, and seldom find another thing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def first(number: int, cases: Iterable[Any]) -> list[Any]:
    """The first so many of some cases (tuples, where they are of several parameters) each time, the others in a soak."""
    listed = [one if isinstance(one, tuple) else (one,) for one in cases]
    return [pytest.param(*one) if i < number else pytest.param(*one, marks=pytest.mark.soak) for i, one in enumerate(listed)]
