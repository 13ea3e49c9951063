"""What it is worth to predict revisits, and to know how often pin and user were come back to.

The paper's Table 1 adds the revisit head to the utility that requests are ranked by, and revisit features to what the model sees. Labels are those
that have matured: 7 days after the save.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from online_model.model.columns import ExampleColumns
from online_model.model.config import ModelConfig
from online_model.studies.measuring import by_scores
from online_model.studies.plan import FULL, QUICK
from online_model.studies.ranked import ranked
from online_model.studies.study import Against, Bench, Direction, Scores, Study

ARMS: Mapping[str, tuple[bool, bool]] = {
    "neither": (False, False),
    "features": (False, True),
    "head": (True, False),
    "both": (True, True),
}
_PAPER = "the revisitation paper's Table 1: NDCG@3, MAP@3 and Recall@3 of revisits and HIT@3 up, saves not down"
_SAVES = (
    "a revisit needs a save, so a ranking by saves already finds most; which saves are come back to differs by pin and user with log-odds of "
    "standard deviation 1, of which the few revisits of a pin or user tell little"
)


def _score(bench: Bench) -> Mapping[str, Scores]:
    columns = ExampleColumns.of([bench.stream.rows.take(bench.stream.places(*bench.span))])
    usual, training = bench.plan.of_seed(bench.seed)
    days = [bench.plan.days.train, bench.plan.days.calibrate]
    out: dict[str, Scores] = {}
    for name, (head, features) in ARMS.items():
        model = replace(usual, revisit_head=head, revisit_features=features)

        def make(names: Sequence[str], model: ModelConfig = model) -> Mapping[str, Scores]:
            return {each: ranked(bench.base(model=model), columns) for each in names}

        out |= bench.scores([name], {"model": model.to_dict(), "training": training.to_dict(), "days": days}, make)
    return out


STUDY = Study(
    name="revisit",
    question="Do the revisit head and the revisit features put more pins on top that are come back to, at no cost to saves?",
    arms={name: {"revisit_head": head, "revisit_features": features} for name, (head, features) in ARMS.items()},
    differences=[
        Against("both_over_neither", "both", "neither"),
        Against("head_over_neither", "head", "neither"),
        Against("features_over_neither", "features", "neither"),
        Against("both_over_head", "both", "head"),
    ],
    main=("gain_both_over_neither", "both_over_neither", "revisit", "ndcg@3"),
    shown=[
        *(("revisit", metric) for metric in ("ndcg@3", "map@3", "recall@3", "hit@3")),
        ("save", "hit@3"),
        ("save", "ndcg@3"),
        ("revisit", "auc"),
    ],
    directions=[
        *(Direction("both_over_neither", "revisit", metric, True, _PAPER, _SAVES) for metric in ("ndcg@3", "map@3", "recall@3", "hit@3")),
        Direction("both_over_neither", "save", "hit@3", None, _PAPER, "the utility gives revisits weight that saves had"),
    ],
    measure=by_scores(_score),
    full=FULL,
    quick=QUICK,
)
