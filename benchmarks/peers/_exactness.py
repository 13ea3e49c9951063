"""How many entities a tool gets right, by the oracles; and how many of the others by reason of what the oracles make of time.

A sequence is [(pin_id, action, surface, event_time, duration_ms), …], newest first; counters are those of a pin that are not 0, by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tests.oracles import features as oracle
from tests.oracles.decide import decide

FOR_EVER = 10**15  # ms
TASKS = ("sequences", "counters")

Values = Mapping[int, Any]
"""Of a task, by entity: a sequence or counters. Who has nothing to say may be left out."""


@dataclass(frozen=True)
class Expected:
    """What the oracles say at the newest accepted event.

    Attributes
    ----------
    exact : dict
        Values by task.
    timeless : dict
        The same if no event were ever late and a copy were a copy however late: for who keeps no watermark of each log partition.
    as_of : int
    """

    exact: dict[str, Values]
    timeless: dict[str, Values]
    as_of: int


@dataclass(frozen=True)
class Verdict:
    """Entities with anything to say on either side, those that differ, and those of them that agree with the oracles without lateness."""

    entities: int
    differing: int
    differing_by_lateness: int
    example: str

    def as_dict(self) -> dict[str, Any]:
        """For the results; the example only if there is one."""
        told = {"entities": self.entities, "differing": self.differing, "differing_by_lateness": self.differing_by_lateness}
        return told | ({"example": self.example} if self.example else {})


def expected(records: pd.DataFrame) -> Expected:
    """By the oracles, of records with partition and offset."""
    decided = decide(records)
    as_of = oracle.default_as_of(decided)
    if as_of is None:
        raise ValueError("no record is accepted, so there is nothing to compare")
    without_time = decide(records, allowed_lateness_ms=FOR_EVER, dedup_horizon_ms=FOR_EVER)
    return Expected(_values(decided, as_of), _values(without_time, as_of), as_of)


def judge(got: Values, want: Expected, task: str) -> Verdict:
    """Compare entity by entity."""
    exact, timeless = want.exact[task], want.timeless[task]
    entities = {entity for values in (got, exact) for entity, value in values.items() if value}
    wrong = sorted(entity for entity in entities if (got.get(entity) or None) != exact.get(entity))
    by_lateness = [entity for entity in wrong if (got.get(entity) or None) == timeless.get(entity)]
    example = f"{wrong[0]} has {got.get(wrong[0])}, by the oracle {exact.get(wrong[0])}"[:500] if wrong else ""
    return Verdict(len(entities), len(wrong), len(by_lateness), example)


def _values(decided: pd.DataFrame, as_of: int) -> dict[str, Values]:
    counters = oracle.counters(decided, "pin", as_of)
    rows = zip(counters.index.tolist(), counters.to_dict("records"), strict=True)
    of_pins = {pin: {str(name): value for name, value in row.items() if value} for pin, row in rows}
    return {"sequences": oracle.sequences(decided, as_of), "counters": {pin: row for pin, row in of_pins.items() if row}}
