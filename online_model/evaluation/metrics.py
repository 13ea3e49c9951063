"""All metrics of all heads of some rows, each with what it is of, or the reason why there is none. Never a NaN.

What each one is exactly: docs/evaluation.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from online_model.evaluation.ordered import auc, bins_of, calibration_error, in_order
from online_model.evaluation.ranking import K
from online_model.evaluation.scored import ScoredRows
from online_model.evaluation.user_sums import RANKING, user_sums, weighted_sums

METRICS = (*RANKING, "auc", "gauc", "logloss", "ece", "calibration")
OF_PROBABILITIES = ("logloss", "ece", "calibration")
OF_ROWS = ("auc", "gauc", *OF_PROBABILITIES)
"""Those that don't ask how a request is ranked, so that they can be had of a part of a request's pins."""
HIGHER_IS_BETTER = {**dict.fromkeys(METRICS, True), "logloss": False, "ece": False, "calibration": None}
"""None: best at 1."""
_UNIT = {**dict.fromkeys((*RANKING, "gauc"), "users"), **dict.fromkeys(("auc", *OF_PROBABILITIES), "rows")}


@dataclass(frozen=True)
class Value:
    """A metric of a head.

    Attributes
    ----------
    value : float or None
    counted : int
        What it is of.
    unit : str
        "users" or "rows".
    reason : str
        Why there is no value; else empty.
    """

    value: float | None
    counted: int
    unit: str
    reason: str = ""


@dataclass(frozen=True)
class Head:
    """What is known of a head: rows with a known label, positives among them, and each metric."""

    rows: int
    positives: int
    metrics: dict[str, Value]


@dataclass(frozen=True)
class Bin:
    """One bin of a reliability plot: rows, their mean score and the share of positives."""

    rows: int
    score: float
    label: float


class Measuring:
    """A head of some rows, ready to be measured under any weights of users.

    Attributes
    ----------
    rows, positives : int
        Rows with a known label, and those that are 1.
    counted : dict of metric to int
        What each metric is of.
    """

    def __init__(self, rows: ScoredRows, head: str) -> None:
        self.rows, self.positives = int((rows.labels[head] >= 0).sum()), int((rows.labels[head] == 1).sum())
        sums = user_sums(rows, head)
        self._names = list(sums)
        self._above, self._below = (np.column_stack([getattr(one, side) for one in sums.values()]) for side in ("above", "below"))
        self._ordered = in_order(rows, head)
        self._bins = bins_of(self._ordered) if head in rows.probabilities else None
        self.counted = {name: one.counted for name, one in sums.items()} | {"auc": self.rows, "ece": self.rows}

    def under(self, weights: np.ndarray) -> np.ndarray:
        """Metrics in the order of METRICS, nan where there is none.

        Parameters
        ----------
        weights : float32[u, b]
            How often each user counts, b times.

        Returns
        -------
        float64[len(METRICS), b]
        """
        out = np.full((len(METRICS), weights.shape[1]), np.nan)
        above, below = weighted_sums(self._above, weights), weighted_sums(self._below, weights)
        np.divide(above, below, out=above, where=below > 0)
        above[below <= 0] = np.nan
        out[[METRICS.index(name) for name in self._names]] = above
        out[METRICS.index("auc")] = auc(self._ordered, weights)
        if self._bins is not None:
            out[METRICS.index("ece")] = calibration_error(self._ordered, self._bins, weights)
        return out

    def told(self, metrics: Sequence[str] = METRICS) -> Head:
        """Some metrics, each user counting once."""
        plain = self.under(np.ones((len(self._above), 1), np.float32))[:, 0]
        values = {}
        for name in metrics:
            value = float(plain[METRICS.index(name)])
            reason = self._reason(name) if np.isnan(value) else ""
            values[name] = Value(None if reason else value, 0 if reason else self.counted[name], _UNIT[name], reason)
        return Head(self.rows, self.positives, values)

    def _reason(self, metric: str) -> str:
        if metric in OF_PROBABILITIES and self._bins is None:
            return "the head has no probabilities (score_HEAD)"
        if not self.rows:
            return "no label is known"
        if not self.positives:
            return "no row is positive"
        if metric == "auc":
            return "no row is negative"
        if metric == "gauc":
            return "no user has both a positive and a negative"
        return f"no request with a positive has more than {K} rows"


def measure(rows: ScoredRows, metrics: Sequence[str] = METRICS) -> dict[str, Head]:
    """All heads, in the order of the rows' own.

    Parameters
    ----------
    rows : ScoredRows
    metrics : sequence of str
        Of METRICS; those that are told.
    """
    return {head: Measuring(rows, head).told(metrics) for head in rows.heads}


def reliability(rows: ScoredRows, head: str) -> list[Bin]:
    """Bins of the reliability plot of a head, by ascending score; none where it has no probabilities or no known label."""
    if head not in rows.probabilities:
        return []
    ordered = in_order(rows, head)
    if not len(ordered):
        return []
    bins = bins_of(ordered)
    sizes = np.diff(bins)
    score, label = (np.add.reduceat(values, bins[:-1]) / sizes for values in (ordered.score, ordered.label))
    return [Bin(*one) for one in zip(sizes.tolist(), score.tolist(), label.tolist(), strict=True)]
