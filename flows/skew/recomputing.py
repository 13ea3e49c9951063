"""Served rows recomputed through the offline path, at the positions and times that they were logged with, and compared by their bits.

A row that says itself why it can't be compared is counted apart and never recomputed. Nothing is read here but the log: not state, and not
Redis.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.corrections.history import History
from flows.features import PIN_COUNTERS, SEQUENCE_FIELDS, TOPIC_STATS
from flows.log import Log
from flows.partition import partition_of
from flows.point_in_time import Asked, PinsAt, PointInTime
from flows.point_in_time.asked import UsersAt
from flows.point_in_time.collecting import Collector
from flows.point_in_time.pins import joined_pins
from flows.point_in_time.topics import joined_topics
from flows.point_in_time.users import Users, joined
from flows.positions import Positions
from flows.served import Status
from flows.served_rows import ServedRows
from flows.settings import Settings
from flows.skew.causes import CONTRADICTS_ITSELF, DEFAULTED, OTHER_FINGERPRINT, POSITION_UNKNOWN, Cause
from flows.skew.explaining import EXAMPLES, Difference
from flows.skew.names import PIN, SEQUENCE, TOPIC, USER, Feature
from flows.skew.tallies import Tallies

# In the order in which they are looked for.
_APART = (CONTRADICTS_ITSELF, DEFAULTED, OTHER_FINGERPRINT, POSITION_UNKNOWN)


@dataclass(frozen=True)
class Apart:
    """A row that could not be compared: its cause's name, and where it is."""

    cause: str
    kind: str
    entity: int | str
    request_id: str
    timestamp: int


@dataclass(frozen=True, eq=False)
class _Kind:
    """The rows of one kind of entity in a stretch: record, ID, status of each, whether it has values; whether it needs its partition alone."""

    of_user: bool
    record: np.ndarray
    ids: np.ndarray | list[str]
    status: np.ndarray
    filled: np.ndarray


