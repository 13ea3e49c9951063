"""What corrections make of decoded records, before they are judged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flows.corrections.record import NO_CLOCK, Correction, places_of
from flows.decode import Columns, Decoder
from flows.kernels.layout import NEVER

_NUMBERS = ("event_id", "user_id", "pin_id", "action", "surface", "event_time", "duration_ms", "topic", "role")
_EXCLUDED = np.int64(-1)


class Overlay:
    """The corrections of one partition that are in force, as one: of each record the last of them counts.

    Parameters
    ----------
    corrections : sequence of Correction
        In the order in which they were made.
    decoder : Decoder
        Makes columns of corrected events.
    """

    def __init__(self, corrections: Sequence[Correction], decoder: Decoder) -> None:
        events = [c.events for c in corrections if len(c.events)]
        self._events = decoder.decode(*events) if events else None
        places, clocks, rows, begins = [], [], [], 0
        for c in corrections:
            places += [c.excluded, c.patched]
            clocks += [c.excluded_clock, c.patched_clock]
            rows += [np.full(len(c.excluded), _EXCLUDED), begins + np.arange(len(c.patched))]
            begins += len(c.patched)
        place = np.concatenate([np.empty(0, np.int64), *places])
        # The last of each: a stable sort keeps them in order.
        order = np.argsort(place, kind="stable")
        last = order[np.flatnonzero(np.diff(place[order], append=np.int64(-1)))]
        self._places = place[last]
        self._clocks = np.concatenate([np.empty(0, np.int64), *clocks])[last]
        self._rows = np.concatenate([np.empty(0, np.int64), *rows])[last]
        # Nothing asks for times that move the watermark otherwise.
        self._clocked = bool((self._clocks != np.where(self._rows == _EXCLUDED, NO_CLOCK, NEVER)).any())

    def __len__(self) -> int:
        return len(self._places)

    def apply(self, columns: Columns, offsets: np.ndarray) -> np.ndarray:
        """Correct consecutive records in place.

        Parameters
        ----------
        offsets : int64[n]
            Of each record.

        Returns
        -------
        int64[n] or int64[0]
            The times by which they move the watermark, for the kernel; empty where these are their own.
        """
        none = np.empty(0, np.int64)
        if not len(offsets) or not len(self._places):
            return none
        here = places_of(offsets)
        low, high = np.searchsorted(self._places, [here[0], here[-1] + 1])
        if low == high:
            return none
        at = np.searchsorted(here, self._places[low:high])
        found = here[np.minimum(at, len(here) - 1)] == self._places[low:high]
        at, rows, clocks = at[found], self._rows[low:high][found], self._clocks[low:high][found]
        self._patch(columns, at[rows != _EXCLUDED], rows[rows != _EXCLUDED])
        # A record that was bad anyway stays a dead letter.
        columns.bad[at[rows == _EXCLUDED]] = True
        if not self._clocked:
            return none
        clock = np.where(columns.bad, NO_CLOCK, columns.event_time)
        moved = clocks != NEVER
        clock[at[moved]] = clocks[moved]
        return clock

    def _patch(self, columns: Columns, at: np.ndarray, rows: np.ndarray) -> None:
        if self._events is None or not len(at):
            return
        for name in _NUMBERS:
            getattr(columns, name)[at] = getattr(self._events, name)[rows]
        columns.bad[at] = False
        for i in at.tolist():
            columns.faults.pop(i, None)
        columns.topics = {**columns.topics, **self._events.topics}
