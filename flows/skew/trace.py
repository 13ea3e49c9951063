"""All records that bear on a few entities, and what was decided of each: the material in which the causes of differences are looked for.

One pass over the log by the same judge as the flows; decisions are its, only what follows from them is done again elsewhere
(`flows.kernels.what_if`). Nothing here says what a feature is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flows.corrections.history import History
from flows.events import hash_id
from flows.kernels import what_if
from flows.kernels.layout import ACCEPTED, DUPLICATE, NEVER, ROLE_CLICK, ROLE_RELATED_PINS, ROLE_REVISIT, ROLE_SAVE
from flows.kernels.what_if import EVENT_COLUMNS
from flows.log import Log, read_before
from flows.partition import partition_of
from flows.positions import Positions
from flows.settings import Settings
from flows.state.actions_task import Judge, JudgedBatch
from flows.vocabulary import Vocabulary

# As `what_if` has them, with user and pin for entity and other; then what else is kept of a record.
_USER, _PIN, _TIME, _EVENT, _OFFSET, _ORIGIN, _FLAGS, _BEFORE = range(8)
_TOPIC, _ACTION, _SURFACE, _DURATION = 8, 9, 10, 11
_COLUMNS = 12
_NONE = np.empty(0, np.int64)
_ENGAGEMENT = 1 << 20
"""Flag of this module's: the record belongs into a sequence."""


@dataclass(frozen=True)
class Events:
    """Events of entities: sorted, with where each entity's lie.

    Attributes
    ----------
    entities : int64[e]
        Ascending.
    bounds : int64[e + 1]
    rows : int64[n, columns]
        `what_if.EVENT_COLUMNS`, for sequences with `what_if_sequences.ENTRY_COLUMNS`.
    """

    entities: np.ndarray
    bounds: np.ndarray
    rows: np.ndarray

    def bounds_of(self, ids: np.ndarray) -> np.ndarray:
        """First and last row of each entity asked for: int64[m, 2]."""
        if not len(self.entities):
            return np.zeros((len(ids), 2), np.int64)
        at = np.minimum(np.searchsorted(self.entities, ids), len(self.entities) - 1)
        known = self.entities[at] == ids
        return np.column_stack([np.where(known, self.bounds[at], 0), np.where(known, self.bounds[at + 1], 0)])


@dataclass(frozen=True)
class Trace:
    """Of users, pins and topics that were asked for.

    Attributes
    ----------
    sequences, users, pins, topics : Events
        A topic's entity is the hash of its name.
    changes : dict of (destination, origin) to int64[c]
        Offset of the record that caused each change that an origin has put out for a partition of REVISITS.
    """

    sequences: Events
    users: Events
    pins: Events
    topics: Events
    changes: dict[tuple[int, int], np.ndarray]

    def cut_of_pins(self, destination: int, prefix: Positions) -> np.ndarray:
        """Up to which offset of each origin a pin's row reflects the log: int64[origins].

        That is as far as the origin's first change that isn't applied: what lies before it and put out nothing is reflected too.
        """
        applied = prefix.applied[destination]
        cut = prefix.actions.copy()
        for origin, count in enumerate(applied.tolist()):
            caused = self.changes.get((destination, origin), _NONE)
            if count < len(caused):
                cut[origin] = min(cut[origin], caused[count])
            if 0 < count <= len(caused):
                # One record may cause several.
                cut[origin] = max(cut[origin], caused[count - 1] + 1)
        return cut


def trace(
    settings: Settings,
    vocabulary: Vocabulary,
    log: Log,
    ends: Sequence[int],
    corrected_to: Sequence[int],
    users: np.ndarray,
    pins: np.ndarray,
    topics: Sequence[str],
    progress: Callable[[int], None] = lambda records: None,
) -> Trace:
    """Gather what bears on entities.

    Parameters
    ----------
    log : Log
        ACTIONS.
    ends, corrected_to : sequence of int
        Of each partition: how far to read, and the newest correction that counts.
    users, pins : int64[n]
    topics : sequence of str
    progress : callable
        Called with the number of records just read.
    """
    users, pins = np.unique(users), np.unique(pins)
    asked = np.unique(np.array([hash_id(name) for name in topics], np.int64))
    homes = set(partition_of(users, settings.partitions).tolist())
    destinations = np.unique(partition_of(pins, settings.partitions))
    parts: list[np.ndarray] = []
    changes: dict[tuple[int, int], np.ndarray] = {}
    for origin, end in enumerate(ends):
        if not end or (origin not in homes and not len(pins) and not len(asked)):
            continue
        judge = Judge(settings, vocabulary, origin, History.of(settings, origin), corrected_to[origin])
        caused: dict[int, list[np.ndarray]] = {int(d): [] for d in destinations}
        at = 0
        while at < end:
            before = judge.working_set.watermark
            batches = read_before(log, end, origin, at, settings.batch_records)
            if not batches:
                break
            done = judge.judge(batches)
            parts.append(_records(done, before, origin, settings.allowed_lateness_ms, judge.impression, users, pins, len(asked) > 0))
            if caused:
                made = done.judged.changes
                homes_of = partition_of(np.ascontiguousarray(made[:, 0]), settings.partitions)
                for destination, found in caused.items():
                    found.append(done.offsets[made[homes_of == destination, 5]])
            progress(batches[-1].end_offset - at)
            at = batches[-1].end_offset
        changes |= {(destination, origin): np.concatenate(found) for destination, found in caused.items() if found}
    rows = np.concatenate([np.empty((0, _COLUMNS), np.int64), *parts])
    flags = rows[:, _FLAGS]
    about_pairs = (flags & (what_if.IS_SAVE | what_if.IS_REVISIT)) != 0
    of_users = np.isin(rows[:, _USER], users)
    return Trace(
        sequences=_sequences(rows[of_users & ((flags & _ENGAGEMENT) != 0)]),
        users=_paired(rows[of_users & about_pairs], _USER, _PIN),
        pins=_paired(rows[np.isin(rows[:, _PIN], pins) & about_pairs], _PIN, _USER),
        topics=_by_topic(rows[about_pairs], asked),
        changes=changes,
    )


