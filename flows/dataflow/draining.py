"""Where a bounded run's REVISITS input ends: where the log ends once every actions task of this run has closed, with its outbox empty.

An actions task says so in a consumer group of its own, which each run clears before any task starts: the group of the positions alone may be
of an earlier run, whose state has been deleted or put back since. For a task that was left out the end of its input is told there: what it would
still put out comes with a later run, and nobody waits for it in this one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from flows import stopping
from flows.log import Log
from flows.outputs import ACTIONS

DRAINED = f"{ACTIONS}.drained"
_ASK_SECONDS = 0.01


def clear_drained(actions: Log) -> None:
    """Before a bounded run: no task has come to an end yet."""
    actions.commit_group(DRAINED, dict.fromkeys(range(actions.partitions), 0))


class RevisitsEnd:
    """Partition → its end, None as long as that isn't known.

    Parameters
    ----------
    open_actions, open_revisits : callable
        Open the logs.
    until : sequence of int
        End of each ACTIONS partition.
    """

    def __init__(self, open_actions: Callable[[], Log], open_revisits: Callable[[], Log], until: Sequence[int]) -> None:
        self._open_actions = open_actions
        self._open_revisits = open_revisits
        self._until = until
        self._actions: Log | None = None
        self._ends: list[int] | None = None
        self._asked = 0.0
        self._lock = threading.Lock()

    def __call__(self, partition: int) -> int | None:
        # Every partition asks, each time that it looks for records; with `-w` from several threads.
        with self._lock:
            if self._ends is None and time.monotonic() - self._asked > _ASK_SECONDS:
                self._ask()
                self._asked = time.monotonic()
        return None if self._ends is None else self._ends[partition]

    def _ask(self) -> None:
        self._actions = self._actions or self._open_actions()
        told = self._actions.group_positions(DRAINED)
        if all(told.get(p, 0) >= end for p, end in enumerate(self._until)) or stopping.requested():
            revisits = self._open_revisits()
            self._ends = revisits.end_positions()
            revisits.close()
            self._actions.close()
