"""Answers as JSON, and as what SERVED keeps. Names are those of `tidemark features … --json`.

A batch is columns: what is a value of one entity there is a list here, of all entities in the order asked. Arrays are written as they are; no
Python runs for a value of a batch, and a user's sequence is in it once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from flows.errors import SettingsError
from flows.features import PIN_COUNTERS, SEQUENCE_FIELDS, TOPIC_STATS, USER_COUNTERS
from flows.served import Status
from flows.served_rows import Ranked, Served
from flows.vocabulary import Vocabulary
from online_model.serving.answer import Answer

_STATUS = np.array([status.name for status in sorted(Status)], object)
_STATISTICS = tuple(name for name, _ in TOPIC_STATS)
_OF_STATISTICS = tuple(np.dtype(kind) for _, kind in TOPIC_STATS)


@dataclass(frozen=True)
class Request:
    """What a request says beside what it asks for.

    Attributes
    ----------
    timestamp : int
        When it came, ms.
    request_id : str
    surface : str or None
    """

    timestamp: int
    request_id: str
    surface: str | None


class Packer:
    """Knows the names of codes, and the fingerprint that goes with every row.

    Parameters
    ----------
    vocabulary : Vocabulary
    fingerprint : str
    """

    def __init__(self, vocabulary: Vocabulary, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._names = {"action": _names(vocabulary.action_names()), "surface": _names(vocabulary.surface_names())}

    def served(self, request: Request, answer: Answer, ranked: Ranked | None = None) -> Served:
        """The record of an answer; `ranked`: how its pins came to be shown."""
        return Served(
            timestamp=request.timestamp,
            request_id=request.request_id,
            surface=request.surface,
            fingerprint=self.fingerprint,
            as_of=answer.as_of,
            positions=answer.prefix.packed,
            user_id=answer.ask.users,
            user_status=answer.user_status,
            sequences=answer.sequences,
            user_counters=answer.user_counters,
            pin_id=answer.ask.pins,
            pin_status=answer.pin_status,
            pin_counters=answer.pin_counters,
            topic=answer.ask.topics,
            topic_status=answer.topic_status,
            topic_stats=answer.topic_stats,
            ranked=ranked,
        )

    def batch(self, request: Request, answer: Answer) -> bytes:
        """The body of an answer for many entities."""
        out = self.head(request, answer)
        ask = answer.ask
        if len(ask.users):
            sequence = {"offsets": answer.sequences.offsets, **self._sequence(answer)}
            counters = dict(zip(USER_COUNTERS, _columns(answer.user_counters), strict=True))
            out["users"] = {"user_id": ask.users, **said(answer.user_status), "sequence": sequence, "counters": counters}
        if len(ask.pins):
            counters = dict(zip(PIN_COUNTERS, _columns(answer.pin_counters), strict=True))
            out["pins"] = {"pin_id": ask.pins, **said(answer.pin_status), "counters": counters}
        if ask.topics:
            columns = zip(_STATISTICS, _columns(answer.topic_stats), _OF_STATISTICS, strict=True)
            statistics = {name: column.astype(kind, copy=False) for name, column, kind in columns}
            out["topics"] = {"topic": ask.topics, **said(answer.topic_status), "statistics": statistics}
        return orjson.dumps(out, option=orjson.OPT_SERIALIZE_NUMPY)

    def user(self, request: Request, answer: Answer) -> bytes:
        """The body of an answer for one user."""
        fields = [column if isinstance(column, list) else column.tolist() for column in self._sequence(answer).values()]
        sequence = [dict(zip(SEQUENCE_FIELDS, entry, strict=True)) for entry in zip(*fields, strict=True)]
        counters = dict(zip(USER_COUNTERS, answer.user_counters[0].tolist(), strict=True))
        return self._one(request, answer, {"user_id": int(answer.ask.users[0])}, answer.user_status, sequence=sequence, counters=counters)

    def pin(self, request: Request, answer: Answer) -> bytes:
        """The body of an answer for one pin."""
        counters = dict(zip(PIN_COUNTERS, answer.pin_counters[0].tolist(), strict=True))
        return self._one(request, answer, {"pin_id": int(answer.ask.pins[0])}, answer.pin_status, counters=counters)

    def topic(self, request: Request, answer: Answer) -> bytes:
        """The body of an answer for one topic."""
        values = (value.astype(kind).item() for value, kind in zip(answer.topic_stats[0], _OF_STATISTICS, strict=True))
        statistics = dict(zip(_STATISTICS, values, strict=True))
        return self._one(request, answer, {"topic": answer.ask.topics[0]}, answer.topic_status, statistics=statistics)

    def _one(self, request: Request, answer: Answer, entity: dict[str, Any], status: np.ndarray, **values: Any) -> bytes:
        return orjson.dumps({**entity, **one_said(status), **self.head(request, answer), **values}, option=orjson.OPT_SERIALIZE_NUMPY)

    def head(self, request: Request, answer: Answer) -> dict[str, Any]:
        """What every answer says of itself."""
        # Before the first event a time that nobody asked for says nothing.
        as_of = answer.as_of if answer.ask.as_of is not None or answer.prefix.newest is not None else None
        return {
            "request_id": request.request_id,
            "fingerprint": self.fingerprint,
            "as_of": as_of,
            "positions": answer.prefix.positions,
        }

    def _sequence(self, answer: Answer) -> dict[str, Any]:
        """Columns by name; actions and surfaces by their names, each a list."""
        columns: dict[str, Any] = {name: np.ascontiguousarray(getattr(answer.sequences, name)) for name in SEQUENCE_FIELDS}
        for name, names in self._names.items():
            codes = columns[name]
            columns[name] = words = names[codes].tolist()
            if None in words:
                raise SettingsError(
                    f"task state holds {name} code {codes[words.index(None)]}, which the vocabulary does not name; "
                    "set `vocabulary` to the file that the flows run with"
                )
        return columns


def _names(by_code: dict[int, str]) -> np.ndarray:
    names = np.full(256, None, object)
    for code, name in by_code.items():
        names[code] = name
    return names


def said(status: np.ndarray) -> dict[str, Any]:
    """Of each entity whether something is known of it, and how its values came to be."""
    return {"found": status == Status.FOUND, "status": _STATUS[status].tolist()}


def one_said(status: np.ndarray) -> dict[str, Any]:
    """The same of the first one alone."""
    return {name: each[0] for name, each in said(status).items()}


def _columns(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values.T)
