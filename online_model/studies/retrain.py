"""How a model grows old that is not retrained, and what retraining weekly or twice a week keeps, with realtime features and without.

TransAct (Xia et al. 2023) and the blog beside it ask this of HIT@3 over weeks. No learner here: only full retrains, each from the base before it on
what has matured since, as `tidemark retrain` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flows.settings import DAY_MS
from online_model.model.columns import ExampleColumns
from online_model.model.config import Encoder, ModelConfig
from online_model.studies.bases import Window
from online_model.studies.measuring import by_scores
from online_model.studies.plan import FULL, QUICK, Days
from online_model.studies.ranked import ranked
from online_model.studies.study import Against, Bench, Direction, Scores, Study

_LAG_DAYS = 0.5
"""A retrain learns from labels that had matured so long before it is published (docs/model.md)."""


@dataclass(frozen=True)
class Arm:
    """Days between retrains (None: never), and whether the model sees sequence and counters of the moment."""

    every_days: float | None
    realtime: bool

    def model(self, of: ModelConfig) -> ModelConfig:
        """The study's model, as this arm has it."""
        return of if self.realtime else replace(of, encoder=Encoder.NONE, revisit_features=False)


_EVERY: Mapping[str, float | None] = {"never": None, "weekly": 7.0, "twice-weekly": 3.5}
ARMS: Mapping[str, Arm] = {
    **{name: Arm(every, True) for name, every in _EVERY.items()},
    **{f"{name}, no realtime features": Arm(every, False) for name, every in _EVERY.items()},
}
_BLOG = "TransAct's blog, figures 6 and 7: HIT@3 for saves decays without retraining, and retraining twice a week keeps more than weekly"
_SMALL = "the gain of one retrain more per week is a fraction of that over never, and weeks of this size may not show it"
_IDS = (
    "most of what can be known here are pins' own appeal and users' interests, which the vectors of IDs carry; the sequence adds what changed since "
    "the last retrain"
)


def _score(bench: Bench) -> Mapping[str, Scores]:
    stream, (begin, end) = bench.stream, bench.span
    places = stream.places(begin, end)
    rows = stream.rows.take(places)
    columns, seen = ExampleColumns.of([rows]), rows.ready_time
    out: dict[str, Scores] = {}
    for name, arm in ARMS.items():

        def make(names: Sequence[str], arm: Arm = arm) -> Mapping[str, Scores]:
            parts = []
            model, training = bench.plan.of_seed(bench.seed)
            base, trained = bench.base(model=arm.model(model)), bench.plan.days.moment("calibrate")
            bounds = _published(arm, begin, end)
            for low, high in zip(bounds, [*bounds[1:], end], strict=True):
                if low > begin:
                    cut = low - round(_LAG_DAYS * DAY_MS)
                    window = Window(trained, cut - DAY_MS, cut)
                    base, trained = bench.base(window, arm.model(model), training, base), window.calibrate
                parts.append(ranked(base, columns, np.arange(*np.searchsorted(seen, [low, high]))))
            whole = [np.concatenate([getattr(part, name) for part in parts]) for name in ("probabilities", "score")]
            return {each: Scores(parts[0].heads, *whole) for each in names}

        model, training = bench.plan.of_seed(bench.seed)
        said = {
            "model": arm.model(model).to_dict(),
            "training": training.to_dict(),
            "days": [bench.plan.days.train, bench.plan.days.calibrate],
            "every_days": arm.every_days,
            "lag_days": _LAG_DAYS,
        }
        out |= bench.scores([name], said, make)
    return out


def _published(arm: Arm, begin: int, end: int) -> list[int]:
    """When bases are published, ms: the first at `begin`."""
    if arm.every_days is None:
        return [begin]
    return list(range(begin, end, round(arm.every_days * DAY_MS)))


STUDY = Study(
    name="retrain",
    question="How does HIT@3 decay over weeks without retraining, and what do retrains and realtime features keep?",
    arms={name: {"every_days": arm.every_days, "realtime_features": arm.realtime} for name, arm in ARMS.items()},
    differences=[
        Against("twice_weekly_over_never", "twice-weekly", "never"),
        Against("weekly_over_never", "weekly", "never"),
        Against("twice_weekly_over_weekly", "twice-weekly", "weekly"),
        Against("twice_weekly_over_never_without_realtime", "twice-weekly, no realtime features", "never, no realtime features"),
        Against("realtime_over_none_never", "never", "never, no realtime features"),
        Against("realtime_over_none_twice_weekly", "twice-weekly", "twice-weekly, no realtime features"),
    ],
    main=("gain_twice_weekly_over_never", "twice_weekly_over_never", "save", "hit@3"),
    shown=[("save", "hit@3"), ("hide", "hit@3"), ("click", "hit@3"), ("click", "auc"), ("save", "auc")],
    directions=[
        Direction("twice_weekly_over_never", "save", "hit@3", True, _BLOG, _SMALL),
        Direction("weekly_over_never", "save", "hit@3", True, _BLOG, _SMALL),
        Direction("twice_weekly_over_weekly", "save", "hit@3", True, _BLOG, _SMALL),
        Direction("realtime_over_none_never", "save", "hit@3", True, "TransAct, 2306.00248: realtime sequence over none", _IDS),
        Direction("realtime_over_none_twice_weekly", "save", "hit@3", True, "TransAct, 2306.00248: realtime sequence over none", _IDS),
    ],
    measure=by_scores(_score),
    full=replace(FULL, days=Days(train=0, calibrate=13, evaluate=14, until=34.5)),
    quick=replace(QUICK, days=Days(train=0, calibrate=6, evaluate=7, until=20.5)),
    bucket_ms=7 * DAY_MS,
    published={"figures 6 and 7": "decay of HIT@3 over weeks; read as directions, for no numbers are printed"},
)
