"""A user, a pin or a topic as features have it now: read by a reader of the console's own, kept by nobody.

What is looked up here was not served to anyone, so it is no row of SERVED; and no request for features waits behind it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from flows.events import id_of
from flows.features import PIN_COUNTERS, SCOPES, TOPIC_STATS, TYPES, USER_COUNTERS, WINDOW_DAYS
from flows.open_reader import open_reader
from flows.outputs import ACTIONS, REVISITS
from flows.partition import partition_of
from flows.served import Status
from flows.settings import Settings
from online_model.serving.answer import Answer, Ask
from online_model.serving.errors import BadRequestError, UnavailableError
from online_model.serving.lane import Lane

_NO_IDS = np.empty(0, np.int64)
_WAITING = 16
_PATIENCE_S = 5.0
# Of task state, what this reader may keep in memory.
_CACHE_MB = 8
_MOST_TEXT = 2_000

_KINDS = {"impression": "seen again", "click": "clicked again"}
_SCOPES = {"all": "saved anywhere", "rp": "saved on related pins"}
_MEASURES = {"count": "times", "pins": "different pins", "users": "different users"}
_TOPIC = {
    "saves_{days}d_count": "saves",
    "saves_{days}d_clicked": "saves that were clicked again",
    "saves_{days}d_clicked_days_3_6": "of them on days 3 to 6",
    "click_rate_{days}d": "share clicked again",
    "days_3_6_share_{days}d": "share of them on days 3 to 6",
}


@dataclass(frozen=True)
class Entry:
    """An action of a user's sequence; IDs are texts, for JavaScript's numbers end at 2^53."""

    pin_id: str
    action: str
    surface: str
    event_time: int
    duration_ms: int


@dataclass(frozen=True)
class Row:
    """A feature over its windows.

    Attributes
    ----------
    name : str
        In words.
    values : list of float or int
        One for each window, in the order of `Looked.windows`.
    features : list of str
        Their names, as they are served.
    """

    name: str
    values: list[float]
    features: list[str]


@dataclass(frozen=True)
class Looked:
    """What is known of an entity.

    Attributes
    ----------
    kind : str
        user, pin or topic.
    asked : str
        As it was asked for.
    id : str or None
        The number that it is inside; None of a topic.
    found : bool
    as_of : int or None
        The time that values are of, ms: the newest accepted event.
    partition, position : int or None
        Of the task that holds it, and what that has applied; None of a topic, which all tasks hold parts of.
    windows : list of str
    rows : list of Row
    sequence : list of Entry
        Of a user, the newest first.
    """

    kind: str
    asked: str
    id: str | None
    found: bool
    as_of: int | None
    partition: int | None
    position: int | None
    windows: list[str]
    rows: list[Row]
    sequence: list[Entry]


class Lookup:
    """See the module.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = dataclasses.replace(settings, read_cache_mb=min(settings.read_cache_mb, _CACHE_MB))
        vocabulary = settings.load_vocabulary()
        self._actions, self._surfaces = vocabulary.action_names(), vocabulary.surface_names()
        self._lane = Lane("console", partial(open_reader, self._settings), _WAITING)

    async def user(self, text: str) -> Looked:
        """A user, by ID as a path has it.

        Raises
        ------
        BadRequestError
            It can't be an ID.
        UnavailableError, OtherFingerprintError
            The store does not answer.
        """
        answer = await self._read(Ask(_one(text), _NO_IDS, (), None))
        rows = counter_rows(dict(zip(USER_COUNTERS, answer.user_counters[0].tolist(), strict=True)), "pins")
        return self._looked("user", text, answer, answer.user_status, int(answer.ask.users[0]), ACTIONS, rows, self._entries(answer))

    async def pin(self, text: str) -> Looked:
        """A pin; as `user`."""
        answer = await self._read(Ask(_NO_IDS, _one(text), (), None))
        rows = counter_rows(dict(zip(PIN_COUNTERS, answer.pin_counters[0].tolist(), strict=True)), "users")
        return self._looked("pin", text, answer, answer.pin_status, int(answer.ask.pins[0]), REVISITS, rows, [])

    async def topic(self, text: str) -> Looked:
        """A topic, by its name; as `user`."""
        if not text or len(text) > _MOST_TEXT:
            raise BadRequestError("that is no topic's name", f"name one, as it was ingested, of {_MOST_TEXT} characters at most")
        answer = await self._read(Ask(_NO_IDS, _NO_IDS, (text,), None))
        values = dict(zip((name for name, _ in TOPIC_STATS), answer.topic_stats[0].tolist(), strict=True))
        return self._looked("topic", text, answer, answer.topic_status, None, ACTIONS, rows_of(_TOPIC, values), [])

    def close(self) -> None:
        """Release the reader."""
        self._lane.close()

    async def _read(self, ask: Ask) -> Answer:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await asyncio.wrap_future(self._lane.read(ask))
        except TimeoutError:
            raise UnavailableError(f"the store has not answered within {_PATIENCE_S:g} s", "look again later") from None

    def _looked(
        self, kind: str, text: str, answer: Answer, status: np.ndarray, number: int | None, flow: str, rows: list[Row], entries: list[Entry]
    ) -> Looked:
        partition = int(partition_of(np.array([number], np.int64), self._settings.partitions)[0]) if number is not None else None
        positions = answer.prefix.positions
        return Looked(
            kind=kind,
            asked=text,
            id=str(number) if number is not None else None,
            found=bool(status[0] == Status.FOUND),
            as_of=answer.prefix.newest,
            partition=partition,
            position=positions[flow][partition] if partition is not None and positions is not None else None,
            windows=[f"{days} d" for days in WINDOW_DAYS],
            rows=rows,
            sequence=entries,
        )

    def _entries(self, answer: Answer) -> list[Entry]:
        found = answer.sequences
        columns = (found.pin_id, found.action, found.surface, found.event_time, found.duration_ms)
        return [
            Entry(str(pin), self._actions.get(action, f"code {action}"), self._surfaces.get(surface, f"code {surface}"), time, duration)
            for pin, action, surface, time, duration in zip(*(column.tolist() for column in columns), strict=True)
        ]


def counter_rows(values: Mapping[str, float], unique: str) -> list[Row]:
    """Revisit counters by name as rows over their windows; `unique`: what is counted once, "pins" or "users"."""
    words = {
        f"revisits_{kind}_{scope}_{{days}}d_{measure}": f"{_SCOPES[scope]}, {_KINDS[kind]}: {_MEASURES[measure]}"
        for scope in SCOPES
        for kind in TYPES
        for measure in ("count", unique)
    }
    return rows_of(words, values)


def rows_of(words: Mapping[str, str], values: Mapping[str, float]) -> list[Row]:
    """Features by name as rows over their windows; `words` says for each form of a name what it is."""
    features = {form: [form.format(days=days) for days in WINDOW_DAYS] for form in words}
    return [Row(words[form], [values[name] for name in names], names) for form, names in features.items()]


def _one(text: str) -> np.ndarray:
    if not text or len(text) > _MOST_TEXT:
        raise BadRequestError(
            "that is no ID", f"give one: a whole number, or the text that was ingested, of {_MOST_TEXT} characters at most"
        )
    return np.array([id_of(text)], np.int64)