class Recomputing:
    """Compares stretches of SERVED with the log.

    Parameters
    ----------
    settings : Settings
    actions : Log
        ACTIONS: how far it goes decides which positions can be recomputed.
    fingerprint : str
        Of the definitions and settings under which rows are recomputed.
    features : tuple of Feature
        Which are compared.
    progress : callable
        Called with the number of log records just read.
    """

    def __init__(
        self,
        settings: Settings,
        actions: Log,
        fingerprint: str,
        features: tuple[Feature, ...],
        progress: Callable[[int], None] = lambda n: None,
    ) -> None:
        self._settings = settings
        self._fingerprint = fingerprint
        self._kinds = {feature.kind for feature in features}
        self._ends = np.array(actions.end_positions(), np.int64)
        self._gone = np.array(actions.start_positions(), np.int64) > 0
        self._corrected = np.array([history.generation for history in History.every(settings)], np.int64)
        self._past = PointInTime(settings, _steps(progress))
        self.tallies = Tallies(features)
        self.rows: Counter[str] = Counter()
        """Compared, by kind."""
        self.apart: Counter[tuple[str, str]] = Counter()
        """Not compared, by cause and kind."""
        self.examples: dict[str, list[Apart]] = {}

    def close(self) -> None:
        """Release all files."""
        self._past.close()

    def __enter__(self) -> Recomputing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def compare(self, served: ServedRows) -> list[Difference]:
        """Compare a stretch; what differs."""
        prefixes, readable = self._prefixes(served)
        has_user = served.has_user
        filled = (np.diff(served.sequence_offsets) > 0) | served.user_counters.any(axis=1)
        users = _Kind(True, np.flatnonzero(has_user), served.user_id[has_user], served.user_status[has_user], filled[has_user])
        pins = _Kind(False, _repeated(served.pin_offsets), served.pin_id, served.pin_status, np.asarray(served.pin_counters.any(axis=1)))
        topics = _Kind(
            False, _repeated(served.topic_offsets), served.topic, served.topic_status, np.asarray(served.topic_stats.any(axis=1))
        )
        taken, asked = {}, {}
        for kind, rows in ((SEQUENCE, users), (USER, users), (PIN, pins), (TOPIC, topics)):
            if kind in self._kinds and len(rows.record):
                taken[kind], asked[kind] = self._asked(served, kind, rows, prefixes, readable)
        now, known = self._recompute(asked)
        if PIN in now and not known.all():
            self._set_apart(served, PIN, pins, taken[PIN][~known], POSITION_UNKNOWN)
            taken[PIN], now[PIN] = taken[PIN][known], PinsAt(now[PIN].values[known], now[PIN].found[known])
        for kind, rows_taken in taken.items():
            self.rows[kind] += len(rows_taken)
        found: list[Difference] = []
        if SEQUENCE in now:
            found += self._sequences(served, users, taken[SEQUENCE], now[SEQUENCE])
        if USER in now:
            at, counters = now[USER], served.user_counters[served.has_user]
            found += self._numbers(served, USER, users, taken[USER], counters, at.counters, at.found_sequence | at.found_counters)
        if PIN in now:
            found += self._numbers(served, PIN, pins, taken[PIN], served.pin_counters, now[PIN].values, now[PIN].found)
        if TOPIC in now:
            found += self._numbers(served, TOPIC, topics, taken[TOPIC], served.topic_stats, now[TOPIC].values, now[TOPIC].found)
        return found

    def _recompute(self, asked: dict[str, Asked]) -> tuple[dict[str, Any], np.ndarray]:
        """What the log says, of every kind that is asked for, in one pass over it; and of which pins it has all that was applied: bool[n]."""
        out: dict[str, Any] = {}
        wanted = {kind: one for kind, one in asked.items() if len(one)}
        parts: dict[str, list[Any]] = {kind: [] for kind in (USER, PIN, TOPIC)}
        collectors: list[Collector] = []
        known = np.ones(len(asked[PIN]) if PIN in asked else 0, np.bool_)

        def beyond(prefixes: np.ndarray, home: int) -> None:
            # How many changes the log leads to shows in the pass alone.
            of_home = partition_of(np.asarray(asked[PIN].entity, np.int64), self._settings.partitions) == home
            known[of_home & np.isin(asked[PIN].marks(), prefixes)] = False

        # A user's sequence and counters are asked for with the same prefixes and times.
        of_users = wanted.get(SEQUENCE, wanted.get(USER))
        if of_users is not None:
            # Whether there is anything to say of a user is told by both.
            collectors.append(Users(of_users, self._settings.partitions, True, USER in wanted, parts[USER].append))
        if PIN in wanted:
            collectors += self._past.collect_pins(wanted[PIN], parts[PIN].append, beyond)
        if TOPIC in wanted:
            collectors += self._past.collect_topics(wanted[TOPIC], parts[TOPIC].append)
        self._past.run(collectors, *wanted.values())
        if of_users is not None:
            users = joined(parts[USER], len(of_users), USER in wanted)
            out |= {kind: users for kind in (SEQUENCE, USER) if kind in wanted}
        if PIN in wanted:
            out[PIN] = joined_pins(parts[PIN], len(wanted[PIN]), len(PIN_COUNTERS))
        if TOPIC in wanted:
            out[TOPIC] = joined_topics(parts[TOPIC], len(wanted[TOPIC]), len(TOPIC_STATS))
        return out, known

    # Which rows ----------------------------------------------------------------------------------------------------------------------

    def _prefixes(self, served: ServedRows) -> tuple[list[Positions | None], np.ndarray]:
        """The prefixes of a stretch, and which of them the log still has, by partition that a row needs: bool[prefixes + 1, partitions + 1].

        The last row is of records without one; the last column is of rows that need all partitions.
        """
        partitions = self._settings.partitions
        parsed: list[Positions | None] = []
        readable = np.zeros((len(served.prefixes) + 1, partitions + 1), np.bool_)
        for i, data in enumerate(served.prefixes):
            prefix = Positions.from_bytes(data)
            if prefix is not None and len(prefix.actions) != partitions:
                prefix = None
            parsed.append(prefix)
            if prefix is not None:
                there = (prefix.actions <= self._ends).all() and (prefix.corrected_to <= self._corrected).all()
                readable[i, :partitions] = there & ~self._gone
                readable[i, partitions] = there and not self._gone.any()
        return parsed, readable

    def _causes(self, served: ServedRows, rows: _Kind, readable: np.ndarray) -> np.ndarray:
        """Why a row can't be compared, as number in `_APART` from 1 on; 0 where it can."""
        needs = np.full(len(rows.record), self._settings.partitions)
        if rows.of_user:
            needs = partition_of(np.asarray(rows.ids, np.int64), self._settings.partitions)
        prefix, fingerprint = served.prefix[rows.record], served.fingerprint[rows.record]
        other = np.array([one != self._fingerprint for one in served.fingerprints] + [True])[fingerprint]
        defaulted = rows.status == Status.DEFAULTED
        # What is found may be zeros; what isn't, or wasn't read, can't be anything else, nor does the latter reflect a prefix.
        belied = ~np.isin(rows.status, list(Status)) | (rows.status != Status.FOUND) & rows.filled | defaulted & (prefix >= 0)
        return np.select([belied | (fingerprint < 0), defaulted, other, ~readable[prefix, needs]], [1, 2, 3, 4], 0)

    def _asked(
        self, served: ServedRows, kind: str, rows: _Kind, prefixes: list[Positions | None], readable: np.ndarray
    ) -> tuple[np.ndarray, Asked]:
        """Which rows are recomputed, int64[n], and what is asked for them; the others are counted apart."""
        causes = self._causes(served, rows, readable)
        taken = np.flatnonzero(causes == 0)
        for number, cause in enumerate(_APART, 1):
            self._set_apart(served, kind, rows, np.flatnonzero(causes == number), cause)
        record = rows.record[taken]
        ids = [rows.ids[i] for i in taken.tolist()] if isinstance(rows.ids, list) else rows.ids[taken]
        # Those alone that are asked for: one that the log no longer has would end the whole read.
        used, which = np.unique(served.prefix[record], return_inverse=True)
        whole = [prefix for place in used.tolist() if (prefix := prefixes[place]) is not None]
        return taken, Asked(ids, served.as_of[record], positions=whole, position=which.astype(np.int32))

    def _set_apart(self, served: ServedRows, kind: str, rows: _Kind, at: np.ndarray, cause: Cause) -> None:
        if not len(at):
            return
        self.apart[cause.name, kind] += len(at)
        shown = self.examples.setdefault(cause.name, [])
        for i in at[: max(0, EXAMPLES - sum(row.kind == kind for row in shown))].tolist():
            of = int(rows.record[i])
            shown.append(Apart(cause.name, kind, _entity(rows, i), served.request_id[of], int(served.timestamp[of])))

    # Comparing -----------------------------------------------------------------------------------------------------------------------

    def _sequences(self, served: ServedRows, rows: _Kind, taken: np.ndarray, now: UsersAt) -> list[Difference]:
        record = rows.record[taken]
        lengths = np.diff(served.sequence_offsets)[record]
        served_at = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        take = np.repeat(served.sequence_offsets[record] - served_at[:-1], lengths) + np.arange(served_at[-1])
        mine = np.column_stack([served.sequence[field][take].astype(np.int64) for field in SEQUENCE_FIELDS])
        right = np.column_stack([getattr(now, field).astype(np.int64) for field in SEQUENCE_FIELDS])
        wrong = self.tallies.add_sequences(mine, served_at, right, now.offsets)

        def entries(side: np.ndarray, at: np.ndarray, i: int) -> np.ndarray:
            return side[at[i] : at[i + 1]]

        return [
            self._difference(
                served,
                SEQUENCE,
                rows,
                int(taken[i]),
                entries(mine, served_at, i),
                entries(right, now.offsets, i),
                wrong[i],
                (bool(lengths[i]), bool(now.found_sequence[i])),
            )
            for i in np.flatnonzero(wrong.any(axis=1)).tolist()
        ]

    def _numbers(
        self, served: ServedRows, kind: str, rows: _Kind, taken: np.ndarray, values: np.ndarray, right: np.ndarray, known: np.ndarray
    ) -> list[Difference]:
        mine = values[taken]
        # What was served without having been found is nothing only where it is zeros.
        there = (rows.status[taken] == Status.FOUND) | mine.any(axis=1)
        wrong = self.tallies.add_numbers(kind, mine, there, right, known)
        return [
            self._difference(served, kind, rows, int(taken[i]), mine[i], right[i], wrong[i], (bool(there[i]), bool(known[i])))
            for i in np.flatnonzero(wrong.any(axis=1)).tolist()
        ]

    def _difference(
        self,
        served: ServedRows,
        kind: str,
        rows: _Kind,
        row: int,
        mine: np.ndarray,
        right: np.ndarray,
        wrong: np.ndarray,
        found: tuple[bool, bool],
    ) -> Difference:
        record = int(rows.record[row])
        return Difference(
            kind=kind,
            entity=_entity(rows, row),
            request_id=served.request_id[record],
            timestamp=int(served.timestamp[record]),
            as_of=int(served.as_of[record]),
            positions=served.prefixes[served.prefix[record]],
            served=mine.copy(),
            recomputed=right.copy(),
            found=found,
            wrong=tuple(np.flatnonzero(wrong).tolist()),
        )


def _steps(progress: Callable[[int], None]) -> Callable[[int, int], None]:
    """What is told how far a read is, as steps."""
    before = 0

    def told(done: int, total: int) -> None:
        nonlocal before
        # A read that begins anew says less than the one before.
        progress(done - before if done >= before else done)
        before = 0 if done >= total else done

    return told


def _repeated(offsets: np.ndarray) -> np.ndarray:
    """The record of each entry of a list column."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def _entity(rows: _Kind, row: int) -> int | str:
    one = rows.ids[row]
    return one if isinstance(one, str) else int(one)
