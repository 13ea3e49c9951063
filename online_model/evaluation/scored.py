"""Rows with scores and labels, in one canonical order, so that no figure depends on the order in which they were given.

They are sorted by user, request and pin: whatever is per user or per request is a stretch of rows. What no metric can be made of (a score that is
no number, a pin twice in one request) is refused here and nowhere later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.errors import InputError
from flows.examples.record import MASKED


@dataclass(frozen=True, eq=False)
class ScoredRows:
    """n rows (a pin that a request showed to a user) of q requests of u users.

    Attributes
    ----------
    user_id : int64[u]
        Ascending.
    users : int64[u + 1]
        Rows of user i are users[i] to users[i + 1].
    request_id : pa.StringArray
        q of them.
    requests : int64[q + 1]
        Rows of request i are requests[i] to requests[i + 1]; a request is of one user.
    pin_id, request_time : int64[n]
        The second in ms.
    topic, topics : int32[n], tuple of str
        The first points into the second, -1 for none.
    first_seen : int64[u]
        When each user acted first, ms.
    labels : dict of head to int8[n]
        0, 1, or MASKED: not known, left out of all figures of this head.
    probabilities : dict of head to float64[n]
        Within [0, 1]; of all heads or of some.
    score : float64[n] or None
        What requests are ranked by, for all heads; None: by each head's probability.
    """

    user_id: np.ndarray
    users: np.ndarray
    request_id: pa.Array
    requests: np.ndarray
    pin_id: np.ndarray
    request_time: np.ndarray
    topic: np.ndarray
    topics: tuple[str, ...]
    first_seen: np.ndarray
    labels: dict[str, np.ndarray]
    probabilities: dict[str, np.ndarray]
    score: np.ndarray | None

    def __len__(self) -> int:
        return len(self.pin_id)

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(self.labels)

    @cached_property
    def user(self) -> np.ndarray:
        """Which user each row is of: int64[n], places in `user_id`."""
        return np.repeat(np.arange(len(self.user_id)), np.diff(self.users))

    @cached_property
    def user_of_requests(self) -> np.ndarray:
        """Which user each request is of: int64[q]."""
        return np.searchsorted(self.users, self.requests[:-1], side="right") - 1

    def ranks(self, head: str) -> np.ndarray:
        """What requests are ranked by, for one head: float64[n], highest first."""
        return self.probabilities[head] if self.score is None else self.score

    def orders(self, head: str) -> np.ndarray:
        """What tells a head's positives from its negatives: its probability, else the score. float64[n]."""
        return self.probabilities[head] if head in self.probabilities else self.ranks(head)

    def take(self, which: np.ndarray) -> ScoredRows:
        """Those rows where bool[n] is set; users and requests that have none left are gone."""
        which = np.flatnonzero(which)
        users, requests = (np.diff(np.searchsorted(which, bounds)) for bounds in (self.users, self.requests))
        some = requests > 0
        return ScoredRows(
            user_id=self.user_id[users > 0],
            users=_bounds(users[users > 0]),
            request_id=self.request_id.filter(pa.array(some)),
            requests=_bounds(requests[some]),
            pin_id=self.pin_id[which],
            request_time=self.request_time[which],
            topic=self.topic[which],
            topics=self.topics,
            first_seen=self.first_seen[users > 0],
            labels={head: values[which] for head, values in self.labels.items()},
            probabilities={head: values[which] for head, values in self.probabilities.items()},
            score=None if self.score is None else self.score[which],
        )


