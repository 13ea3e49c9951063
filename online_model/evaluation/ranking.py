"""How well requests are ranked: HIT@k, NDCG@k, MAP@k and Recall@k of each request, exactly.

Pins of one score have no order, and none is made up: a metric is its expectation over all orders of them. docs/evaluation.md has the formulas.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flows.compiled import compiled

K = 3
"""How many pins from the top count."""


@dataclass(frozen=True, eq=False)
class RankedRequests:
    """Metrics of q requests.

    Attributes
    ----------
    hit : float64[q]
        nan for a request without a row whose label is known.
    ndcg, average_precision, recall : float64[q]
        nan for a request without a positive, or with no more than k rows.
    """

    hit: np.ndarray
    ndcg: np.ndarray
    average_precision: np.ndarray
    recall: np.ndarray


def rank_requests(requests: np.ndarray, labels: np.ndarray, scores: np.ndarray, k: int = K) -> RankedRequests:
    """Metrics of each request, over its rows whose label is known.

    Parameters
    ----------
    requests : int64[q + 1]
        Rows of request i are requests[i] to requests[i + 1].
    labels : int8[n]
        0, 1, or negative: not known.
    scores : float64[n]
        Highest first; finite.
    k : int
    """
    out = np.full((4, len(requests) - 1), np.nan)
    _rank(requests, labels, scores, k, 1 / np.log2(np.arange(2, k + 2)), out)
    return RankedRequests(*out)


@compiled
def _rank(requests: np.ndarray, labels: np.ndarray, scores: np.ndarray, k: int, discount: np.ndarray, out: np.ndarray) -> None:
    most = 0
    for q in range(len(requests) - 1):
        most = max(most, requests[q + 1] - requests[q])
    score, label = np.empty(most), np.empty(most, np.int8)
    for q in range(len(requests) - 1):
        n, positives = 0, 0
        for row in range(requests[q], requests[q + 1]):
            if labels[row] >= 0:
                score[n], label[n] = -scores[row], labels[row]
                positives += labels[row]
                n += 1
        if n == 0:
            continue
        order = np.argsort(score[:n])
        misses, dcg, precisions, found = 1.0, 0.0, 0.0, 0.0
        above = 0  # rows before this group of equal scores, and the positives among them
        hits_above = 0
        while above < min(k, n):
            end, hits = above, 0
            while end < n and score[order[end]] == score[order[above]]:
                hits += label[order[end]]
                end += 1
            tied = end - above
            taken = min(k, end) - above
            # That none of the group's positives is among those `taken` of it: C(tied − hits, taken) / C(tied, taken).
            for i in range(taken):
                misses *= max(0, tied - hits - i) / (tied - i)
            share = hits / tied
            # That two given places of the group both have a positive.
            both = hits * (hits - 1) / (tied * (tied - 1)) if tied > 1 else 0.0
            for i in range(taken):
                place = above + i
                dcg += share * discount[place]
                found += share
                precisions += (share * (1 + hits_above) + i * both) / (place + 1)
            above, hits_above = end, hits_above + hits
        out[0, q] = 1 - misses
        if positives > 0 and n > k:
            ideal = 0.0
            for i in range(min(k, positives)):
                ideal += discount[i]
            out[1, q] = dcg / ideal
            out[2, q] = precisions / min(k, positives)
            out[3, q] = found / positives
