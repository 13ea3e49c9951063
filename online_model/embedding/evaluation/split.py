"""Who is learned from and who is evaluated, and on what: users apart, and time apart for all.

Training sees training users up to the moment alone. Evaluated are other users, by pins they act on in a positive way in the window behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flows.errors import InputError
from flows.settings import DAY_MS
from online_model.embedding.positives import is_positive
from online_model.embedding.sequences import UserSequences


@dataclass(frozen=True, eq=False)
class Targets:
    """Pins that evaluated users act on in a positive way within the window: each user's pins are a set, told by the first such action on each.

    Attributes
    ----------
    user : int64[n]
        Places in the evaluated users, ascending.
    pin : int64[n]
        Places in `pin_ids`.
    time_ms : int64[n]
        Of the first positive action on it within the window.
    """

    user: np.ndarray
    pin: np.ndarray
    time_ms: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def where(self, kept: np.ndarray) -> Targets:
        """Those that are marked."""
        return Targets(self.user[kept], self.pin[kept], self.time_ms[kept])


@dataclass(frozen=True, eq=False)
class Split:
    """A split.

    Attributes
    ----------
    begin_ms, end_ms : int
        The window: from its begin up to, but not with, its end.
    train : UserSequences
        Training users, before the window.
    evaluated : UserSequences
        Evaluated users, before the window's end; each has an action before its begin.
    """

    begin_ms: int
    end_ms: int
    train: UserSequences
    evaluated: UserSequences

    def targets(self, rules: Sequence[str]) -> Targets:
        """What is positive by some rules.

        Raises
        ------
        SettingsError
            A rule names an action or a surface that nobody knows.
        """
        s = self.evaluated
        place = np.flatnonzero(is_positive(s, rules) & (s.time_ms >= self.begin_ms))
        # Actions ascend in time within a user, so the first of each pair is the earliest.
        pair = s.owner[place] * np.int64(len(s.pin_ids)) + s.pin[place]
        first = np.sort(place[np.unique(pair, return_index=True)[1]])
        return Targets(s.owner[first], s.pin[first].astype(np.int64), s.time_ms[first])


def split(sequences: UserSequences, window_days: float, share: float, seed: int, history_days: float | None = None, fold: int = 0) -> Split:
    """Split actions of users.

    Parameters
    ----------
    sequences : UserSequences
    window_days : float
        The window is the last so many days of all actions.
    share : float
        Of users who are evaluated; the others are learned from.
    seed : int
        Of who is evaluated.
    history_days : float, optional
        Only actions of so many days before the window are known; by default all.
    fold : int
        Of one seed, evaluated users of different folds are apart too.

    Raises
    ------
    InputError
        Nobody is left to be learned from, or to be evaluated.
    """
    if not len(sequences.time_ms):
        raise InputError("evaluation: there are no actions; give a log or a file that has some")
    end = int(sequences.time_ms.max()) + 1
    begin = end - round(window_days * DAY_MS)
    if history_days is not None:
        sequences = sequences.where(sequences.time_ms >= begin - round(history_days * DAY_MS))
    chosen = np.random.default_rng([seed, 1]).permutation(len(sequences))
    count = round(share * len(sequences))
    here = np.zeros(len(sequences), np.bool_)
    here[chosen[fold * count : (fold + 1) * count]] = True
    apart, learned = np.flatnonzero(here), np.flatnonzero(~here)
    before = sequences.time_ms < begin
    has_history = np.bincount(sequences.owner[before], minlength=len(sequences)) > 0
    apart, learned = apart[has_history[apart]], learned[has_history[learned]]
    if not len(apart) or not len(learned):
        raise InputError(
            f"evaluation: of {len(sequences):,} users {len(learned):,} are left to learn from and {len(apart):,} to evaluate, with actions before "
            f"the window of {window_days:g} days; give more users, a longer history or a shorter window"
        )
    train = sequences.take(learned)
    return Split(begin, end, train.where(train.time_ms < begin), sequences.take(apart))
