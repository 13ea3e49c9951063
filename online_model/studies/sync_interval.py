"""What it is worth to serve rows that were learned a minute ago, and not hours or days ago.

Monolith's question (Liu et al. 2022, 2209.07663, section 3.3): the learner learns every example as it comes; what is served are the rows of the
last sync.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flows.settings import DAY_MS, HOUR_MS
from online_model.learner.config import LearnerConfig
from online_model.studies.measuring import by_scores
from online_model.studies.plan import FULL_LEARNED, QUICK
from online_model.studies.serving import SPAN_MS, served
from online_model.studies.study import Against, Bench, Direction, Scores, Study

INTERVALS: Mapping[str, int | None] = {"never": None, "1d": DAY_MS, "5h": 5 * HOUR_MS, "1h": HOUR_MS, "1min": SPAN_MS}
_MONOLITH = "Monolith, 2209.07663: AUC on Criteo of syncing each 5 h 79.66, 1 h 79.78, 30 min 79.80; batch training 79.42 to 79.44"
_SMALL = "the gain from one interval to the next is a fraction of that from never, and data of this size may not show it"
_STILL = "in a world that does not change, rows gain from more examples alone, not from fresher ones"


def _score(bench: Bench) -> Mapping[str, Scores]:
    base, learner = bench.base(), LearnerConfig()

    def make(names: Sequence[str]) -> Mapping[str, Scores]:
        intervals = {name: INTERVALS[name] for name in names}
        said = served(bench.stream, base, learner, intervals, *bench.span, lambda done, of: bench.progress("learning", done, of))
        return {name: Scores(base.ranker.config.heads, probabilities) for name, probabilities in said.items()}

    return bench.scores(tuple(INTERVALS), {"base": base.digest, "learner": learner.to_dict(), "intervals": dict(INTERVALS)}, make)


STUDY = Study(
    name="sync-interval",
    question="How much does ranking gain if the rows that are served are synced more often with those that are learned?",
    arms={name: {"sync_every_ms": every, "learner": LearnerConfig().to_dict()} for name, every in INTERVALS.items()},
    differences=[
        Against("1min_over_never", "1min", "never"),
        Against("1min_over_1h", "1min", "1h"),
        Against("1h_over_5h", "1h", "5h"),
        Against("5h_over_1d", "5h", "1d"),
        Against("1d_over_never", "1d", "never"),
    ],
    main=("gain_1min_over_never", "1min_over_never", "click", "auc"),
    shown=[("click", "auc"), ("long_click", "auc"), ("save", "auc"), ("hide", "auc"), ("revisit", "auc")],
    directions=[
        Direction("1min_over_never", "click", "auc", True, _MONOLITH, _STILL),
        Direction("5h_over_1d", "click", "auc", True, _MONOLITH, _SMALL),
        Direction("1h_over_5h", "click", "auc", True, _MONOLITH, _SMALL),
        Direction("1min_over_1h", "click", "auc", True, "Monolith, 2209.07663: 30 min over 1 h by 0.02 points", _SMALL),
    ],
    measure=by_scores(_score),
    full=FULL_LEARNED,
    quick=QUICK,
    bucket_ms=DAY_MS,
    published={"batch": "79.42 to 79.44", "5h": "79.66", "1h": "79.78", "30min": "79.80"},
)
