"""What is asked for at once, and what a reader says to it: arrays, of many requests together, cut apart again without a copy of a user's sequence.

All that is read together reflects one catch-up. Nothing here knows HTTP, threads or the log of what was served.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from flows.answers import CounterRows, EntityReader, SequenceRows, TopicRows
from flows.errors import MovedOnError
from flows.features import PIN_COUNTERS, TOPIC_STATS, USER_COUNTERS
from flows.positions import Positions
from flows.served import Status

# Reads that find a task written meanwhile are done again: the second time Redis gives all that they ask for at once.
_ATTEMPTS = 5


@dataclass(frozen=True, eq=False)
class Ask:
    """Entities, each kind in the order asked, and the time as of which they are asked for.

    Attributes
    ----------
    users, pins : int64[u], int64[p]
    topics : tuple of str
    as_of : int or None
        ms; None: the greatest accepted event_time.
    """

    users: np.ndarray
    pins: np.ndarray
    topics: tuple[str, ...]
    as_of: int | None

    @property
    def entities(self) -> int:
        """How many."""
        return len(self.users) + len(self.pins) + len(self.topics)


@dataclass(frozen=True, eq=False)
class Prefix:
    """What a catch-up reflects.

    Attributes
    ----------
    positions : dict of str to list of int, or None
        Of every task, by flow; None: nothing was read.
    packed : bytes or None
        `flows.positions.Positions`.
    newest : int or None
        Greatest accepted event_time, ms; None before the first event.
    damaged : dict of str to str
        Tasks whose state is damaged (``actions/3``), and how: their entities alone can't be read.
    """

    positions: dict[str, list[int]] | None
    packed: bytes | None
    newest: int | None
    damaged: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, reader: EntityReader) -> Prefix:
        """Of what a reader has caught up with."""
        damaged = {f"{flow}/{partition}": why for (flow, partition), why in reader.unreadable.items()}
        return cls(reader.positions(), Positions.of(reader).to_bytes(), reader.default_as_of(), damaged)


NOTHING_READ = Prefix(None, None, None)


@dataclass(frozen=True, eq=False)
class Answer:
    """Values of the entities of an `Ask`, and a `flows.served.Status` for each of them.

    Attributes
    ----------
    as_of : int or None
        The time that they are of, ms; None: nothing was read, and no time was asked for.
    """

    ask: Ask
    prefix: Prefix
    as_of: int | None
    sequences: SequenceRows
    user_counters: np.ndarray
    user_status: np.ndarray
    pin_counters: np.ndarray
    pin_status: np.ndarray
    topic_stats: np.ndarray
    topic_status: np.ndarray


_NO_CODES, _NO_IDS = np.empty(0, np.int16), np.empty(0, np.int64)


def _no_sequences(users: int, as_of: int) -> SequenceRows:
    return SequenceRows(
        np.zeros(users + 1, np.int64), _NO_IDS, _NO_CODES, _NO_CODES, _NO_IDS, _NO_IDS, np.zeros(users, np.bool_), as_of
    )  # fmt: skip


def _no_counters(entities: int, width: int, as_of: int) -> CounterRows:
    return CounterRows(np.zeros((entities, width), np.int64), np.zeros(entities, np.bool_), as_of)


def defaults(ask: Ask) -> Answer:
    """What stands for values where the store has not answered: empty sequences, zeros, and a status that says so."""
    users, pins, topics = len(ask.users), len(ask.pins), len(ask.topics)
    return Answer(
        ask,
        NOTHING_READ,
        ask.as_of,
        _no_sequences(users, 0),
        np.zeros((users, len(USER_COUNTERS)), np.int64),
        np.full(users, Status.DEFAULTED, np.int8),
        np.zeros((pins, len(PIN_COUNTERS)), np.int64),
        np.full(pins, Status.DEFAULTED, np.int8),
        np.zeros((topics, len(TOPIC_STATS)), np.float64),
        np.full(topics, Status.DEFAULTED, np.int8),
    )


def catch_up(reader: EntityReader, asks: Sequence[Ask]) -> list[Answer]:
    """Catch up with the writers once, and answer all of one time; read again where Redis was written meanwhile.

    Parameters
    ----------
    asks : sequence of Ask
        All with the same `as_of`.
    """
    for _ in range(_ATTEMPTS - 1):
        reader.refresh()
        try:
            return _read(reader, asks)
        except MovedOnError:
            continue
    reader.refresh()
    return _read(reader, asks)


def _read(reader: EntityReader, asks: Sequence[Ask]) -> list[Answer]:
    prefix = Prefix.of(reader)
    as_of = asks[0].as_of if asks[0].as_of is not None else prefix.newest if prefix.newest is not None else 0
    users, pins = (_joined([getattr(ask, name) for ask in asks]) for name in ("users", "pins"))
    topics = [topic for ask in asks for topic in ask.topics]
    sequences = reader.user_sequences(users, as_of) if len(users) else _no_sequences(0, as_of)
    of_users = reader.user_counters(users, as_of) if len(users) else _no_counters(0, len(USER_COUNTERS), as_of)
    of_pins = reader.pin_counters(pins, as_of) if len(pins) else _no_counters(0, len(PIN_COUNTERS), as_of)
    if topics:
        of_topics = reader.topic_stats(topics, as_of)
    else:
        of_topics = TopicRows(np.zeros((0, len(TOPIC_STATS)), np.float64), np.zeros(0, np.bool_), as_of)
    user_status, pin_status, topic_status = (
        np.where(found, np.int8(Status.FOUND), np.int8(Status.NOT_FOUND))
        for found in (sequences.found | of_users.found, of_pins.found, of_topics.found)
    )
    answers = []
    spans = zip(asks, *(_spans(len(getattr(ask, name)) for ask in asks) for name in ("users", "pins", "topics")), strict=True)
    for ask, user, pin, topic in spans:
        of_user = _cut(sequences, user), of_users.values[user], user_status[user]
        answers.append(
            Answer(ask, prefix, as_of, *of_user, of_pins.values[pin], pin_status[pin], of_topics.values[topic], topic_status[topic])
        )
    return answers


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _spans(sizes: Iterable[int]) -> list[slice]:
    out, at = [], 0
    for size in sizes:
        out.append(slice(at, at + size))
        at += size
    return out


def _cut(rows: SequenceRows, users: slice) -> SequenceRows:
    """Some users' sequences; views of the arrays of all."""
    offsets = rows.offsets[users.start : users.stop + 1]
    span = slice(offsets[0], offsets[-1])
    return SequenceRows(
        offsets - offsets[0], rows.pin_id[span], rows.action[span], rows.surface[span], rows.event_time[span], rows.duration_ms[span],
        rows.found[users], rows.as_of,
    )  # fmt: skip
