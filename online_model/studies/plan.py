"""What a study is of, as values that lie in the repository: worlds, days, seeds, model and training. No result may change them.

`FULL` is what a claim is made from, `FULL_LEARNED` where somebody learns minute by minute; `QUICK` shows within minutes that a study runs, and is too
small for claims. The worlds are larger by themselves: two fifths of their users, pins and events, so that a pin is seen as often, are what two cores
do in minutes. They were cut before any full study but one (`sync-interval`, `drifting`) had been looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from flows.settings import DAY_MS
from flows.simulate.parameters import START_MS
from online_model.model.config import ModelConfig
from online_model.training.config import TrainingConfig

CONTROL = "still"
"""The world in which nothing drifts."""


@dataclass(frozen=True)
class WorldPlan:
    """One simulated history.

    Parameters
    ----------
    name : str
        Of `flows.simulate.load_world`.
    seed : int
    sizes : mapping of str to int
        Users, pins, days or events in the place of the world's own.
    feature_delay_ms : int
        How old features were when they were used.
    """

    name: str
    seed: int
    sizes: Mapping[str, int] = field(default_factory=dict)
    feature_delay_ms: int = 1_000

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"sizes": dict(self.sizes)}


@dataclass(frozen=True)
class Days:
    """Where spans of a history begin, in days since its first moment; each ends where the next begins.

    Parameters
    ----------
    train, calibrate, evaluate, until : float
        A base learns from labels that matured in the first span, its calibrators from the second; pins seen in the third are scored. What comes
        behind is there for their labels: 7 days, and the allowed lateness.
    """

    train: float
    calibrate: float
    evaluate: float
    until: float

    def moment(self, name: str) -> int:
        """Of the beginning of a span, or of `until`: ms."""
        return START_MS + round(getattr(self, name) * DAY_MS)


@dataclass(frozen=True)
class Plan:
    """A study at one size.

    Parameters
    ----------
    days : Days
    seeds : tuple of int
        Of the simulation, and of everything random behind it: three or more for a claim.
    worlds : tuple of str
        What is studied, and beside it the control.
    sizes : mapping of str to int
        See `WorldPlan`.
    model : ModelConfig
    training : TrainingConfig
    resamples : int
        Of users, for the intervals.
    """

    days: Days
    seeds: tuple[int, ...] = (11, 12, 13)
    worlds: tuple[str, ...] = ("drifting", CONTROL)
    sizes: Mapping[str, int] = field(default_factory=dict)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    resamples: int = 1_000

    def world(self, name: str, seed: int) -> WorldPlan:
        """The history of one world and seed."""
        return WorldPlan(name, seed, self.sizes)

    def of_seed(self, seed: int) -> tuple[ModelConfig, TrainingConfig]:
        """Model and training, whose random numbers follow from the seed too."""
        return replace(self.model, seed=seed), replace(self.training, seed=seed)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the report."""
        return {
            "days": asdict(self.days),
            "seeds": list(self.seeds),
            "worlds": list(self.worlds),
            "sizes": dict(self.sizes),
            "model": self.model.to_dict(),
            "training": self.training.to_dict(),
            "resamples": self.resamples,
        }


_FULL_SIZES = {"users": 2_000, "pins": 480, "events": 240_000}
_QUICK_SIZES = {"users": 800, "pins": 300, "days": 21, "events": 90_000}
FULL = Plan(Days(train=0, calibrate=19, evaluate=20, until=27), sizes=_FULL_SIZES)
FULL_LEARNED = replace(FULL, days=replace(FULL.days, until=24))
QUICK = Plan(Days(train=0, calibrate=9, evaluate=10, until=13), sizes=_QUICK_SIZES, resamples=200)
