"""Plays a generated stream of one partition through the actions kernel: cut anywhere, saved and restored anywhere."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from flows.kernels.actions import Judged, WorkingSet
from flows.kernels.layout import ROLE_CLICK, ROLE_RELATED_PINS, ROLE_REVISIT, ROLE_SAVE
from flows.vocabulary import Vocabulary

HOUR, DAY = 3_600_000, 86_400_000
LIMITS = (HOUR, HOUR, 300_000)
SURFACES = Vocabulary().surfaces


@dataclass(frozen=True)
class Played:
    """What the kernel made of a whole stream, as if it had been judged at once, and the working set that is left."""

    status: np.ndarray
    lateness: np.ndarray
    changes: np.ndarray
    labels: np.ndarray
    tiles: np.ndarray
    working_set: WorkingSet

    def outputs(self) -> list[list[object]]:
        return [part.tolist() for part in (self.status, self.lateness, self.changes, self.labels, self.tiles)]


def columns(events: pd.DataFrame) -> list[np.ndarray]:
    """The arguments of `WorkingSet.judge`."""
    action, surface = events["action"].to_numpy(object), events["surface"].to_numpy(object)
    role = np.where(action == "save", ROLE_SAVE, 0) | np.where((action == "save") & (surface == "related_pins"), ROLE_RELATED_PINS, 0)
    own = surface == "own_profile"
    role |= np.where(own & (action == "impression"), ROLE_REVISIT, 0)
    role |= np.where(own & (action == "grid_click"), ROLE_REVISIT | ROLE_CLICK, 0)
    bad = events["bad"].to_numpy(bool)
    numbers = [np.where(bad, 0, events[name].to_numpy(np.int64)) for name in ("event_id", "user_id", "pin_id", "event_time")]
    codes = np.array([SURFACES[name] for name in surface], np.int16)
    return [*numbers, np.where(bad, 0, role).astype(np.uint8), codes, topic_ids(events), events["timestamp"].to_numpy(np.int64), bad]


def topic_ids(events: pd.DataFrame) -> np.ndarray:
    """An ID for each topic, 0 for none."""
    return np.array([sum(name.encode()) for name in events["topic"]], np.int64)


def play(events: pd.DataFrame, cuts: Collection[int] = (), restarts: Collection[int] = (), limits: tuple[int, int, int] = LIMITS) -> Played:
    """Judge a stream in batches that end at `cuts`; at each of `restarts` the working set is saved and a new one takes it up."""
    arrays = columns(events)
    working_set = WorkingSet(*limits)
    parts: list[Judged] = []
    starts = sorted({0, *(c for c in {*cuts, *restarts} if c < len(events))})
    for start, end in zip(starts, [*starts[1:], len(events)], strict=True):
        if start in restarts:
            data = working_set.to_bytes()
            working_set = WorkingSet(*limits)
            working_set.restore(data)
        part = working_set.judge(*(a[start:end] for a in arrays))
        part.changes[:, 5] += start
        parts.append(part)
    names = ("status", "lateness", "changes", "labels", "tiles")
    return Played(*(np.concatenate([getattr(p, name) for p in parts]) for name in names), working_set)
