"""Measuring arms that say something of pins that were shown: final labels against their scores, by the metrics of evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from flows.examples.record import HEADS
from online_model.evaluation.bootstrap import draw, paired
from online_model.evaluation.metrics import Head, measure
from online_model.evaluation.scored import ScoredRows
from online_model.model.scoring import utility_of
from online_model.studies.study import Bench, Scores, Seed, Study


def by_scores(score: Callable[[Bench], Mapping[str, Scores]]) -> Callable[[Study, Bench], Seed]:
    """For `Study.measure`: what the arms' scores are worth, as `score` gives them for each arm."""

    def measured(study: Study, bench: Bench) -> Seed:
        evaluated = bench.stream.evaluated(*bench.span)
        scores = score(bench)
        bench.progress("measuring", 0, 0)
        rows = {name: one.measured(evaluated) for name, one in scores.items()}
        by_score = any(one.score is not None for one in scores.values())
        best = Scores(HEADS, evaluated.chances, utility_of(evaluated.chances, HEADS) if by_score else None).measured(evaluated)
        # Each arm is drawn once, however many differences it is a side of.
        sides = dict(zip(rows, draw(list(rows.values()), bench.seed, bench.plan.resamples), strict=True))
        return Seed(
            seed=bench.seed,
            rows=len(evaluated),
            users=len(best.user_id),
            arms={name: one.heads for name, one in sides.items()},
            best=measure(best),
            by_time={} if study.bucket_ms is None else {name: _by_time(one, bench, study.bucket_ms) for name, one in rows.items()},
            resamples={one.name: paired(sides[one.this], sides[one.against]) for one in study.differences},
            by_score=by_score,
        )

    return measured


def _by_time(rows: ScoredRows, bench: Bench, bucket_ms: int) -> list[dict[str, Head]]:
    begin, end = bench.span
    which = np.clip(rows.request_time - begin, 0, end - begin - 1) // bucket_ms
    return [measure(rows.take(which == bucket)) for bucket in range(-(-(end - begin) // bucket_ms))]
