"""The paper's measures (section 4.1.1): whether a user's pins are found among random ones, and how different are the pins that are found.

- Recall@10 of a user: the share of their pins to which fewer than ten pins of the corpus are nearer or as near, the pin itself left out.
- Interest entropy@50: the entropy, in nats, of the topics of the 50 nearest pins of the corpus to a user.
- P90 coverage@10: the least share of the corpus that makes up 90 % of the ten nearest pins of all users.
"""

from __future__ import annotations

import numpy as np

from online_model.embedding.index import exact
from online_model.training.errors import DivergedError

K, ENTROPY_K = 10, 50
COVERED = (9, 10)
"""Of so many: 90 %."""
_AT_ONCE = 256


def found(users: np.ndarray, pins: np.ndarray, corpus: np.ndarray, which: np.ndarray, pin: np.ndarray, k: int = K) -> np.ndarray:
    """Whether each pin is among the k nearest to its user.

    Parameters
    ----------
    users : float32[q, D]
    pins : float32[m, D]
        Ranked by inner products.
    corpus : int64[c]
        Rows of the pins that others are held against.
    which, pin : int64[n]
        The user and the pin of each question: rows of both.
    k : int

    Returns
    -------
    bool[n]

    Raises
    ------
    DivergedError
        A vector that is asked about is not finite: nothing would be nearer to it, so it would count as found.
    """
    for name, of in (("user", users[np.unique(which)]), ("pin", pins[np.unique(pin)]), ("pin", pins[corpus])):
        refuse_not_finite(name, of)
    others = np.empty(len(which), np.int64)
    order = np.argsort(which, kind="stable")
    against = np.ascontiguousarray(pins[corpus].T)
    for begin in range(0, len(order), _AT_ONCE):
        some = order[begin : begin + _AT_ONCE]
        asked, of = np.unique(which[some], return_inverse=True)
        products = (users[asked] @ against)[of]
        own = np.einsum("nd,nd->n", users[which[some]], pins[pin[some]])
        # Where the pin is of the corpus itself, its product comes from the same multiplication as those that it is held against.
        itself = corpus[None, :] == pin[some][:, None]
        own = np.where(itself.any(axis=1), np.where(itself, products, -np.inf).max(axis=1, initial=-np.inf), own)
        others[some] = ((products >= own[:, None]) & ~itself).sum(axis=1)
    return others < k


def refuse_not_finite(what: str, values: np.ndarray) -> None:
    """No figure is made of numbers that are none.

    Parameters
    ----------
    what : str
        Whose they are, for the message.
    values : float32[n, d]
        A row for each.

    Raises
    ------
    DivergedError
    """
    bad = np.count_nonzero(~np.isfinite(values).all(axis=1))
    if bad:
        raise DivergedError(
            f"evaluation: the model gives numbers that are not finite (NaN, infinite) for {bad:,} of {len(values):,} {what}s; "
            "nothing can be measured, so train with a smaller learning_rate"
        )


def recall_of_users(hit: np.ndarray, user: np.ndarray, users: int) -> np.ndarray:
    """The share of each user's pins that was found, nan for users without a pin: float64[users]."""
    counts = np.bincount(user, minlength=users)
    with np.errstate(invalid="ignore"):
        return np.where(counts > 0, np.bincount(user, hit, minlength=users) / counts, np.nan)


def nearest(users: np.ndarray, pins: np.ndarray, corpus: np.ndarray, k: int) -> np.ndarray:
    """The k nearest pins of the corpus to each user, as places in it: int64[q, k], fewer where it has fewer."""
    return exact(users, pins[corpus], k)


def entropy_of_topics(near: np.ndarray, topic: np.ndarray) -> np.ndarray:
    """Entropy of the topics of each user's nearest pins, in nats; pins without a topic (below 0) count for nothing.

    Parameters
    ----------
    near : int64[q, k]
    topic : int64[c]
        Of the corpus.

    Returns
    -------
    float64[q]
    """
    topics = topic[near]
    counts = np.stack([(topics == one).sum(axis=1) for one in range(int(topic.max(initial=-1)) + 1)] or [np.zeros(len(near))], axis=1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return -(share * np.log(np.where(share > 0, share, 1))).sum(axis=1)


def coverage(near: np.ndarray, corpus: int) -> float:
    """The least share of a corpus that makes up nine tenths of all users' nearest pins.

    Parameters
    ----------
    near : int64[q, k]
        Places in the corpus.
    corpus : int
        How many pins it has.
    """
    times = np.bincount(near.reshape(-1))
    descending = np.sort(times[times > 0])[::-1]
    if not len(descending):
        return 0.0
    through = np.cumsum(descending)
    # Whole numbers: nine tenths of a sum would miss by a rounding error what reaches it exactly.
    return (int(np.searchsorted(through * COVERED[1], through[-1] * COVERED[0])) + 1) / corpus
