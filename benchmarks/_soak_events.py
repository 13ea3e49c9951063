"""Events of a soak: a stream that is a function of the index alone, and what is slipped in: events of rankings, late, doubled, malformed ones.

Users and pins are few and stay the same, so that state grows by what happens and not by who comes. Of 64 events two are saves, one is a click on
a pin that was saved before, 8 are closeups, the rest impressions. Each ID names one event.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa

from flows.events import EVENT_SCHEMA, RAW_SCHEMA
from tests.oracles.decide import decide
from tests.oracles.partition import partition_of

IMPRESSION, CLOSEUP, CLICK, SAVE, GRID_CLICK = range(5)
ACTIONS = ("impression", "closeup", "click", "save", "grid_click")
HOMEFEED, RELATED_PINS, OWN_PROFILE = range(3)
SURFACES = ("homefeed", "related_pins", "own_profile")
TOPICS = tuple(f"topic{i}" for i in range(12))
USERS, PINS = 20_000, 40_000
SAMPLED = 151
"""Of users and of pins, one in so many is recomputed by the oracle, from what was sent about them."""
_GROUP, _LATER = 64, 4_096
_SAVES_AT, _REVISIT_AT, _CLOSEUP_EACH = (0, 32), 63, 8
# Late events, and those of rankings and probes, have IDs of their own; a stream of 10 000 a second takes years to reach them.
LATE_IDS, RANKED_IDS = 1 << 42, 1 << 43


@dataclass(frozen=True)
class Events:
    """Columns, int64[n] each; actions and surfaces as indices into ACTIONS and SURFACES."""

    event_id: np.ndarray
    user_id: np.ndarray
    pin_id: np.ndarray
    action: np.ndarray
    surface: np.ndarray
    event_time: np.ndarray

    def __len__(self) -> int:
        return len(self.event_id)

    def take(self, which: np.ndarray) -> Events:
        """Some of them."""
        return Events(*(getattr(self, name)[which] for name in self.__dataclass_fields__))

    def batch(self, timestamp: int) -> pa.RecordBatch:
        """As typed records, sent at a time, ms."""
        n = len(self)
        none = pa.DictionaryArray.from_arrays(pa.nulls(n, pa.int32()), pa.array([], pa.string()))
        columns = {
            **{name: getattr(self, name) for name in ("event_id", "user_id", "pin_id", "event_time")},
            "action": pa.DictionaryArray.from_arrays(pa.array(self.action, pa.int32()), pa.array(ACTIONS)),
            "surface": pa.DictionaryArray.from_arrays(pa.array(self.surface, pa.int32()), pa.array(SURFACES)),
            "topic": pa.DictionaryArray.from_arrays(pa.array(self.pin_id % len(TOPICS), pa.int32()), pa.array(TOPICS)),
            "duration_ms": np.zeros(n, np.int64),
            "request_id": pa.nulls(n, pa.string()),
            "producer": none,
            "schema_version": np.ones(n, np.int16),
            "timestamp": np.full(n, timestamp),
        }
        return pa.RecordBatch.from_arrays([pa.array(columns[f.name]).cast(f.type) for f in EVENT_SCHEMA], schema=EVENT_SCHEMA)

    def json(self, requests: list[str]) -> list[bytes]:
        """As one JSON object each, with the request that each is of."""
        names = ("event_id", "user_id", "pin_id", "event_time")
        rows = zip(*(getattr(self, name).tolist() for name in (*names, "action", "surface")), requests, strict=True)
        return [
            orjson.dumps(
                dict(zip(names, row[:4], strict=True)) | {"action": ACTIONS[row[4]], "surface": SURFACES[row[5]], "request_id": row[6]}
            )
            for row in rows
        ]


def stream(index: np.ndarray, event_time: np.ndarray) -> Events:
    """Events of the stream by their index, at times, ms: both int64[n]."""
    place = index % _GROUP
    save, revisit = np.isin(place, _SAVES_AT), (place == _REVISIT_AT) & (index >= _LATER)
    # A click is about the user and the pin of a save that lies some thousand events back.
    about = np.where(revisit, index - _LATER - _REVISIT_AT, index)
    action = np.select([save, revisit, index % _CLOSEUP_EACH == 3], [SAVE, GRID_CLICK, CLOSEUP], IMPRESSION)
    surface = np.select([save & (place > 0), revisit], [RELATED_PINS, OWN_PROFILE], HOMEFEED)
    return Events(index, mixed(about, 1) % USERS, mixed(about, 2) % PINS, action, surface, event_time)


def late(index: np.ndarray, event_time: np.ndarray) -> Events:
    """Closeups, which open and credit nothing, so that it is the same whether they count as late."""
    n = len(index)
    places = (np.full(n, CLOSEUP), np.full(n, HOMEFEED))
    return Events(LATE_IDS + index, mixed(index, 3) % USERS, mixed(index, 4) % PINS, *places, event_time)


def malformed(number: int, user: int, event_time: int) -> bytes:
    """A record that nobody can take, in one of several ways."""
    good = {"event_id": number, "user_id": user, "pin_id": 1, "action": "closeup", "event_time": event_time}
    ways = (
        b"\xff\x00 no text",
        orjson.dumps(good)[:-4],
        orjson.dumps(good | {"action": "sneeze"}),
        orjson.dumps(good | {"event_time": event_time + 3_600_000}),
        orjson.dumps(good | {"duration_ms": -1}),
        b'{"event_id": 1}',
    )
    return ways[number % len(ways)]


def raw(values: list[bytes], timestamp: int) -> pa.RecordBatch:
    """Records as they are on the wire."""
    return pa.RecordBatch.from_arrays([pa.array(values, pa.binary()), pa.array([timestamp] * len(values))], schema=RAW_SCHEMA)


def mixed(index: np.ndarray, salt: int) -> np.ndarray:
    """A hash of whole numbers: int64[n], not negative."""
    out = index.astype(np.uint64) + np.uint64(salt * 0x9E3779B97F4A7C15 % 2**64)
    out = (out ^ (out >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    out = (out ^ (out >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((out ^ (out >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


@dataclass
class Sent:
    """What a producer has sent, as far as it can be told without looking at the log: how much of what, and all about some users and pins.

    Attributes
    ----------
    events, doubled, late, malformed : int
        Events, each counted once; how many records more were sent of them on purpose; late ones among the events; records that are none.
    malformed_again : int
        Records that are none and were sent again, for nobody had acknowledged them.
    newest : int
        Greatest event time, ms.
    """

    events: int = 0
    doubled: int = 0
    late: int = 0
    malformed: int = 0
    malformed_again: int = 0
    newest: int = 0
    _sampled: list[Events] = field(default_factory=list)

    def add(self, events: Events) -> None:
        """Take in events that were sent."""
        self.events += len(events)
        if len(events):
            self.newest = max(self.newest, int(events.event_time.max()))
        kept = (events.user_id % SAMPLED == 0) | (events.pin_id % SAMPLED == 0)
        if kept.any():
            self._sampled.append(events.take(kept))

    def decided(self, partitions: int, allowed_lateness_ms: int, dedup_horizon_ms: int) -> pd.DataFrame:
        """All about sampled users and pins, with what becomes of each event by the tests' oracle."""
        columns = {name: np.concatenate([getattr(one, name) for one in self._sampled]) for name in Events.__dataclass_fields__}
        frame = pd.DataFrame(columns)
        frame["action"] = np.array(ACTIONS, object)[columns["action"]]
        frame["surface"] = np.array(SURFACES, object)[columns["surface"]]
        frame["topic"] = ""
        frame["duration_ms"] = 0
        owners = {user: partition_of(user, partitions) for user in set(columns["user_id"].tolist())}
        frame["partition"] = [owners[user] for user in columns["user_id"].tolist()]
        frame["offset"] = np.arange(len(frame))
        # When each arrived is not known; no later than the newest event, and no event is from the future.
        frame["timestamp"] = self.newest
        return decide(frame, allowed_lateness_ms, dedup_horizon_ms, partitions=partitions)


def sampled_ids(number: int) -> np.ndarray:
    """Of IDs from 0 up to `number`, those that the oracle recomputes."""
    return np.arange(0, number, SAMPLED)
