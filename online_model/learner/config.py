"""How a learner learns, as one value. All of it decides what rows become, so it lies in every checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from flows.configured import configured
from flows.errors import SettingsError
from flows.vocabulary import suggestion
from online_model.learner.delayed import DelayedLabels
from online_model.model.heads import HEAD_WEIGHTS, check_weights


@dataclass(frozen=True)
class LearnerConfig:
    """What a learner does with a record.

    Parameters
    ----------
    batch_rows : int
        Consecutive records of EXAMPLES that are learned from at once, those that are passed over among them.
    batch_ms : int
        They became known in one span of so many ms, so that where few arrive nobody waits until they are many.
    learning_rate : float
        Of row-wise Adagrad.
    delayed_labels : DelayedLabels
    expire_days : float
        An ID that was not seen for so long, in event time, loses its row.
    head_weights : mapping of str to float

    Raises
    ------
    SettingsError
        A value makes no learner.
    """

    batch_rows: int = 1024
    batch_ms: int = 10_000
    learning_rate: float = 0.05
    delayed_labels: DelayedLabels = DelayedLabels.FAKE_NEGATIVE
    expire_days: float = 90.0
    head_weights: Mapping[str, float] = field(default_factory=lambda: dict(HEAD_WEIGHTS))

    def __post_init__(self) -> None:
        for name, most in (("batch_rows", 65_536), ("batch_ms", 86_400_000)):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise SettingsError(f"learner: {name} must be a whole number from 1 to {most}, not {value!r}")
        for name, limit in (("learning_rate", 1e3), ("expire_days", 1e5)):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 < value <= limit):
                raise SettingsError(f"learner: {name} must be above 0 and at most {limit:g}, not {value!r}")
        ways = [way.value for way in DelayedLabels]
        if self.delayed_labels not in ways:
            raise SettingsError(
                f"learner: there is no way '{self.delayed_labels}' of delayed labels{suggestion(str(self.delayed_labels), ways)}; "
                f"there are {', '.join(ways)}"
            )
        object.__setattr__(self, "delayed_labels", DelayedLabels(self.delayed_labels))
        check_weights(tuple(HEAD_WEIGHTS), self.head_weights)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint keeps them."""
        return asdict(self) | {"delayed_labels": self.delayed_labels.value, "head_weights": dict(self.head_weights)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave.

        Raises
        ------
        SettingsError
            A field isn't known, or makes no learner.
        """
        return configured(cls, values, "learner")
