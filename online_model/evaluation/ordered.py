"""One head's rows in the order of their scores, and what is asked of that order: AUC, and calibration in bins, for many weightings at once.

A weighting says how often each user counts: all ones is the plain figure, a resample of the bootstrap is another. Weights are columns of a matrix,
so that rows are walked once for a block of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flows.compiled import compiled
from online_model.evaluation.scored import ScoredRows

BINS = 20
"""Bins of calibration, of equal numbers of rows."""


@dataclass(frozen=True, eq=False)
class Ordered:
    """The m rows of a head whose label is known, by ascending score.

    Attributes
    ----------
    score : float64[m]
    label : float64[m]
        0 or 1.
    user : int64[m]
        Places in the `user_id` of the rows.
    groups : int64[g + 1]
        Rows of one score are groups[i] to groups[i + 1].
    """

    score: np.ndarray
    label: np.ndarray
    user: np.ndarray
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.score)


def in_order(rows: ScoredRows, head: str) -> Ordered:
    """Rows of one head by the score that is its own, else by that of all heads."""
    known = np.flatnonzero(rows.labels[head] >= 0)
    score = rows.orders(head)[known]
    order = np.argsort(score)
    score = score[order]
    first = np.flatnonzero(np.concatenate([[True], score[1:] != score[:-1]])) if len(score) else np.empty(0, np.int64)
    groups = np.append(first, len(score)).astype(np.int64)
    # A stable sort takes five times as long; its order of equal scores, and so the last bit of sums, is had for less.
    _sort_within(groups, order)
    which = known[order]
    return Ordered(score, rows.labels[head][which].astype(np.float64), rows.user[which], groups)


def auc(rows: Ordered, weights: np.ndarray) -> np.ndarray:
    """The chance that a positive has a higher score than a negative, a tie counting half (Mann and Whitney 1947).

    Parameters
    ----------
    weights : float32[u, b]
        How often each user counts.

    Returns
    -------
    float64[b]
        nan where a class has no weight.
    """
    return _auc(rows.label, rows.user, rows.groups, weights)


def bins_of(rows: Ordered, bins: int = BINS) -> np.ndarray:
    """Bounds of bins of equal numbers of rows: int64[k + 1], k ≤ bins. Rows of one score are in one bin, that of the first of them."""
    starts = rows.groups[:-1] * bins // max(1, len(rows))
    changes = np.flatnonzero(np.diff(starts, prepend=-1))
    return np.append(rows.groups[:-1][changes], len(rows)).astype(np.int64)


def calibration_error(rows: Ordered, bins: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error: mean of |share of positives − mean score| over bins, each by its rows (Naeini et al. 2015).

    Parameters
    ----------
    bins : int64[k + 1]
        As of `bins_of`.
    weights : float32[u, b]
        How often each user counts.

    Returns
    -------
    float64[b]
        nan where no row has weight.
    """
    return _calibration_error(rows.label - rows.score, rows.user, bins, weights)


@compiled
def _sort_within(groups: np.ndarray, order: np.ndarray) -> None:
    for g in range(len(groups) - 1):
        if groups[g + 1] > groups[g] + 1:
            order[groups[g] : groups[g + 1]].sort()


@compiled
def _auc(label: np.ndarray, user: np.ndarray, groups: np.ndarray, weights: np.ndarray) -> np.ndarray:
    width = weights.shape[1]
    below, positives, won = np.zeros(width), np.zeros(width), np.zeros(width)
    tied, hits = np.empty(width), np.empty(width)
    for g in range(len(groups) - 1):
        start, end = groups[g], groups[g + 1]
        if end == start + 1:
            weight = weights[user[start]]
            if label[start] > 0:
                for b in range(width):
                    won[b] += weight[b] * below[b]
                    positives[b] += weight[b]
            else:
                for b in range(width):
                    below[b] += weight[b]
            continue
        tied[:], hits[:] = 0.0, 0.0
        for row in range(start, end):
            weight = weights[user[row]]
            if label[row] > 0:
                for b in range(width):
                    hits[b] += weight[b]
            else:
                for b in range(width):
                    tied[b] += weight[b]
        for b in range(width):
            won[b] += hits[b] * (below[b] + tied[b] / 2)
            below[b] += tied[b]
            positives[b] += hits[b]
    out = np.full(width, np.nan)
    for b in range(width):
        if positives[b] > 0 and below[b] > 0:
            out[b] = won[b] / (positives[b] * below[b])
    return out


@compiled
def _calibration_error(residual: np.ndarray, user: np.ndarray, bins: np.ndarray, weights: np.ndarray) -> np.ndarray:
    width = weights.shape[1]
    error, total, within = np.zeros(width), np.zeros(width), np.empty(width)
    for i in range(len(bins) - 1):
        within[:] = 0.0
        for row in range(bins[i], bins[i + 1]):
            weight, apart = weights[user[row]], residual[row]
            for b in range(width):
                within[b] += weight[b] * apart
                total[b] += weight[b]
        for b in range(width):
            error[b] += abs(within[b])
    out = np.full(width, np.nan)
    for b in range(width):
        if total[b] > 0:
            out[b] = error[b] / total[b]
    return out
