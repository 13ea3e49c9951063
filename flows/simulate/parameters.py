"""The parameters of a simulation, checked once."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

from flows.errors import SettingsError
from flows.settings import DAY_MS, HOUR_MS
from flows.simulate.world import World

START_MS = 1_704_067_200_000
"""Midnight of Monday 2024-01-01 UTC. Fixed, so that the same seed gives the same bytes on any day."""

RETENTION_MS = 7 * DAY_MS
RESAVE_MS = 8 * DAY_MS
"""A user saves a pin at most once in such a span, so that a revisit within 7 days can belong to one save only."""

SIZES = {
    "users": (1, 100_000_000),
    "pins": (1, 100_000_000),
    "days": (1, 3650),
    "events": (1, 1_000_000_000),
    "seed": (0, 2**63 - 1),
    "partitions": (1, 4096),
    "allowed_lateness_ms": (0, 30 * DAY_MS),
    "dedup_horizon_ms": (0, 30 * DAY_MS),
    "clock_skew_ms": (0, 30 * DAY_MS),
}
"""Parameters that are whole numbers, with the least and the greatest that are taken."""
GREATEST_RATE = 0.5


@dataclass(frozen=True)
class Parameters:
    """What a simulation is made from. Rates are shares of the well-formed distinct events.

    Attributes
    ----------
    users, pins, days, events, seed, partitions : int
        Sizes; `events` is the number of well-formed distinct events aimed at.
    late_rate, out_of_order_rate, duplicate_rate, bad_rate : float
        How often a record comes beyond the allowed lateness, out of order within it, twice, or malformed (malformed ones come on top).
    allowed_lateness_ms, dedup_horizon_ms, clock_skew_ms : int
        L, H, S of docs/semantics.md, as the engine that will read the events is set.
    world : World
        How much changes, and how much pins and users differ.
    """

    users: int = 20_000
    pins: int = 50_000
    days: int = 60
    events: int = 1_000_000
    seed: int = 7
    partitions: int = 8
    late_rate: float = 0.002
    out_of_order_rate: float = 0.05
    duplicate_rate: float = 0.002
    bad_rate: float = 0.001
    allowed_lateness_ms: int = HOUR_MS
    dedup_horizon_ms: int = HOUR_MS
    clock_skew_ms: int = 5 * 60_000
    world: World = field(default_factory=World)

    def __post_init__(self) -> None:
        for name, (least, most) in SIZES.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise SettingsError(f"simulate: '{name}' is {value!r}; it must be a whole number from {least} to {most}")
        for name in ("late_rate", "out_of_order_rate", "duplicate_rate", "bad_rate"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and 0 <= value <= GREATEST_RATE):
                raise SettingsError(f"simulate: '{name}' is {value!r}; it must be a number from 0 to {GREATEST_RATE}")

    @property
    def end_ms(self) -> int:
        """No event happens at this time or later (but late ones still arrive)."""
        return START_MS + self.days * DAY_MS

    def warnings(self) -> list[str]:
        """What is allowed but makes a poor simulation."""
        found = []
        if self.days * DAY_MS <= RETENTION_MS + self.allowed_lateness_ms:
            found.append(
                f"{self.days} days are too few to mature any label: a save needs 7 days and the allowed lateness; simulate 9 days or more"
            )
        if self.events < 20_000:
            found.append(f"{self.events} events are few: rates can't be near the published ones; simulate 200 000 or more to compare them")
        return found

    def as_dict(self) -> dict[str, int | float]:
        """Name to value, for the truth; the world apart."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "world"}
