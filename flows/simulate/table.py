"""A column table of simulated events, before they get an ID and an arrival time."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from flows.vocabulary import Vocabulary

_VOCABULARY = Vocabulary()
ACTIONS, SURFACES = dict(_VOCABULARY.actions), dict(_VOCABULARY.surfaces)
IMPRESSION, CLOSEUP, CLICK, LONG_CLICK = (ACTIONS[name] for name in ("impression", "closeup", "click", "long_click"))
SAVE, HIDE, GRID_CLICK = (ACTIONS[name] for name in ("save", "hide", "grid_click"))
HOMEFEED, RELATED, SEARCH = (SURFACES[name] for name in ("homefeed", "related_pins", "search"))
OWN_PROFILE, NOTIFICATION, OTHER = (SURFACES[name] for name in ("own_profile", "notification", "other"))

NONE = -1
"""No duration, no request, no save: columns stay plain integers until they are written."""


@dataclass
class Events:
    """Columns of equal length. Users, pins, requests and saves are indices, not IDs.

    Attributes
    ----------
    user, pin : int32
    action, surface : int8
        Codes of flows/vocabulary.py.
    time : int64
        Event time, ms UTC.
    duration : int32
        ms, or NONE.
    request : int32
        Row of the served log, or NONE.
    save : int32
        Of a save, its own number; of a planned revisit, the number of the save it will be credited to; otherwise NONE.
    """

    user: np.ndarray
    pin: np.ndarray
    action: np.ndarray
    surface: np.ndarray
    time: np.ndarray
    duration: np.ndarray
    request: np.ndarray
    save: np.ndarray

    @classmethod
    def of(
        cls,
        user: np.ndarray,
        pin: np.ndarray,
        action: np.ndarray | int,
        surface: np.ndarray | int,
        time: np.ndarray,
        duration: np.ndarray | int = NONE,
        request: np.ndarray | int = NONE,
        save: np.ndarray | int = NONE,
    ) -> Events:
        """A table, scalars spread over its length."""
        n = len(time)

        def column(values: np.ndarray | int, dtype: type) -> np.ndarray:
            return np.full(n, values, dtype) if isinstance(values, int) else values.astype(dtype, copy=False)

        return cls(
            column(user, np.int32),
            column(pin, np.int32),
            column(action, np.int8),
            column(surface, np.int8),
            column(time, np.int64),
            column(duration, np.int32),
            column(request, np.int32),
            column(save, np.int32),
        )

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: np.ndarray) -> Events:
        """The rows that a mask or an index array picks."""
        return Events(*(getattr(self, f.name)[rows] for f in fields(self)))

    @staticmethod
    def concat(parts: list[Events]) -> Events:
        """The parts, one after the other."""
        return Events(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Events)))
