"""How to learn online from labels that come late: take pins for negatives at once and correct, wait until labels are final, or take positives first.

Ktena et al. 2019 ("Addressing delayed feedback for continuous training with neural networks in CTR prediction") compare such ways. All arms serve
what they have learned up to the last five minutes; they differ in what they learn from which record, and when.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from flows.settings import DAY_MS
from online_model.learner.config import LearnerConfig
from online_model.learner.delayed import DelayedLabels
from online_model.model.columns import ExampleColumns
from online_model.studies.bases import probabilities_of
from online_model.studies.measuring import by_scores
from online_model.studies.plan import FULL_LEARNED, QUICK
from online_model.studies.serving import served
from online_model.studies.study import Against, Bench, Direction, Scores, Study

ARMS: Mapping[str, LearnerConfig] = {way.value: LearnerConfig(delayed_labels=way) for way in DelayedLabels}
_NONE = "no-learner"
_SYNC_MS = 5 * 60_000
"""Short beside what labels are late by, and a fifth of the work of each minute."""
_KTENA = "Ktena et al. 2019: correcting what is taken for negative too early gains in relative cross-entropy over not correcting"
_SHORT = "labels are late by an hour and a half at most (revisits by a week), which is little beside what drifts here in days"
_FROZEN = (
    "dense weights are frozen, and an ID's row can take back what positives said too early once its negatives are final, 90 minutes later"
)


def _score(bench: Bench) -> Mapping[str, Scores]:
    base = bench.base()

    def unlearned(names: Sequence[str]) -> Mapping[str, Scores]:
        columns = ExampleColumns.of([bench.stream.rows.take(bench.stream.places(*bench.span))])
        said = probabilities_of(base, base.tables(), columns, np.arange(len(columns)))
        return {name: Scores(base.ranker.config.heads, said) for name in names}

    out = bench.scores([_NONE], {"base": base.digest}, unlearned)
    for arm, learner in ARMS.items():

        def make(names: Sequence[str], arm: str = arm, learner: LearnerConfig = learner) -> Mapping[str, Scores]:
            def told(done: int, of: int) -> None:
                bench.progress(f"learning, {arm}", done, of)

            said = served(bench.stream, base, learner, dict.fromkeys(names, _SYNC_MS), *bench.span, told, _SYNC_MS)
            return {name: Scores(base.ranker.config.heads, probabilities) for name, probabilities in said.items()}

        out |= bench.scores([arm], {"base": base.digest, "learner": learner.to_dict(), "sync_ms": _SYNC_MS}, make)
    return out


STUDY = Study(
    name="delayed-labels",
    question="How well ranked and how well calibrated is what was learned from labels that come late?",
    arms={**{name: learner.to_dict() for name, learner in ARMS.items()}, _NONE: None},
    differences=[
        Against("fake_negative_over_positives_first", "fake-negative", "positives-first"),
        Against("fake_negative_over_wait", "fake-negative", "wait"),
        Against("wait_over_positives_first", "wait", "positives-first"),
        Against("fake_negative_over_no_learner", "fake-negative", _NONE),
    ],
    main=("loss_fake_negative_over_positives_first", "fake_negative_over_positives_first", "click", "logloss"),
    shown=[(head, metric) for head in ("click", "save", "revisit") for metric in ("auc", "logloss", "ece", "calibration")],
    directions=[
        Direction("fake_negative_over_positives_first", "click", "logloss", False, _KTENA, _FROZEN),
        Direction("fake_negative_over_positives_first", "click", "ece", False, _KTENA, _FROZEN),
        Direction("fake_negative_over_positives_first", "click", "auc", True, _KTENA, _FROZEN),
        Direction("fake_negative_over_wait", "click", "auc", True, _KTENA, _SHORT),
        Direction("fake_negative_over_wait", "click", "logloss", False, _KTENA, _SHORT),
    ],
    measure=by_scores(_score),
    full=FULL_LEARNED,
    quick=QUICK,
    bucket_ms=DAY_MS,
)