def scored_rows(
    *,
    user_id: np.ndarray,
    request_id: pa.Array,
    pin_id: np.ndarray,
    request_time: np.ndarray,
    labels: Mapping[str, np.ndarray],
    probabilities: Mapping[str, np.ndarray],
    score: np.ndarray | None = None,
    topic: tuple[np.ndarray, tuple[str, ...]] | None = None,
    first_seen: np.ndarray | None = None,
    where: str = "scored rows",
) -> ScoredRows:
    """Rows in any order, checked and put in order.

    Parameters
    ----------
    user_id, pin_id, request_time : int64[n]
    request_id : pa.StringArray
        n of them. One ID of two users is two requests.
    labels : mapping of head to int8[n]
    probabilities : mapping of head to float[n]
        Of these heads, or of some of them; of none only where there is a `score`.
    score : float[n], optional
    topic : (int32[n], tuple of str), optional
    first_seen : int64[n], optional
        When the row's user acted first, ms; left out, the first request among the rows stands for it.
    where : str
        For messages.

    Raises
    ------
    InputError
        There are no rows or no head, a label is none, a score isn't finite, a probability lies outside [0, 1], or a pin is in a request twice.
    """
    if not len(user_id):
        raise InputError(f"{where}: there are no rows, so there is nothing to evaluate; give scored rows")
    if not labels:
        raise InputError(f"{where}: there is no head (a label and a score for it); give at least one")
    if score is None and (lacking := [head for head in labels if head not in probabilities]):
        raise InputError(f"{where}: head '{lacking[0]}' has labels and no score; give score_{lacking[0]}, or a score for all heads")
    for head, values in labels.items():
        _refuse(~np.isin(values, (0, 1, MASKED)), values, f"{where}: label_{head}", f"give 0, 1, or {MASKED} for not known")
    for head, values in probabilities.items():
        _refuse(
            ~np.isfinite(values), values, f"{where}: score_{head}", "a score must be a finite number; score these rows, or leave them out"
        )
        _refuse(
            (values < 0) | (values > 1), values, f"{where}: score_{head}", "give probabilities within 0 and 1 (a logit goes in `score`)"
        )
    if score is not None:
        _refuse(~np.isfinite(score), score, f"{where}: score", "a score must be a finite number; score these rows, or leave them out")
    ids, request = _sorted_codes(request_id)
    order = np.lexsort((pin_id, request, user_id))
    user_id, request, pin_id = user_id[order], request[order], pin_id[order]
    new_user = np.concatenate([[True], user_id[1:] != user_id[:-1]])
    new_request = new_user | np.concatenate([[True], request[1:] != request[:-1]])
    again = ~new_request[1:] & (pin_id[1:] == pin_id[:-1])
    if again.any():
        at = int(np.argmax(again))
        raise InputError(
            f"{where}: pin {pin_id[at]} is in request '{ids[request[at]].as_py()}' of user {user_id[at]} more than once "
            f"({int(again.sum()):,} rows too many); give each pin of a request once"
        )
    users = _bounds(np.diff(np.append(np.flatnonzero(new_user), len(order))))
    seen = request_time if first_seen is None else first_seen
    return ScoredRows(
        user_id=user_id[new_user],
        users=users,
        request_id=ids.take(pa.array(request[new_request])),
        requests=_bounds(np.diff(np.append(np.flatnonzero(new_request), len(order)))),
        pin_id=pin_id,
        request_time=request_time[order],
        topic=np.full(len(order), -1, np.int32) if topic is None else topic[0][order].astype(np.int32),
        topics=() if topic is None else topic[1],
        first_seen=np.minimum.reduceat(seen[order], users[:-1]),
        labels={head: values[order].astype(np.int8) for head, values in labels.items()},
        probabilities={head: values[order].astype(np.float64) for head, values in probabilities.items() if head in labels},
        score=None if score is None else score[order].astype(np.float64),
    )


def _bounds(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _sorted_codes(values: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Distinct values, ascending, and which of them each value is."""
    coded = values.dictionary_encode()
    order = pc.sort_indices(coded.dictionary)
    place = np.empty(len(order), np.int64)
    place[order.to_numpy()] = np.arange(len(order))
    return coded.dictionary.take(order), place[coded.indices.to_numpy()]


def _refuse(wrong: np.ndarray, values: np.ndarray, where: str, what_to_do: str) -> None:
    if wrong.any():
        at = int(np.argmax(wrong))
        raise InputError(f"{where}: {values[at]} in row {at} ({int(wrong.sum()):,} such rows); {what_to_do}")
