"""What systems of a drill log of their answers, and in which rows two systems answered differently."""

from __future__ import annotations

import numpy as np

from flows.answers import SequenceRows
from flows.features import SEQUENCE_FIELDS
from flows.served import Status
from flows.served_rows import Served
from flows.skew.drill.systems import Answers, Wanted


def records_of(
    fingerprint: str, wanted: Wanted, given: Answers, positions: bytes, timestamp: int, first: int, defaulted: bool = False
) -> list[Served]:
    """A record for each request.

    Parameters
    ----------
    fingerprint : str
        Of the system that answers.
    positions : bytes
        The prefix that it means to reflect.
    timestamp : int
        Of the requests, ms.
    first : int
        Number of the first request.
    defaulted : bool
        Nothing was read in time, and the records say so.
    """

    def status(found: np.ndarray) -> np.ndarray:
        return np.where(defaulted, Status.DEFAULTED, np.where(found, Status.FOUND, Status.NOT_FOUND)).astype(np.int8)

    users, pins, topics = status(given.user_found), status(given.pin_found), status(given.topic_found)
    return [
        Served(
            timestamp=timestamp,
            request_id=f"drill-{first + i}",
            surface="homefeed",
            fingerprint=fingerprint,
            as_of=wanted.as_of,
            positions=None if defaulted else positions,
            user_id=wanted.users[i : i + 1],
            user_status=users[i : i + 1],
            sequences=_one(given.sequences, i),
            user_counters=given.user_counters[i : i + 1],
            pin_id=wanted.pins[i],
            pin_status=pins[i],
            pin_counters=given.pin_counters[i],
            topic=(wanted.topics[i],),
            topic_status=topics[i : i + 1],
            topic_stats=given.topic_stats[i : i + 1],
        )
        for i in range(len(wanted.users))
    ]


def differing(right: Answers, wrong: Answers, chosen: np.ndarray) -> int:
    """Entity rows that two systems answered differently, by their bits or in whether there is anything.

    Parameters
    ----------
    chosen : bool[n]
        Requests whose rows count.
    """
    same = np.array([_same(right.sequences, wrong.sequences, i) for i in range(len(chosen))], np.bool_)
    users = (right.user_counters != wrong.user_counters).any(axis=1) | (right.user_found != wrong.user_found)
    pins = (right.pin_counters != wrong.pin_counters).any(axis=2) | (right.pin_found != wrong.pin_found)
    topics = (right.topic_stats.view(np.int64) != wrong.topic_stats.view(np.int64)).any(axis=1) | (right.topic_found != wrong.topic_found)
    return int((~same & chosen).sum() + (users & chosen).sum() + pins[chosen].sum() + (topics & chosen).sum())


def _one(rows: SequenceRows, i: int) -> SequenceRows:
    low, high = rows.offsets[i], rows.offsets[i + 1]
    fields = {field: getattr(rows, field)[low:high] for field in SEQUENCE_FIELDS}
    return SequenceRows(offsets=np.array([0, high - low], np.int64), **fields, found=rows.found[i : i + 1], as_of=rows.as_of)


def _same(a: SequenceRows, b: SequenceRows, i: int) -> bool:
    one, other = _one(a, i), _one(b, i)
    return all(np.array_equal(getattr(one, field), getattr(other, field)) for field in SEQUENCE_FIELDS)
