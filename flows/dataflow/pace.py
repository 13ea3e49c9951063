"""Waiting by the monotonic clock.

Bytewax wakes sources and steps at times of day that it is told. Were the wall clock set back by an hour meanwhile, it would wait that hour, deaf
to SIGTERM too. So it is told to wake them at once, always; who has nothing to do says so here, and once all of a thread have, it sleeps.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime

AT_ONCE = datetime.fromtimestamp(0, UTC)
"""A time of day that has passed, wherever the clock is set to."""


class Wait:
    """When one source or step is next to look for work. Made and used in one thread, which it shares with others.

    Bytewax asks all of a thread in turns: who comes a second time, with nobody having had work since its first, comes after all have come in vain.
    """

    def __init__(self) -> None:
        self._due = 0.0

    def begin(self, seconds: float) -> None:
        """Not before the next multiple of so many seconds: who waits alike wakes at the same moment, and waking costs more than a look."""
        self._due = (time.monotonic() // seconds + 1) * seconds

    def over(self) -> bool:
        """Whether it is time; if not, and if nobody else of this thread has work, after a sleep until it is for the first of them."""
        if time.monotonic() >= self._due:
            return True
        waiting = _turns.waiting
        if self in waiting:
            first = min(one._due for one in waiting)
            waiting.clear()
            time.sleep(max(0.0, first - time.monotonic()))
        waiting.add(self)
        return False


def worked() -> None:
    """Somebody of this thread had work: nobody sleeps before all have been asked again."""
    _turns.waiting.clear()


class _Turns(threading.local):
    def __init__(self) -> None:
        self.waiting: set[Wait] = set()


_turns = _Turns()
