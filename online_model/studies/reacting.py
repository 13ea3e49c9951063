"""Who ranks in a closed loop, and what users do: slice by slice, and behind each slice whoever learns has what arrived in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flows.simulate.closed_loop import ClosedLoop, Requests
from online_model.evaluation.metrics import Head, Value
from online_model.learner.step import Step
from online_model.model.columns import ExampleColumns
from online_model.model.scoring import utility_of
from online_model.studies.bases import Base, probabilities_of
from online_model.studies.reactions import Reactions, candidates_of
from online_model.training.tables import Tables

USER_DAY = "user-day"
"""What outcomes are told by, in the place of a head."""
_OUTCOMES = ("saves", "revisits")

Rank = Callable[[Requests], np.ndarray]
"""Requests to their slots, int64[n, width]."""


@dataclass(frozen=True, eq=False)
class Reacted:
    """What came of an arm: columns of equal length, a row for each user; users and days are those of every arm.

    Attributes
    ----------
    days, saves, revisits : int64[u]
        As of `flows.simulate.closed_loop.Outcomes`.
    """

    days: np.ndarray
    saves: np.ndarray
    revisits: np.ndarray

    def under(self, weights: np.ndarray) -> np.ndarray:
        """Saves and revisits per user-day, if users count so often: float32[u, b] to float64[2, b]."""
        return np.stack([self.saves, self.revisits]).astype(np.float64) @ weights / (self.days.astype(np.float64) @ weights)

    def told(self) -> dict[str, Head]:
        """The same, each user counting once."""
        plain = self.under(np.ones((len(self.days), 1), np.float32))[:, 0]
        days, metrics = int(self.days.sum()), dict(zip(_OUTCOMES, plain.tolist(), strict=True))
        return {USER_DAY: Head(days, int(self.saves.sum()), {name: Value(one, len(self.days), "users") for name, one in metrics.items()})}


def in_order(score: np.ndarray) -> np.ndarray:
    """Slots of candidates, the highest score first: float64[n, width] to int64[n, width]."""
    return np.argsort(np.argsort(-score, axis=1, kind="stable"), axis=1, kind="stable")


def by_rows(base: Base, tables: Tables) -> Rank:
    """Ranked by utility, with rows of IDs as they are when it is asked."""

    def rank(requests: Requests) -> np.ndarray:
        columns = ExampleColumns.of([candidates_of(requests)])
        probabilities = probabilities_of(base, tables, columns, np.arange(len(columns)))
        return in_order(utility_of(probabilities, base.ranker.config.heads).reshape(requests.candidates.shape))

    return rank


def reacted(
    loop: ClosedLoop, rank: Rank, slice_ms: int, end: int, step: Step | None = None, told: Callable[[int], None] = lambda now: None
) -> Reacted:
    """Users' reactions to a ranking, from where a loop stands.

    Parameters
    ----------
    loop : ClosedLoop
    rank : callable
        Requests to their slots.
    slice_ms : int
    end : int
        No request at this time or later, ms.
    step : Step, optional
        Learns behind each slice what has arrived in it.
    told : callable
        Told until when it has come.
    """
    reactions = Reactions()
    for requests in loop.slices(slice_ms):
        slots = rank(requests)
        reaction = loop.react(requests, slots)
        if step is not None:
            rows = reactions.examples(requests, slots, reaction)
            for low in range(0, len(rows), step.config.batch_rows):
                step.learn(rows.take(np.arange(low, min(low + step.config.batch_rows, len(rows)))))
        told(requests.until_ms)
        if requests.until_ms >= end:
            break
    outcomes = loop.outcomes()
    return Reacted(outcomes.days, outcomes.saves, outcomes.revisits)
