"""What a user's embedding is worth to the ranking model, beside the realtime sequence and in its place.

PinnerFormer (Pancha et al. 2022, section 5) is such an input of homefeed's ranking. A version is trained on the days before those that the ranker
learns from, and its table is a day's: the realtime sequence knows what happened since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from online_model.embedding.config import EmbeddingConfig
from online_model.model.columns import ExampleColumns
from online_model.model.config import Encoder, ModelConfig
from online_model.studies.embedded import embedding_of
from online_model.studies.measuring import by_scores
from online_model.studies.plan import FULL, QUICK
from online_model.studies.ranked import ranked
from online_model.studies.study import Against, Bench, Direction, Scores, Study

ARMS: Mapping[str, tuple[Encoder, bool]] = {
    "neither": (Encoder.NONE, False),
    "embedding": (Encoder.NONE, True),
    "sequence": (Encoder.MEAN, False),
    "both": (Encoder.MEAN, True),
}
EMBEDDING = EmbeddingConfig(vector_dim=64, output_dim=64, head_hidden=128, hidden=128, length=128)
"""Of few pins and a week of actions: smaller than the default. The rest of it is as `tidemark embed train` has it."""
_PAPER = "PinnerFormer (2205.04507), its A/B test as a feature of homefeed's ranking: saves, close-ups and clicks up"
_DATA = (
    "there, most users' long history reached the ranker in no other way; here each user has a vector of their ID, which is trained on the same days, "
    "and a sequence of 100 actions holds most of what a user has ever done"
)


def _score(bench: Bench) -> Mapping[str, Scores]:
    days, (usual, training) = bench.plan.days, bench.plan.of_seed(bench.seed)
    rows = bench.stream.rows.take(bench.stream.places(*bench.span))
    config = replace(EMBEDDING, seed=bench.seed)
    span = days.moment("train"), days.moment("until")
    vectors = embedding_of(bench.stream, config, *span, bench.work / "embeddings", bench.progress)
    out: dict[str, Scores] = {}
    for name, (encoder, with_embedding) in ARMS.items():
        model = replace(usual, encoder=encoder, user_embedding=config.output_dim if with_embedding else 0)

        def make(names: Sequence[str], model: ModelConfig = model) -> Mapping[str, Scores]:
            own = vectors if model.user_embedding else None
            return {each: ranked(bench.base(model=model, vectors=own), ExampleColumns.of([rows], own)) for each in names}

        said = {"model": model.to_dict(), "training": training.to_dict(), "days": [days.train, days.calibrate]}
        out |= bench.scores([name], said | ({"embedding": vectors.taken.digest} if with_embedding else {}), make)
    return out


STUDY = Study(
    name="user-embedding",
    question="Does a daily embedding of the user put more saves into the top 3, beside the realtime sequence and without it?",
    arms={
        name: {"encoder": encoder.value, "user_embedding": EMBEDDING.to_dict() if with_embedding else None}
        for name, (encoder, with_embedding) in ARMS.items()
    },
    differences=[
        Against("both_over_sequence", "both", "sequence"),
        Against("embedding_over_neither", "embedding", "neither"),
        Against("sequence_over_neither", "sequence", "neither"),
        Against("both_over_embedding", "both", "embedding"),
        Against("both_over_neither", "both", "neither"),
    ],
    main=("gain_both_over_sequence", "both_over_sequence", "save", "hit@3"),
    shown=[("save", "hit@3"), ("hide", "hit@3"), ("save", "auc"), ("click", "auc")],
    directions=[
        Direction("both_over_sequence", "save", "hit@3", True, _PAPER, _DATA),
        Direction("both_over_sequence", "click", "auc", True, _PAPER, _DATA),
        Direction("embedding_over_neither", "save", "hit@3", True, _PAPER, _DATA),
    ],
    measure=by_scores(_score),
    full=replace(FULL, days=replace(FULL.days, train=7)),
    quick=replace(QUICK, days=replace(QUICK.days, train=4)),
)
