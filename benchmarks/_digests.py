"""Digests of a data directory's state, task by task: equal digests are equal state."""

from __future__ import annotations

from benchmarks._measure import CheckFailedError
from flows.outputs import ACTIONS, REVISITS
from flows.settings import Settings
from flows.status_command import digest_of

Digests = dict[str, str]


def digests(settings: Settings) -> Digests:
    """Of every task; nothing may be running."""
    return {f"{flow}-{p}": digest_of(settings, flow, p) for flow in (ACTIONS, REVISITS) for p in range(settings.partitions)}


def check_equal(one: Digests, another: Digests, names: str) -> None:
    """Raise unless every task is the same in both."""
    differ = [task for task in one if one[task] != another[task]]
    if differ:
        raise CheckFailedError(f"{names}: the state of {', '.join(differ)} differs")
