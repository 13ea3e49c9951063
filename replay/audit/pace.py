"""How much of a core an audit takes: CPU time is measured against the clock on the wall, and what is too much is waited off."""

from __future__ import annotations

import time

from flows import stopping


class StopRequested(Exception):
    """This process was asked to stop."""


class Pace:
    """Measured from where it is made.

    Parameters
    ----------
    budget : float or None
        Share of one core; None: as fast as it goes.
    """

    def __init__(self, budget: float | None) -> None:
        self._budget = budget
        self._began = self._last = (time.process_time(), time.monotonic())
        self._owed = 0.0

    def step(self) -> None:
        """Wait until what was used since the last call is within the budget; time that was spent waiting for something else earns nothing.

        Raises
        ------
        StopRequested
            At once, in the middle of waiting too.
        """
        if stopping.requested():
            raise StopRequested
        if self._budget is not None:
            self._owe()
            # Waiting is never exactly as long as it should be.
            while self._owed > 0:
                if stopping.wait(self._owed):
                    raise StopRequested
                self._owe()
            self._owed = 0.0

    @property
    def share(self) -> float:
        """Share of one core used so far."""
        cpu, wall = self._began
        return (time.process_time() - cpu) / max(time.monotonic() - wall, 1e-9)

    def _owe(self) -> None:
        now = (time.process_time(), time.monotonic())
        cpu, wall = self._last
        self._last = now
        if self._budget is not None:
            self._owed += (now[0] - cpu) / self._budget - (now[1] - wall)
