"""What a learner does to saves and revisits where users react to what is ranked.

Nothing else is told of a closed loop: each arm makes its own log, so that metrics of scores would compare different rows. Arms have the same
requests, and whoever is shown the same pin in the same slot reacts alike. The models see no sequence and no counters, which would be of each
arm's own log; what is compared is rows of IDs, as they were trained and as they are learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from flows.examples.record import HEADS
from flows.settings import HOUR_MS
from flows.simulate.closed_loop import ClosedLoop, Requests
from flows.simulate.numbers import key_of, unit
from online_model.evaluation.bootstrap import Resamples, weights_of
from online_model.learner.config import LearnerConfig
from online_model.learner.step import Step
from online_model.model.config import Encoder, ModelConfig
from online_model.model.scoring import utility_of
from online_model.studies.bases import Base
from online_model.studies.plan import FULL, QUICK
from online_model.studies.reacting import USER_DAY, Rank, Reacted, by_rows, in_order, reacted
from online_model.studies.stream import site_of
from online_model.studies.study import Against, Bench, Direction, Seed, Study

RANDOM, NO_LEARNER, LEARNER, BEST = "random", "no-learner", "learner", "best"
SLICE_MS: Mapping[str, int] = {RANDOM: HOUR_MS, NO_LEARNER: HOUR_MS, LEARNER: 5 * 60_000, BEST: HOUR_MS}
"""Whoever learns does so behind each slice. Of the others slices change nothing."""
_LOTS = 1_001
"""Apart from what the loop asks its own numbers for."""
_MONOLITH = "Monolith, 2209.07663, section 3.3: learning online gains over batch training in live experiments"
_SMALL = "rows of IDs tell of pins alone here, and a pin that is ranked low is hardly learned of any more, for nothing explores"


def model_of(model: ModelConfig) -> ModelConfig:
    """A study's model without what is made of the log, and without the head whose outcome comes in days."""
    return replace(model, encoder=Encoder.NONE, sequence_length=1, revisit_features=False, revisit_head=False)


def by_lot(seed: int) -> Rank:
    """Ranked by chance, each request in the same way in whatever slice it comes."""

    def rank(requests: Requests) -> np.ndarray:
        rows = np.arange(requests.rows.start, requests.rows.stop)[:, None]
        return in_order(unit(key_of(seed, _LOTS, rows, requests.candidates)))

    return rank


def by_truth(loop: ClosedLoop) -> Rank:
    """Ranked by the utility of the true chances."""

    def rank(requests: Requests) -> np.ndarray:
        chances = loop.chances(requests).reshape(-1, len(HEADS))
        return in_order(utility_of(chances, HEADS).reshape(requests.candidates.shape))

    return rank


def _measure(study: Study, bench: Bench) -> Seed:
    usual, _ = bench.plan.of_seed(bench.seed)
    base = bench.base(model=model_of(usual))
    made = _arms([*study.arms, BEST], bench, base)
    best = made.pop(BEST)
    users = len(best.days)
    weights = np.concatenate([block for _, block in weights_of(users, bench.plan.resamples, bench.seed)], axis=1)
    rates = {arm: one.under(weights) for arm, one in made.items()}
    heads = {arm: one.told() for arm, one in made.items()}
    resamples = {}
    for one in study.differences:
        sides = heads[one.this][USER_DAY], heads[one.against][USER_DAY]
        resamples[one.name] = Resamples({USER_DAY: sides}, np.stack([rates[one.this], rates[one.against]])[None], users, bench.seed)
    return Seed(bench.seed, int(best.days.sum()), users, heads, best.told(), {}, resamples, by_score=False)


def _arms(names: list[str], bench: Bench, base: Base) -> dict[str, Reacted]:
    """What came of each arm; found where it was kept."""
    (begin, end), learner = bench.span, LearnerConfig()
    out: dict[str, Reacted] = {}
    site: ClosedLoop | None = None
    for arm in names:
        said = {
            "history": bench.stream.digest,
            "span": bench.span,
            "base": base.digest,
            "slice_ms": SLICE_MS[arm],
            "learner": learner.to_dict(),
        }
        kept = bench.kept.get(arm, said)
        if kept is None:
            if site is None:
                bench.progress("drawing the site", 0, 0)
                site = ClosedLoop(site_of(bench.stream.plan), begin)
            loop = site.anew()
            step = Step(base.ranker, base.tables(), learner) if arm == LEARNER else None
            rank = _rank(arm, bench.seed, loop, base, step)
            told = partial(_told, bench, arm)
            kept = vars(reacted(loop, rank, SLICE_MS[arm], end, step, told))
            bench.kept.put(arm, said, kept)
        out[arm] = Reacted(**kept)
    return out


def _told(bench: Bench, arm: str, now: int) -> None:
    begin, end = bench.span
    bench.progress(f"reacting, {arm}", (now - begin) // HOUR_MS, (end - begin) // HOUR_MS)


def _rank(arm: str, seed: int, loop: ClosedLoop, base: Base, step: Step | None) -> Rank:
    if arm == RANDOM:
        return by_lot(seed)
    if arm == BEST:
        return by_truth(loop)
    return by_rows(base, base.tables() if step is None else step.tables)


STUDY = Study(
    name="closed-loop",
    question="How many more saves and revisits are there per user-day if rows of IDs are learned from what users do with the ranking?",
    arms={
        RANDOM: {"ranks": "by lot"},
        NO_LEARNER: {"ranks": "by utility", "learner": None},
        LEARNER: {"ranks": "by utility", "learner": LearnerConfig().to_dict(), "slice_ms": SLICE_MS[LEARNER]},
    },
    differences=[
        Against("learner_over_no_learner", LEARNER, NO_LEARNER),
        Against("no_learner_over_random", NO_LEARNER, RANDOM),
    ],
    main=("saves_learner_over_no_learner", "learner_over_no_learner", USER_DAY, "saves"),
    shown=[(USER_DAY, "saves"), (USER_DAY, "revisits")],
    directions=[
        Direction("learner_over_no_learner", USER_DAY, "saves", True, _MONOLITH, _SMALL),
        Direction("learner_over_no_learner", USER_DAY, "revisits", True, _MONOLITH, _SMALL),
    ],
    measure=_measure,
    full=FULL,
    quick=QUICK,
    unit="user-days",
)
