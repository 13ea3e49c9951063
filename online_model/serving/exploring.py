"""Which candidates are shown, and with what chance: the best, or here and there one by chance, so that it is learned what others would have got.

Everything follows from scores and the request's ID. A propensity is exact: how often the pin would be in that place, over all draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flows.events import hash_id

NOT_SHOWN = 20
"""So many of the candidates that are not shown are kept with a request, drawn at random."""
_EXPLORING, _SAMPLING = 1, 2


@dataclass(frozen=True, eq=False)
class Shown:
    """What is shown of n candidates, slot by slot.

    Attributes
    ----------
    place : int64[k]
        Of the candidates.
    propensity : float32[k]
    explored : bool[k]
    not_shown : int64[s]
        Places of some that are not, ascending.
    """

    place: np.ndarray
    propensity: np.ndarray
    explored: np.ndarray
    not_shown: np.ndarray


def shown_of(score: np.ndarray, k: int, share: float, request_id: str) -> Shown:
    """The k best, the first of equal ones first; in each slot, with a chance, one of the others instead.

    Each slot that explores gets another of those behind the best k, and each of these has the same chance. Where fewer than k are behind, only
    the last slots explore, so that there is one for each.

    Parameters
    ----------
    score : float32[n]
    k : int
        No more than there are candidates are shown.
    share : float
        The chance that a slot explores, 0 to 1.
    request_id : str
        Decides what is drawn.
    """
    n = len(score)
    k = min(k, n)
    order = np.argsort(-score, kind="stable")
    place, behind = order[:k].copy(), order[k:]
    able = np.arange(k) >= k - len(behind)
    explored = np.zeros(k, np.bool_)
    propensity = np.ones(k, np.float32)
    if share > 0 and able.any():
        rng = _rng(request_id, _EXPLORING)
        explored = able & (rng.random(k) < share)
        place[explored] = rng.choice(behind, int(explored.sum()), replace=False)
        propensity[able] = np.where(explored[able], share / len(behind), 1 - share)
    rest = np.setdiff1d(np.arange(n), place)
    sample = _rng(request_id, _SAMPLING).choice(rest, min(NOT_SHOWN, len(rest)), replace=False) if len(rest) else rest
    return Shown(place, propensity, explored, np.sort(sample))


def _rng(request_id: str, purpose: int) -> np.random.Generator:
    return np.random.default_rng((hash_id(request_id) % 2**64, purpose))
