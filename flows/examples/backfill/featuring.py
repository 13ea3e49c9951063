"""Features of drafts as they were known at their requests' time, from the log alone: the point-in-time engine's answers in the form of EXAMPLES.

A user's features are packed as they come, a part at a time: a sequence of 100 actions is 2.6 kB so, and much more in columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from flows.examples.backfill.matching import numbered
from flows.examples.record import SEQUENCE_ENTRY
from flows.examples.rows import ExampleRows, UserFeatures
from flows.features import PIN_COUNTERS, SEQUENCE_FIELDS, USER_COUNTERS
from flows.point_in_time import Asked, PointInTime
from flows.point_in_time.pins import PinPart
from flows.point_in_time.users import UserPart, Users


class Featuring:
    """Makes records of EXAMPLES from drafts.

    Parameters
    ----------
    point : PointInTime
    topics : dict of int to str
    fingerprint : str
        Of the definitions and settings that features are made under.
    """

    def __init__(self, point: PointInTime, topics: dict[int, str], fingerprint: str) -> None:
        self._point, self._fingerprint = point, fingerprint
        self._topic_ids = np.array(sorted(topics), np.int64)
        self._topics = tuple(topics[topic] for topic in self._topic_ids.tolist())

    def rows_of(self, parts: Sequence[tuple[np.ndarray, pa.StringArray]]) -> list[ExampleRows]:
        """Records of some drafts (array of DRAFT), each part with the names of its requests; all are read from the log together."""
        drafts = np.concatenate([rows for rows, _ in parts])
        users, request, counters = self._read(drafts)
        out, at = [], 0
        for rows, names in parts:
            here = slice(at, at := at + len(rows))
            used, own = np.unique(request[here], return_inverse=True)
            out.append(self._records(rows, names, counters[here], own.astype(np.int32), users.take(used)))
        return out

    def _read(self, drafts: np.ndarray) -> tuple[UserFeatures, np.ndarray, np.ndarray]:
        """User features of each request's moment, which ones are a draft's, and each draft's pin counters."""
        request, of_users = _asked(drafts, "user_id")
        pin, of_pins = _asked(drafts, "pin_id")
        packed, values = _Packed(len(of_users)), np.zeros((len(of_pins), len(PIN_COUNTERS)), np.int64)

        def answer(part: PinPart) -> None:
            values[part.query] = part.found.values

        users = Users(of_users, self._point.settings.partitions, True, True, packed.add)
        self._point.run([users, *self._point.collect_pins(of_pins, answer)], of_users, of_pins)
        return packed.whole(), request, values[pin]

    def _records(
        self, drafts: np.ndarray, requests: pa.StringArray, pin_counters: np.ndarray, request: np.ndarray, users: UserFeatures
    ) -> ExampleRows:
        n = len(drafts)
        topic = np.searchsorted(self._topic_ids, drafts["topic"])
        names = requests.take(pa.array(drafts["request"], mask=drafts["request"] < 0)).fill_null("")
        column = {name: np.ascontiguousarray(drafts[name]) for name in drafts.dtype.names or ()}
        none = np.full(n, -1, np.int64)
        return ExampleRows(
            ready_time=column["ready"],
            kind=column["kind"],
            request_id=names,
            user_id=column["user_id"],
            pin_id=column["pin_id"],
            surface=column["surface"],
            topic=np.where(drafts["topic"] == 0, -1, topic).astype(np.int32),
            topics=self._topics,
            request_time=column["request_time"],
            impression_time=column["impression_time"],
            slot=column["slot"],
            propensity=column["propensity"],
            explored=column["explored"],
            score=np.full(n, np.nan, np.float32),
            base=none,
            delta=none,
            labels=column["labels"],
            fingerprint=np.zeros(n, np.int32),
            fingerprints=(self._fingerprint,),
            position=np.full(n, -1, np.int32),
            positions=(),
            as_of=column["as_of"],
            pin_counters=pin_counters,
            request=request,
            users=users,
        )


class _Packed:
    """Features of n queries of users, gathered by parts."""

    def __init__(self, n: int) -> None:
        self._lengths, self._counters = np.zeros(n, np.int64), np.zeros((n, len(USER_COUNTERS)), np.int64)
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, part: UserPart) -> None:
        """Take an answer."""
        entries = np.empty(len(part.found.pin_id), SEQUENCE_ENTRY)
        for name in SEQUENCE_FIELDS:
            entries[name] = getattr(part.found, name)
        self._lengths[part.query], self._counters[part.query] = np.diff(part.found.offsets), part.found.counters
        self._parts.append((part.query, entries))

    def whole(self) -> UserFeatures:
        """All answers, in the order asked; they are kept here no longer."""
        offsets = np.concatenate([[0], np.cumsum(self._lengths)]).astype(np.int64)
        sequence = np.empty(offsets[-1], SEQUENCE_ENTRY)
        while self._parts:
            query, entries = self._parts.pop()
            many = self._lengths[query]
            sequence[np.repeat(offsets[query] - np.cumsum(many) + many, many) + np.arange(len(entries))] = entries
        return UserFeatures(self._counters, offsets, sequence)


def _asked(drafts: np.ndarray, name: str) -> tuple[np.ndarray, Asked]:
    """Each entity and moment once: which one is a draft's, and the queries. As of a training row, what had arrived a millisecond later is taken."""
    number, count = numbered(drafts[name], drafts["as_of"])
    row = np.empty(count, np.int64)
    row[number] = np.arange(len(drafts))
    return number, Asked(drafts[name][row], drafts["as_of"][row], drafts["as_of"][row] + 1)
