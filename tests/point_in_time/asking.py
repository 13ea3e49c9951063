"""Asks a point-in-time read for many queries at once, and says what was found as plain values, to be held against oracles and online reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from flows.answers import EntityReader
from flows.features import PIN_COUNTERS, TOPIC_STATS, USER_COUNTERS
from flows.point_in_time import Asked, PointInTime
from flows.positions import Positions
from tests.oracles import features as oracle
from tests.oracles.point_in_time import arrivals, arrived


@dataclass
class Queries:
    """Queries of one kind of prefix or both; `kind` is user, pin or topic."""

    entity: list[int | str] = field(default_factory=list)
    time: list[int] = field(default_factory=list)
    arrived_by: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)

    def add(self, entity: int | str, time: int, arrived_by: int = 0, position: int = -1) -> None:
        self.entity.append(entity)
        self.time.append(time)
        self.arrived_by.append(arrived_by)
        self.position.append(position)

    def asked(self, kind: str, positions: Sequence[Positions] = ()) -> Asked:
        entity = self.entity if kind == "topic" else np.array(self.entity, np.int64)
        return Asked(
            entity, np.array(self.time, np.int64), np.array(self.arrived_by, np.int64), positions, np.array(self.position, np.int32)
        )  # type: ignore[arg-type]


def users_found(point: PointInTime, queries: Queries, positions: Sequence[Positions] = ()) -> list[tuple[object, ...]]:
    """Of each query: the sequence with names, the counters, and whether anything was found of either."""
    got = point.users(queries.asked("user", positions))
    return _users(point, got.offsets, got, got.counters, got.found_sequence, got.found_counters)


def _users(
    point: PointInTime | EntityReader, offsets: np.ndarray, got: object, values: np.ndarray, *found: np.ndarray
) -> list[tuple[object, ...]]:
    actions, surfaces = point.vocabulary.action_names(), point.vocabulary.surface_names()
    out = []
    for i in range(len(offsets) - 1):
        part = slice(offsets[i], offsets[i + 1])
        pin, action, surface, time, duration = (
            getattr(got, n)[part].tolist() for n in ("pin_id", "action", "surface", "event_time", "duration_ms")
        )
        rows = list(zip(pin, [actions[a] for a in action], [surfaces[s] for s in surface], time, duration, strict=True))
        out.append((rows, values[i].tolist(), *(bool(f[i]) for f in found)))
    return out


def users_online(reader: EntityReader, ids: Sequence[int], as_of: int) -> list[tuple[object, ...]]:
    """The same, as an online read says it."""
    sequences, counters = reader.user_sequences(np.array(ids, np.int64), as_of), reader.user_counters(np.array(ids, np.int64), as_of)
    return _users(reader, sequences.offsets, sequences, counters.values, sequences.found, counters.found)


def pins_found(point: PointInTime, queries: Queries, positions: Sequence[Positions] = ()) -> list[tuple[object, ...]]:
    got = point.pins(queries.asked("pin", positions))
    return list(zip(got.values.tolist(), got.found.tolist(), strict=True))


def topics_found(point: PointInTime, queries: Queries, positions: Sequence[Positions] = ()) -> list[tuple[object, ...]]:
    got = point.topics(queries.asked("topic", positions))
    return list(zip(got.values.tolist(), got.found.tolist(), strict=True))


class Oracle:
    """What naive readings say of queries by arrival. Each prefix is read for the records that can have to do with the entity alone."""

    def __init__(self, decided: pd.DataFrame) -> None:
        self._decided = decided.assign(arrival=arrivals(decided))
        self._of = {name: self._decided.groupby(name).indices for name in ("user_id", "pin_id", "topic")}

    def _prefix(self, column: str, entity: int | str, by: int) -> pd.DataFrame:
        rows = self._of[column].get(entity, np.empty(0, np.int64))
        if column == "topic":
            # Credit depends on all that happened to a pin.
            pins = np.unique(self._decided["pin_id"].to_numpy()[rows])
            rows = np.unique(np.concatenate([np.empty(0, np.int64), *(self._of["pin_id"][pin] for pin in pins.tolist())]))
        found = self._decided.iloc[rows]
        found.attrs = dict(self._decided.attrs)
        return arrived(found, by)

    def user(self, user: int, time: int, by: int) -> tuple[object, ...]:
        """Sequence and counters; that counters were found is told by revisits alone, which the oracle's frame doesn't say."""
        prefix = self._prefix("user_id", user, by)
        return oracle.sequences(prefix, time).get(user, []), _row(oracle.counters(prefix, "user", time), user, USER_COUNTERS)

    def pin(self, pin: int, time: int, by: int) -> tuple[object, ...]:
        frame = oracle.counters(self._prefix("pin_id", pin, by), "pin", time)
        return _row(frame, pin, PIN_COUNTERS), pin in frame.index

    def topic(self, topic: str, time: int, by: int) -> tuple[object, ...]:
        frame = oracle.topics(self._prefix("topic", topic, by), time)
        return _row(frame, topic, [name for name, _ in TOPIC_STATS]), topic in frame.index


def _row(frame: pd.DataFrame, entity: int | str, columns: Sequence[str]) -> list[float]:
    return frame.loc[entity, list(columns)].tolist() if entity in frame.index else [0] * len(columns)
