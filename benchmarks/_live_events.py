"""Events of a live stream as a function of their index alone, so that whoever appends them and whoever looks for them need tell each other nothing.

Of 32 events one is a save, one a click on a pin saved before, 8 are closeups, the rest impressions. Each save is clicked once, 2 048
events later, and no other events share a pin: a sequence that holds the pin shows that very closeup, a counter of 1 that very click.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from flows.events import EVENT_SCHEMA

_GROUP, _LATER = 32, 2_048
_SAVE_AT, _CLICK_AT, _CLOSEUP_AT, _CLOSEUP_EACH = 0, 31, 2, 4
_ACTIONS = pa.array(["impression", "closeup", "save", "grid_click"])
_SURFACES = pa.array(["homefeed", "related_pins", "own_profile"])


@dataclass(frozen=True)
class LiveEvents:
    """One stretch of a live stream.

    Parameters
    ----------
    first_id : int
        Event and pin ID of event 0; IDs of other stretches must lie elsewhere.
    users : int
    """

    first_id: int
    users: int

    def closeups(self, events: int, stride: int, seed: int) -> np.ndarray:
        """Of the first so many events, indices of closeups drawn one of each `stride` events: int64[n], ascending."""
        return _drawn(0, events, stride, seed) // _CLOSEUP_EACH * _CLOSEUP_EACH + _CLOSEUP_AT

    def clicks(self, events: int, stride: int, seed: int) -> np.ndarray:
        """The same of clicks, behind those whose save lies before the stretch."""
        return np.unique(_drawn(_LATER, events, stride, seed) // _GROUP * _GROUP + _CLICK_AT)

    def user_ids(self, index: np.ndarray) -> np.ndarray:
        """Who did the events, int64[n]; a click is of whoever saved."""
        mixed = self.pin_ids(index).astype(np.uint64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return ((mixed ^ (mixed >> np.uint64(31))) % np.uint64(self.users)).astype(np.int64)

    def pin_ids(self, index: np.ndarray) -> np.ndarray:
        """What they are about, int64[n]."""
        clicks = (index % _GROUP == _CLICK_AT) & (index > _LATER)
        return self.first_id + np.where(clicks, index - _LATER - _CLICK_AT + _SAVE_AT, index)

    def batch(self, first: int, end: int, event_time: np.ndarray) -> pa.RecordBatch:
        """Events `first` up to `end` with their times: int64[end - first], ms."""
        index = np.arange(first, end)
        n, place = len(index), index % _GROUP
        action = np.select([place == _SAVE_AT, place == _CLICK_AT, index % _CLOSEUP_EACH == _CLOSEUP_AT], [2, 3, 1], 0)
        surface = np.select([place == _SAVE_AT, place == _CLICK_AT], [1, 2], 0)
        none = pa.DictionaryArray.from_arrays(pa.nulls(n, pa.int32()), pa.array([], pa.string()))
        columns = {
            "event_id": self.first_id + index,
            "user_id": self.user_ids(index),
            "pin_id": self.pin_ids(index),
            "action": pa.DictionaryArray.from_arrays(pa.array(action, pa.int32()), _ACTIONS),
            "surface": pa.DictionaryArray.from_arrays(pa.array(surface, pa.int32()), _SURFACES),
            "event_time": event_time,
            "duration_ms": np.zeros(n, np.int64),
            "request_id": pa.nulls(n, pa.string()),
            "topic": none,
            "producer": none,
            "schema_version": np.ones(n, np.int16),
            "timestamp": event_time,
        }
        return pa.RecordBatch.from_arrays([pa.array(columns[field.name]).cast(field.type) for field in EVENT_SCHEMA], schema=EVENT_SCHEMA)


def _drawn(first: int, events: int, stride: int, seed: int) -> np.ndarray:
    """One index of each whole stride from `first` on."""
    starts = np.arange(first, events - stride + 1, stride)
    return starts + np.random.default_rng(seed).integers(0, max(stride - _GROUP, 1), len(starts))