def _records(
    done: JudgedBatch, before: int | None, origin: int, lateness: int, impression: int, users: np.ndarray, pins: np.ndarray, all_pairs: bool
) -> np.ndarray:
    """Of consecutive records those that bear on what is asked for."""
    c, judged = done.columns, done.judged
    accepted = judged.status == ACCEPTED
    moves = np.where(accepted, c.event_time, -NEVER)
    if len(done.clock):
        moves = np.where(done.clock != NEVER, done.clock, moves)
    marks = np.maximum.accumulate(np.concatenate([[before if before is not None else -NEVER], moves]))[:-1]
    paired = (c.role & (ROLE_SAVE | ROLE_REVISIT)) != 0
    wanted = np.isin(c.user_id, users) | (paired & (np.isin(c.pin_id, pins) | all_pairs))
    at = np.flatnonzero(wanted & (accepted | (judged.status == DUPLICATE)))
    flags = np.zeros(len(at), np.int64)
    role = c.role[at]
    # A revisit bears its click alone, a save its surface: as what they are asked for.
    revisit = (role & ROLE_REVISIT) != 0
    for flag, which in (
        (what_if.IS_SAVE, (role & ROLE_SAVE) != 0),
        (what_if.IS_REVISIT, revisit),
        (what_if.IS_CLICK, revisit & ((role & ROLE_CLICK) != 0)),
        (what_if.IS_RELATED, (role & ROLE_RELATED_PINS) != 0),
        (what_if.IS_LATE, c.event_time[at] < marks[at] - lateness),
        (what_if.IS_DUPLICATE, judged.status[at] == DUPLICATE),
        (_ENGAGEMENT, c.action[at] != impression),
    ):
        flags |= np.where(which, flag, 0)
    columns = (c.user_id, c.pin_id, c.event_time, c.event_id, done.offsets)
    rest = (c.topic, c.action, c.surface, c.duration_ms)
    return np.column_stack(
        [*(x[at] for x in columns), np.full(len(at), origin), flags, marks[at], *(x[at].astype(np.int64) for x in rest)]
    ).astype(np.int64)


def _sorted(rows: np.ndarray, keys: Sequence[int]) -> np.ndarray:
    return rows[np.lexsort([rows[:, key] for key in reversed(keys)])] if len(rows) else rows


def _events(rows: np.ndarray) -> Events:
    entities, first = np.unique(rows[:, 0], return_index=True)
    return Events(entities, np.append(first, len(rows)).astype(np.int64), np.ascontiguousarray(rows))


def _sequences(rows: np.ndarray) -> Events:
    rows = _sorted(rows, (_USER, _TIME, _EVENT, _OFFSET))
    return _events(np.column_stack([rows[:, : len(EVENT_COLUMNS)], rows[:, [_PIN, _ACTION, _SURFACE, _DURATION]]]))


def _paired(rows: np.ndarray, entity: int, other: int) -> Events:
    rows = _sorted(rows, (entity, other, _TIME, _EVENT, _OFFSET))
    return _events(np.column_stack([rows[:, entity], rows[:, other], rows[:, _TIME : len(EVENT_COLUMNS)]]))


def _by_topic(rows: np.ndarray, asked: np.ndarray) -> Events:
    """For each topic the events of every pair that has a save in it."""
    if not len(asked):
        return _events(np.empty((0, len(EVENT_COLUMNS)), np.int64))
    rows = _sorted(rows, (_USER, _PIN, _TIME, _EVENT, _OFFSET))
    new = np.concatenate([[True], (rows[1:, :2] != rows[:-1, :2]).any(axis=1)]) if len(rows) else np.zeros(0, np.bool_)
    pair = np.cumsum(new) - 1
    is_save = (rows[:, _FLAGS] & what_if.IS_SAVE) != 0
    parts = []
    for topic in asked.tolist():
        inside = is_save & (rows[:, _TOPIC] == topic)
        chosen = np.isin(pair, pair[inside])
        part = np.column_stack([np.full(int(chosen.sum()), topic), pair[chosen], rows[chosen, _TIME : len(EVENT_COLUMNS)]])
        part[:, _FLAGS] |= np.where(inside[chosen], what_if.IN_TOPIC, 0)
        parts.append(part)
    return _events(_sorted(np.concatenate(parts), (0, 1, _TIME, _EVENT, _OFFSET)))
