"""Metrics that are a sum over users divided by another: what each user brings to both.

They are all metrics but AUC and ECE. Kept by user, a figure under other weights of users, as the bootstrap has them, is a matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flows.compiled import compiled
from online_model.evaluation.ranking import K, rank_requests
from online_model.evaluation.scored import ScoredRows

LEAST = 1e-7
"""Probabilities are cut to [LEAST, 1 − LEAST] before a logarithm is taken."""
RANKING = (f"hit@{K}", f"ndcg@{K}", f"map@{K}", f"recall@{K}")


@dataclass(frozen=True, eq=False)
class UserSums:
    """What u users bring to one metric: it is above.sum() / below.sum().

    Attributes
    ----------
    above, below : float64[u]
    counted : int
        Users, or rows, that the metric is of.
    """

    above: np.ndarray
    below: np.ndarray
    counted: int


def user_sums(rows: ScoredRows, head: str) -> dict[str, UserSums]:
    """Of one head, by name of the metric: ranking, GAUC, and, where the head has probabilities, log loss and calibration."""
    users = len(rows.user_id)
    ranked = rank_requests(rows.requests, rows.labels[head], rows.ranks(head))
    request_user = rows.user_of_requests
    out = {}
    for name, values in zip(RANKING, (ranked.hit, ranked.ndcg, ranked.average_precision, ranked.recall), strict=True):
        some = ~np.isnan(values)
        requests = np.bincount(request_user[some], minlength=users)
        mean = np.bincount(request_user[some], values[some], minlength=users) / np.maximum(1, requests)
        out[name] = UserSums(mean, (requests > 0).astype(np.float64), int((requests > 0).sum()))
    by_user, shown = np.full(users, np.nan), np.zeros(users)
    _auc_of_users(rows.users, rows.labels[head], rows.orders(head), by_user, shown)
    both = ~np.isnan(by_user)
    out["gauc"] = UserSums(np.where(both, by_user, 0) * shown, shown * both, int(both.sum()))
    if head in rows.probabilities:
        known = rows.labels[head] >= 0
        label, probability, user = rows.labels[head][known], rows.probabilities[head][known], rows.user[known]
        cut = np.clip(probability, LEAST, 1 - LEAST)
        loss = -np.log(np.where(label == 1, cut, 1 - cut))
        count = np.bincount(user, minlength=users).astype(np.float64)
        out["logloss"] = UserSums(np.bincount(user, loss, minlength=users), count, len(label))
        positives = np.bincount(user, label, minlength=users)
        out["calibration"] = UserSums(np.bincount(user, probability, minlength=users), positives, len(label))
    return out


@compiled
def weighted_sums(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums over users, under many weights of them.

    A matrix product, but always in the order of users: BLAS has one of its own for each machine and number of threads.

    Parameters
    ----------
    values : float64[u, k]
    weights : float32[u, b]

    Returns
    -------
    float64[k, b]
    """
    out = np.zeros((values.shape[1], weights.shape[1]))
    for u in range(values.shape[0]):
        for k in range(values.shape[1]):
            value = values[u, k]
            for b in range(weights.shape[1]):
                out[k, b] += value * weights[u, b]
    return out


@compiled
def _auc_of_users(users: np.ndarray, labels: np.ndarray, scores: np.ndarray, out: np.ndarray, shown: np.ndarray) -> None:
    most = 0
    for u in range(len(users) - 1):
        most = max(most, users[u + 1] - users[u])
    score, label = np.empty(most), np.empty(most, np.int8)
    for u in range(len(users) - 1):
        n, positives = 0, 0
        for row in range(users[u], users[u + 1]):
            if labels[row] >= 0:
                score[n], label[n] = scores[row], labels[row]
                positives += labels[row]
                n += 1
        shown[u] = n
        if positives == 0 or positives == n:
            continue
        order = np.argsort(score[:n])
        won, below, start = 0.0, 0, 0
        while start < n:
            end, hits = start, 0
            while end < n and score[order[end]] == score[order[start]]:
                hits += label[order[end]]
                end += 1
            tied = end - start - hits
            won += hits * (below + tied / 2)
            below += tied
            start = end
        out[u] = won / (positives * below)
