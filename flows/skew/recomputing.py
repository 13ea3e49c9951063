"""Served rows recomputed through the offline path, at the positions and times that they were logged with, and compared by their bits.

A row that says itself why it can't be compared is counted apart and never recomputed. Nothing is read here but the log: not state, and not Redis.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flows.features import SEQUENCE_FIELDS
from flows.log import Log
from flows.partition import partition_of
from flows.point_in_time import Asked, PointInTime
from flows.positions import Positions
from flows.served import Status
from flows.served_rows import ServedRows
from flows.settings import Settings
from flows.skew.causes import DEFAULTED, OTHER_FINGERPRINT, POSITION_UNKNOWN
from flows.skew.explaining import EXAMPLES, Difference
from flows.skew.names import PIN, SEQUENCE, TOPIC, USER, Feature
from flows.skew.tallies import Tallies


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
    """The rows of one kind of entity in a stretch: record, ID, status of each; whether it needs its own partition alone."""

    of_user: bool
    record: np.ndarray
    ids: np.ndarray | list[str]
    status: np.ndarray


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
        self, settings: Settings, actions: Log, fingerprint: str, features: tuple[Feature, ...], progress: Callable[[int], None] = lambda n: None
    ) -> None:
        self._settings = settings
        self._fingerprint = fingerprint
        self._kinds = {feature.kind for feature in features}
        self._ends = np.array(actions.end_positions(), np.int64)
        self._gone = np.array(actions.start_positions(), np.int64) > 0
        self._past = PointInTime(settings, progress)
        self.tallies = Tallies(features)
        self.rows: Counter[str] = Counter()
        """Compared, by kind."""
        self.apart: Counter[tuple[str, str]] = Counter()
        """Not compared, by cause and kind."""
        self.examples: dict[str, list[Apart]] = {}

    def compare(self, served: ServedRows) -> list[Difference]:
        """Compare a stretch; what differs."""
        prefixes, readable = self._prefixes(served)
        found: list[Difference] = []
        users = _Kind(True, np.flatnonzero(served.has_user), served.user_id[served.has_user], served.user_status[served.has_user])
        if self._kinds & {SEQUENCE, USER}:
            for kind in (SEQUENCE, USER):
                if kind in self._kinds:
                    self._leave_out(served, kind, users, readable)
            taken, asked = self._asked(served, users, prefixes, readable)
            if taken.any():
                found += self._users(served, users, np.flatnonzero(taken), asked)
        pins = _Kind(False, _repeated(served.pin_offsets), served.pin_id, served.pin_status)
        if PIN in self._kinds and len(served.pin_id):
            self._leave_out(served, PIN, pins, readable)
            taken, asked = self._asked(served, pins, prefixes, readable)
            if taken.any():
                found += self._numbers(served, PIN, pins, np.flatnonzero(taken), served.pin_counters, *self._pins(asked))
        topics = _Kind(False, _repeated(served.topic_offsets), served.topic, served.topic_status)
        if TOPIC in self._kinds and served.topic:
            self._leave_out(served, TOPIC, topics, readable)
            taken, asked = self._asked(served, topics, prefixes, readable)
            if taken.any():
                at = self._past.topics(asked)
                found += self._numbers(served, TOPIC, topics, np.flatnonzero(taken), served.topic_stats, at.values, at.found)
        return found

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
                there = (prefix.actions <= self._ends) & ~(self._gone & (prefix.actions > 0))
                readable[i, :partitions] = there
                readable[i, partitions] = there.all()
        return parsed, readable

    def _causes(self, served: ServedRows, rows: _Kind, readable: np.ndarray) -> np.ndarray:
        """Why a row can't be compared: 0 it can, 1 defaulted, 2 other fingerprint, 3 position unknown."""
        needs = np.full(len(rows.record), self._settings.partitions)
        if rows.of_user:
            needs = partition_of(np.asarray(rows.ids, np.int64), self._settings.partitions)
        known = readable[served.prefix[rows.record], needs]
        other = np.array([one != self._fingerprint for one in served.fingerprints] + [True])[served.fingerprint[rows.record]]
        return np.select([rows.status == Status.DEFAULTED, other, ~known], [1, 2, 3], 0)

    def _leave_out(self, served: ServedRows, kind: str, rows: _Kind, readable: np.ndarray) -> None:
        causes = self._causes(served, rows, readable)
        self.rows[kind] += int((causes == 0).sum())
        for number, cause in enumerate((DEFAULTED, OTHER_FINGERPRINT, POSITION_UNKNOWN), 1):
            at = np.flatnonzero(causes == number)
            if len(at):
                self.apart[cause.name, kind] += len(at)
                shown = self.examples.setdefault(cause.name, [])
                for i in at[: max(0, EXAMPLES - len(shown))].tolist():
                    record = int(rows.record[i])
                    shown.append(Apart(cause.name, kind, _entity(rows, i), served.request_id[record], int(served.timestamp[record])))

    def _asked(self, served: ServedRows, rows: _Kind, prefixes: list[Positions | None], readable: np.ndarray) -> tuple[np.ndarray, Asked]:
        """Which rows are recomputed, and what is asked for them."""
        taken = self._causes(served, rows, readable) == 0
        record = rows.record[taken]
        ids = [rows.ids[i] for i in np.flatnonzero(taken).tolist()] if isinstance(rows.ids, list) else rows.ids[taken]
        whole = [prefix for prefix in prefixes if prefix is not None]
        place = np.cumsum([prefix is not None for prefix in prefixes], dtype=np.int32) - 1
        at = place[served.prefix[record]].astype(np.int32) if len(place) else np.empty(0, np.int32)
        return taken, Asked(ids, served.as_of[record], positions=whole, position=at)

    # Comparing -----------------------------------------------------------------------------------------------------------------------

    def _pins(self, asked: Asked) -> tuple[np.ndarray, np.ndarray]:
        at = self._past.pins(asked)
        return at.values, at.found

    def _users(self, served: ServedRows, rows: _Kind, taken: np.ndarray, asked: Asked) -> list[Difference]:
        now = self._past.users(asked)
        record = rows.record[taken]
        out: list[Difference] = []
        if SEQUENCE in self._kinds:
            lengths = np.diff(served.sequence_offsets)[record]
            served_at = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            take = np.repeat(served.sequence_offsets[record] - served_at[:-1], lengths) + np.arange(served_at[-1])
            entries = np.column_stack([served.sequence[field][take].astype(np.int64) for field in SEQUENCE_FIELDS])
            right = np.column_stack([getattr(now, field).astype(np.int64) for field in SEQUENCE_FIELDS])
            wrong = self.tallies.add_sequences(entries, served_at, right, now.offsets)
            for i in np.flatnonzero(wrong.any(axis=1)).tolist():
                out.append(
                    self._difference(
                        served, SEQUENCE, rows, int(taken[i]), entries[served_at[i] : served_at[i + 1]],
                        right[now.offsets[i] : now.offsets[i + 1]], wrong[i],
                    )  # fmt: skip
                )
        if USER in self._kinds:
            known = now.found_sequence | now.found_counters
            out += self._numbers(served, USER, rows, taken, served.user_counters[served.has_user], now.counters, known)
        return out

    def _numbers(
        self, served: ServedRows, kind: str, rows: _Kind, taken: np.ndarray, values: np.ndarray, right: np.ndarray, known: np.ndarray
    ) -> list[Difference]:
        mine = values[taken]
        # What was served without having been found is nothing only where it is zeros.
        there = (rows.status[taken] == Status.FOUND) | mine.any(axis=1)
        wrong = self.tallies.add_numbers(kind, mine, there, right, known)
        return [
            self._difference(served, kind, rows, int(taken[i]), mine[i], right[i], wrong[i])
            for i in np.flatnonzero(wrong.any(axis=1)).tolist()
        ]

    def _difference(
        self, served: ServedRows, kind: str, rows: _Kind, row: int, mine: np.ndarray, right: np.ndarray, wrong: np.ndarray
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
            wrong=tuple(np.flatnonzero(wrong).tolist()),
        )


def _repeated(offsets: np.ndarray) -> np.ndarray:
    """The record of each entry of a list column."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def _entity(rows: _Kind, row: int) -> int | str:
    one = rows.ids[row]
    return one if isinstance(one, str) else int(one)
