"""What a learner could know at best: the chance of each head for each pin that was shown, as the simulation itself drew from it.

For studies alone: whatever learns from a simulation must never read this. A model's AUC says little without that of the chances beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flows.simulate.appeal import HEADS, Appeal, Looked
from flows.simulate.parameters import RESAVE_MS
from flows.simulate.revisits import Leanings, chance_of_revisit
from flows.simulate.table import ACTIONS, SAVE, Events
from flows.simulate.truth import Labels

HEAD_NAMES = (*(name for code in HEADS for name, known in ACTIONS.items() if known == code), "revisit")


@dataclass(frozen=True)
class Chances:
    """A row for each pin that was shown, request by request.

    Attributes
    ----------
    request, pin, slot : int32
    by_head : float64, (rows, heads)
        In the order of `HEAD_NAMES`.
    """

    request: np.ndarray
    pin: np.ndarray
    slot: np.ndarray
    by_head: np.ndarray


def chances_at(looked: Looked, appeal: Appeal, aims: dict[int, float], totals: dict[int, float], leanings: Leanings | None) -> np.ndarray:
    """The chance of each head, float64, (rows, heads), as if nothing had been saved before.

    Parameters
    ----------
    aims, totals : dict
        As of `browsing.engage`.
    leanings : Leanings or None
        As of `revisits.plan`.
    """
    out = np.empty((len(looked), len(HEAD_NAMES)))
    liking = appeal.liking(looked)
    for head, action in enumerate(HEADS):
        out[:, head] = np.minimum(appeal.weight(action, liking, looked) * aims[action] / totals[action], 1.0)
    out[:, -1] = out[:, HEADS.index(SAVE)] * chance_of_revisit(leanings, looked.user, looked.pin)
    return out


def totals_of(looked: Looked, appeal: Appeal, aims: dict[int, float]) -> dict[int, float]:
    """The sum of the weights of each action."""
    liking = appeal.liking(looked)
    return {action: float(appeal.weight(action, liking, looked).sum()) for action in aims}


def without_resaves(chances: np.ndarray, looked: Looked, saves: Events) -> None:
    """Sets to 0, in place, what can't be: nobody saves a pin again within RESAVE_MS."""
    pair = np.concatenate([saves.user, looked.user]).astype(np.int64) << 32 | np.concatenate([saves.pin, looked.pin])
    time = np.concatenate([saves.time, looked.requested])
    saved = np.arange(len(pair)) < len(saves)
    order = np.lexsort((time, pair))
    # Of each row the row of the save before it, whoever's; then whether it is of the same user and pin.
    before = np.maximum.accumulate(np.where(saved[order], np.arange(len(order)), -1))
    last = order[before]
    recent = (before >= 0) & (pair[last] == pair[order]) & (time[order] - time[last] < RESAVE_MS) & ~saved[order]
    rows = order[recent] - len(saves)
    chances[rows, HEAD_NAMES.index("save")] = 0.0
    chances[rows, -1] = 0.0


def best(chances: Chances, events: Events, labels: Labels) -> dict[str, dict[str, float | int | None]]:
    """Of each head the AUC of the chances against what came of them: no model's is higher, but for luck.

    Of revisits, over what was not saved and the saves that have matured.
    """
    width = int(chances.pin.max(initial=0)) + 1
    shown = chances.request.astype(np.int64) * width + chances.pin
    out: dict[str, dict[str, float | int | None]] = {}
    saves = np.zeros(len(events), bool)
    saves[labels.event[labels.matured & labels.labels.any(axis=1)]] = True
    unknown = events.action == SAVE
    unknown[labels.event[labels.matured]] = False
    for column, name in enumerate(HEAD_NAMES):
        came = saves if name == "revisit" else (events.action == ACTIONS[name]) & (events.request >= 0)
        positive = np.isin(shown, events.request[came].astype(np.int64) * width + events.pin[came])
        known = np.ones(len(shown), bool)
        if name == "revisit":
            known = ~np.isin(shown, events.request[unknown].astype(np.int64) * width + events.pin[unknown])
        out[name] = {"auc": area(chances.by_head[known, column], positive[known]), "positives": int(positive[known].sum())}
    return out


def area(score: np.ndarray, positive: np.ndarray) -> float | None:
    """Area under the ROC curve: how often a positive scores higher than a negative, ties as half. None without either."""
    ordered = np.sort(score[~positive])
    of = score[positive]
    if not len(of) or not len(ordered):
        return None
    below = np.searchsorted(ordered, of, "left") + np.searchsorted(ordered, of, "right")
    return float(below.sum() / (2 * len(of) * len(ordered)))
