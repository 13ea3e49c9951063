"""What corrections make of decoded records, before they are judged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from flows.corrections.record import Correction, places_of
from flows.decode import Columns, Decoder
from flows.kernels.layout import NEVER

_NUMBERS = ("event_id", "user_id", "pin_id", "action", "surface", "event_time", "duration_ms", "topic", "role")
_EXCLUDED, _PINNED = np.int64(-1), np.int64(-2)


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
        self._raw = events
        self._texts: dict[str, pa.ChunkedArray] = {}
        self._events = decoder.decode(*events) if events else None
        self._places = self._clocks = self._rows = np.empty(0, np.int64)
        begin = 0
        for c in corrections:
            self._add(c.excluded, c.excluded_clock, np.full(len(c.excluded), _EXCLUDED))
            self._add(c.patched, c.patched_clock, begin + np.arange(len(c.patched)))
            begin += len(c.patched)
            # What is said of a record's clock alone leaves what an earlier correction has made of the record.
            at = np.searchsorted(self._places, c.pinned)
            known = np.append(self._places, -1)[at] == c.pinned
            self._add(c.pinned, c.pinned_clock, np.where(known, np.append(self._rows, _PINNED)[at], _PINNED))
        self._clocked = bool((self._clocks != NEVER).any())

    def __len__(self) -> int:
        return len(self._places)

    def _add(self, places: np.ndarray, clocks: np.ndarray, rows: np.ndarray) -> None:
        """Say something of records, in place of what was said of them before."""
        place = np.concatenate([self._places, places])
        # The last of each: a stable sort keeps them in order.
        order = np.argsort(place, kind="stable")
        last = order[np.flatnonzero(np.diff(place[order], append=np.int64(-1)))]
        self._places = place[last]
        self._clocks = np.concatenate([self._clocks, clocks])[last]
        self._rows = np.concatenate([self._rows, rows])[last]

    def apply(self, columns: Columns, offsets: np.ndarray) -> np.ndarray:
        """Correct consecutive records in place.

        Parameters
        ----------
        offsets : int64[n]
            Of each record.

        Returns
        -------
        int64[n] or int64[0]
            The times by which they move the watermark, NEVER for their own, for the kernel; empty where nothing is said of that.
        """
        at, which = self._found(offsets)
        if not len(at):
            return np.empty(0, np.int64)
        rows = self._rows[which]
        self._patch(columns, at[rows >= 0], rows[rows >= 0])
        # A record that was bad anyway stays a dead letter.
        columns.bad[at[rows == _EXCLUDED]] = True
        if not self._clocked:
            return np.empty(0, np.int64)
        clock = np.full(len(columns), NEVER)
        clock[at] = self._clocks[which]
        return clock

    def texts(self, offsets: np.ndarray, field: str) -> tuple[np.ndarray, list[str | None]]:
        """Which of consecutive records count as others, and a text of each of these: indexes int64[k], texts."""
        at, which = self._found(offsets)
        rows = self._rows[which]
        at, rows = at[rows >= 0], rows[rows >= 0]
        if not len(at):
            return at, []
        if field not in self._texts:
            self._texts[field] = pa.chunked_array([events.column(field).cast(pa.string()) for events in self._raw], pa.string())
        return at, self._texts[field].take(pa.array(rows)).to_pylist()

    def _found(self, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of consecutive records something is said of, and what: indexes into them, and into what is said."""
        none = np.empty(0, np.int64)
        if not len(offsets) or not len(self._places):
            return none, none
        here = places_of(offsets)
        low, high = np.searchsorted(self._places, [here[0], here[-1] + 1])
        at = np.searchsorted(here, self._places[low:high])
        found = here[np.minimum(at, len(here) - 1)] == self._places[low:high]
        return at[found], low + np.flatnonzero(found)

    def _patch(self, columns: Columns, at: np.ndarray, rows: np.ndarray) -> None:
        if self._events is None or not len(at):
            return
        for name in _NUMBERS:
            getattr(columns, name)[at] = getattr(self._events, name)[rows]
        columns.topics = {**columns.topics, **self._events.topics}
