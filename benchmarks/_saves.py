"""What the baselines remember of a save and of the revisits credited to it: one Python object each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from flows.kernels.layout import NEVER
from flows.settings import HOUR_MS

Counts = Mapping[tuple[int, bool, bool, int], int]
"""(other entity, click, from related pins, hour) → revisits."""


@dataclass(slots=True)
class Save:
    """A save and the revisits credited to it."""

    time: int
    event_id: int
    pin_id: int
    surface: str
    revisits: list[Revisit] = field(default_factory=list)

    def row(self, user_id: int, surfaces: Mapping[str, int]) -> tuple[int, ...]:
        """As `_outcome.labelled` takes it."""
        impressions = [r.time for r in self.revisits if not r.click]
        clicks = [r.time for r in self.revisits if r.click]
        firsts = min(impressions, default=int(NEVER)), min(clicks, default=int(NEVER))
        return user_id, self.pin_id, self.time, surfaces[self.surface], *firsts


@dataclass(slots=True, eq=False)
class Revisit:
    """A revisit and the save that it is credited to."""

    time: int
    pin_id: int
    click: bool
    save: Save | None


def table(rows: Sequence[tuple[int, ...]], columns: int) -> np.ndarray:
    """Rows as int64[n, columns], also where there are none."""
    return np.array(rows, np.int64).reshape(-1, columns)


def revisit_rows(counts: Iterable[tuple[int, Counts]]) -> np.ndarray:
    """As the kernels' rows: entity, other, kind, time (here the beginning of the hour), weight."""
    rows = [(entity, o, click + 2 * rp, hour * HOUR_MS, n) for entity, of in counts for (o, click, rp, hour), n in of.items() if n]
    return table(rows, 5)
