"""Which encoder of the action sequence ranks best, all else equal: the same examples, vectors, cross layers, experts and heads.

The blog of TransAct (Xia et al. 2023) has such a table. Sequences are shorter than in production, so that two cores train all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from online_model.model.columns import ExampleColumns
from online_model.model.config import Encoder, ModelConfig
from online_model.studies.measuring import by_scores
from online_model.studies.plan import FULL, QUICK, Days
from online_model.studies.ranked import ranked
from online_model.studies.study import Against, Bench, Direction, Scores, Study

_BLOG = (
    "TransAct's blog, table 2: CNN, GRU, LSTM and pooling below a vanilla transformer, that below v1.0; HIT@3 for saves up, for hides down"
)
_DATA = (
    "the published models saw billions of examples, these a hundred thousand and one epoch of them; and here interests follow topics alone, so "
    "the order of actions says little that their mean doesn't"
)
_MODEL = ModelConfig(sequence_length=20)


def _score(bench: Bench) -> Mapping[str, Scores]:
    columns = ExampleColumns.of([bench.stream.rows.take(bench.stream.places(*bench.span))])
    usual, training = bench.plan.of_seed(bench.seed)
    days = [bench.plan.days.train, bench.plan.days.calibrate]
    out: dict[str, Scores] = {}
    for encoder in Encoder:
        model = replace(usual, encoder=encoder)

        def make(names: Sequence[str], model: ModelConfig = model) -> Mapping[str, Scores]:
            return {name: ranked(bench.base(model=model), columns) for name in names}

        out |= bench.scores([encoder.value], {"model": model.to_dict(), "training": training.to_dict(), "days": days}, make)
    return out


STUDY = Study(
    name="encoders",
    question="Which encoder of the action sequence puts more saves, and fewer hides, into the top 3?",
    arms={encoder.value: {"encoder": encoder.value} for encoder in Encoder},
    differences=[
        *(Against(f"vanilla_over_{other}", "vanilla", other) for other in ("mean", "cnn", "gru", "lstm")),
        Against("transact_v1_0_over_vanilla", "transact_v1_0", "vanilla"),
        Against("transact_v1_1_over_transact_v1_0", "transact_v1_1", "transact_v1_0"),
        Against("transact_v1_1_over_mean", "transact_v1_1", "mean"),
        Against("mean_over_none", "mean", "none"),
    ],
    main=("gain_transact_v1_0_over_vanilla", "transact_v1_0_over_vanilla", "save", "hit@3"),
    shown=[("save", "hit@3"), ("hide", "hit@3"), ("save", "auc"), ("click", "auc"), ("hide", "auc")],
    directions=[
        Direction("mean_over_none", "save", "hit@3", True, "TransAct, 2306.00248: a realtime sequence over none", _DATA),
        *(Direction(f"vanilla_over_{other}", "save", "hit@3", True, _BLOG, _DATA) for other in ("mean", "cnn", "gru", "lstm")),
        Direction("transact_v1_0_over_vanilla", "save", "hit@3", True, _BLOG, _DATA),
        Direction("transact_v1_0_over_vanilla", "hide", "hit@3", False, _BLOG, _DATA),
    ],
    measure=by_scores(_score),
    full=replace(FULL, model=_MODEL, days=Days(train=12, calibrate=19, evaluate=20, until=23)),
    quick=replace(QUICK, model=replace(_MODEL, sequence_length=8), days=Days(train=5, calibrate=9, evaluate=10, until=13)),
)
