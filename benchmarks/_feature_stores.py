"""The same features in several stores, and one way to read them: a user's sequence and counters, and the counters of some pins.

Every read ends in what a ranker takes: arrays of the user's actions and counters, and an array of the pins' counters. A contestant is filled from
what task state says at one time, runs in a process of its own (`benchmarks._worker`), and must give the very same arrays as the others.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from feast import FeatureStore, RepoConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Int64List, StringList, Value
from rocksdict import Options, Rdict, WriteBatch

from benchmarks._measure import Clock
from feature_repo import views
from feature_repo.reading import open_store
from feature_repo.repository import PROJECT
from flows import features
from flows.answers import EntityReader
from flows.online.follower import Follower
from flows.online.reader import RedisReader
from flows.reading import FeatureReader
from flows.settings import Settings

_SEQUENCE = [f"{views.USER_ACTION_SEQUENCE}:{views.SEQUENCE_PREFIX}{name}" for name in features.SEQUENCE_FIELDS]
_USER = [f"{views.USER_REVISIT_COUNTERS}:{name}" for name in features.USER_COUNTERS]
_PIN = [f"{views.PIN_REVISIT_COUNTERS}:{name}" for name in features.PIN_COUNTERS]
# Rows of one write through Feast.
_BATCH = 2_000
# Reads of a turn that come before its clock starts.
_WARMED = 5

Request = tuple[int, np.ndarray]
"""A user and pins, int64[n]."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What a request gets.

    Attributes
    ----------
    sequence : int64[3, k]
        pin_id, event_time and duration_ms of the user's actions, newest first.
    user : int64[24]
    pins : int64[n, 24]
    """

    sequence: np.ndarray
    user: np.ndarray
    pins: np.ndarray


class Source:
    """All features at one time, out of task state.

    Parameters
    ----------
    reader : FeatureReader
    """

    def __init__(self, reader: FeatureReader) -> None:
        self._reader = reader
        self.as_of = reader.default_as_of() or 0
        slices = [one for p in range(reader.settings.partitions) for one in reader.user_slices(p, self.as_of)]
        users = np.unique(np.concatenate([np.concatenate([one.sequences[:, 0], one.revisits[:, 0]]) for one in slices]))
        self.pin_ids = np.unique(np.concatenate([rows[:, 0] for rows in reader.pin_rows(self.as_of)]))
        # Those with both a sequence and counters: what a store of Feast's says of a missing row is another matter.
        self.user_ids = users[reader.user_sequences(users).found & reader.user_counters(users).found]
        self.rows = 2 * len(self.user_ids) + len(self.pin_ids)
        lengths = np.diff(reader.user_sequences(self.user_ids).offsets)
        self.full = self.user_ids[lengths == features.SEQUENCE_LENGTH]

    def users(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """ID, sequence and counters of each."""
        actions, own = self._reader.user_sequences(self.user_ids), self._reader.user_counters(self.user_ids)
        columns = np.stack([actions.pin_id, actions.event_time, actions.duration_ms])
        for i, user in enumerate(self.user_ids.tolist()):
            yield user, columns[:, actions.offsets[i] : actions.offsets[i + 1]], own.values[i]

    def pins(self) -> Iterator[tuple[int, np.ndarray]]:
        """ID and counters of each."""
        yield from zip(self.pin_ids.tolist(), self._reader.pin_counters(self.pin_ids).values, strict=True)

    def request(self, seed: int, number: int, pins: int) -> Request:
        """The same in every process: of the users with a full sequence one, and pins, distinct if there are as many."""
        chance = np.random.default_rng([seed, number])
        return int(chance.choice(self.full)), chance.choice(self.pin_ids, pins, replace=pins > len(self.pin_ids))


class Store(Protocol):
    """How a contestant reads; `filled_rows` were written into it in as many seconds, 0 if it was filled before."""

    filled_rows: int
    seconds: float

    def read(self, request: Request) -> Answer: ...


class ByReader:
    """Tidemark's own reader, as what serves uses it: arrays all the way."""

    filled_rows, seconds = 0, 0.0

    def __init__(self, reader: EntityReader) -> None:
        self._reader = reader

    def read(self, request: Request) -> Answer:
        """Under one catch-up with the writer."""
        user, pins = request
        self._reader.refresh()
        as_of = self._reader.default_as_of()
        ids = np.array([user])
        actions, own = self._reader.user_sequences(ids, as_of), self._reader.user_counters(ids, as_of)
        columns = np.stack([actions.pin_id, actions.event_time, actions.duration_ms])
        return Answer(columns, own.values[0], self._reader.pin_counters(pins, as_of).values)


class ThroughFeast:
    """Feast's API: one call for the user, one for the pins; whatever its online store is."""

    def __init__(self, store: FeatureStore, filled_rows: int = 0, seconds: float = 0.0) -> None:
        self._store = store
        self.filled_rows, self.seconds = filled_rows, seconds

    def read(self, request: Request) -> Answer:
        """As Feast's users read."""
        user, pins = request
        own = self._store.get_online_features([*_SEQUENCE, *_USER], [{"user_id": user}]).to_dict()
        found = self._store.get_online_features(_PIN, [{"pin_id": pin} for pin in pins.tolist()]).to_dict()
        return Answer(
            np.array([own[f"{views.SEQUENCE_PREFIX}{name}"][0] for name in ("pin_id", "event_time", "duration_ms")], np.int64),
            np.array([own[name][0] for name in features.USER_COUNTERS], np.int64),
            np.array([found[name] for name in features.PIN_COUNTERS], np.int64).T,
        )


class Floor:
    """A bare RocksDB with one packed value for each entity: a read of several keys at once, and the arrays over what it gave."""

    def __init__(self, directory: Path, source: Source) -> None:
        users, pins = list(source.users()), list(source.pins())
        clock = Clock()
        self._db = Rdict(str(directory), Options(raw_mode=True))
        batch = WriteBatch(raw_mode=True)
        for user, sequence, own in users:
            batch.put(_key(b"u", user), own.tobytes() + sequence.tobytes())
        for pin, own in pins:
            batch.put(_key(b"p", pin), own.tobytes())
        self._db.write(batch)
        self._db.flush()
        self.filled_rows, self.seconds = len(users) + len(pins), clock.read()["seconds"]

    def read(self, request: Request) -> Answer:
        """The least that such a read can do."""
        user, pins = request
        data, *found = self._db.get([_key(b"u", user), *(_key(b"p", pin) for pin in pins.tolist())])
        values = np.frombuffer(data, np.int64)
        wide = len(features.USER_COUNTERS)
        counters = np.frombuffer(b"".join(found), np.int64).reshape(-1, len(features.PIN_COUNTERS))
        return Answer(values[wide:].reshape(3, -1), values[:wide], counters)


def _feast_itself(directory: Path, source: Source, online_store: dict[str, str]) -> ThroughFeast:
    """One of Feast's own stores, with the same views and values, written as a flow's sink would: through the provider, many rows at once."""
    config = RepoConfig(
        project=PROJECT,
        provider="local",
        registry=str(directory / "registry.db"),
        online_store=online_store,
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    defined = views.definitions(directory)
    store.apply(defined.objects())
    at = datetime.fromtimestamp(source.as_of / 1000, UTC)
    pairs: list[tuple[str, str, int, dict[str, Value]]] = []
    for user, columns, own in source.users():
        pairs.append((views.USER_ACTION_SEQUENCE, "user_id", user, _sequence(columns)))
        pairs.append((views.USER_REVISIT_COUNTERS, "user_id", user, _counters(features.USER_COUNTERS, own)))
    pairs += [(views.PIN_REVISIT_COUNTERS, "pin_id", pin, _counters(features.PIN_COUNTERS, own)) for pin, own in source.pins()]
    pairs.sort(key=lambda pair: pair[0])
    clock = Clock()
    for view, table in defined.views.items():
        rows: list[Any] = [
            (EntityKey(join_keys=[key], entity_values=[Value(int64_val=entity)]), values, at, None)
            for name, key, entity, values in pairs
            if name == view
        ]
        for start in range(0, len(rows), _BATCH):
            store._get_provider().online_write_batch(store.config, table, rows[start : start + _BATCH], None)
    return ThroughFeast(store, len(pairs), clock.read()["seconds"])


def _sequence(columns: np.ndarray) -> dict[str, Value]:
    pin, event_time, duration = columns.tolist()
    numbers = {"pin_id": pin, "event_time": event_time, "duration_ms": duration}
    texts = Value(string_list_val=StringList(val=["save"] * len(pin)))
    return {
        views.SEQUENCE_PREFIX + name: Value(int64_list_val=Int64List(val=numbers[name])) if name in numbers else texts
        for name in features.SEQUENCE_FIELDS
    }


def _counters(names: tuple[str, ...], values: np.ndarray) -> dict[str, Value]:
    return {name: Value(int64_val=value) for name, value in zip(names, values.tolist(), strict=True)}


def _key(kind: bytes, entity: int) -> bytes:
    return kind + entity.to_bytes(8, "big", signed=True)


def _synced(settings: Settings, redis: str) -> tuple[Settings, int, float]:
    """Redis as `tidemark online sync` fills it; how many rows, and seconds."""
    online = replace(settings, online=redis)
    clock = Clock()
    with Follower(online) as follower:
        written = sum(done.fields for done in follower.round())
    return online, written, clock.read()["seconds"]


def _redis_reader(settings: Settings, redis: str) -> Store:
    online, rows, seconds = _synced(settings, redis)
    made = ByReader(RedisReader(online))
    made.filled_rows, made.seconds = rows, seconds
    return made


def _feasts_redis(directory: Path, source: Source, redis: str) -> Store:
    host, _, database = redis.removeprefix("redis://").partition("/")
    return _feast_itself(directory, source, {"type": "redis", "connection_string": f"{host},db={int(database) + 1}"})


NOTES = {
    "floor": "a bare RocksDB, one packed value an entity: one multi-get, numpy over the bytes; follows nobody",
    "reader": "Tidemark's own reader over task state, as what serves uses it; catches up with the writer at each read",
    "feast": "the same state through Feast's API: two calls of get_online_features, to_dict, arrays of that",
    "redis_reader": "Tidemark's own reader over Redis, as `tidemark online sync` fills it; checks Redis's marks at each read",
    "feast_over_redis": "the same Redis through Feast's API",
    "feast_sqlite": "Feast's SQLite store with the same views and values, through Feast's API",
    "feast_redis": "Feast's Redis store, likewise",
}
NEED_REDIS = ("redis_reader", "feast_over_redis", "feast_redis")
_OPEN: dict[str, Callable[[Settings, Path, Source, FeatureReader, str], Store]] = {
    "floor": lambda settings, scratch, source, reader, redis: Floor(scratch / "rocksdb", source),
    "reader": lambda settings, scratch, source, reader, redis: ByReader(reader),
    "feast": lambda settings, scratch, source, reader, redis: ThroughFeast(open_store(settings)),
    "redis_reader": lambda settings, scratch, source, reader, redis: _redis_reader(settings, redis),
    "feast_over_redis": lambda settings, scratch, source, reader, redis: ThroughFeast(open_store(_synced(settings, redis)[0])),
    "feast_sqlite": lambda settings, scratch, source, reader, redis: _feast_itself(
        scratch, source, {"type": "sqlite", "path": str(scratch / "online.db")}
    ),
    "feast_redis": lambda settings, scratch, source, reader, redis: _feasts_redis(scratch, source, redis),
}


class Contestant:
    """What `benchmarks._worker` drives: opened, and filled, by its first run."""

    def __init__(self, settings: Settings, scratch: Path) -> None:
        self._settings, self._scratch = settings, scratch
        self._answers: list[Answer] = []
        self.events = 0

    def run(self, first: int, count: int, pins: int, seed: int, store: str = "", redis: str = "", keep: bool = False) -> dict[str, Any]:
        """Open a store by its name, if one is given; then read.

        Returns
        -------
        dict
            ``wall_us`` and ``cpu_us`` of each request; ``rows`` and ``fill_seconds`` of the store; ``seconds`` and ``cpu_seconds`` of all.
        """
        clock = Clock()
        if store:
            reader = FeatureReader(self._settings)
            self._source = Source(reader)
            self._store = _OPEN[store](self._settings, self._scratch, self._source, reader, redis)
            # As a server does once it has started, and for all contestants alike: most of Feast's p99 was the garbage collector.
            gc.collect()
            gc.freeze()
        requests = [self._source.request(seed, number, pins) for number in range(first, first + count)]
        self._answers, self.events = [], count
        wall, cpu = [], []
        # What the others' turns have left of the processor's caches is not what is measured.
        for request in requests[:_WARMED]:
            self._store.read(request)
        for request in requests:
            began, busy = time.perf_counter(), time.process_time()
            answer = self._store.read(request)
            cpu.append((time.process_time() - busy) * 1e6)
            wall.append((time.perf_counter() - began) * 1e6)
            if keep:
                self._answers.append(answer)
        filled = {"rows": self._store.filled_rows, "fill_seconds": self._store.seconds}
        return {"wall_us": wall, "cpu_us": cpu, "users": len(self._source.full), "pins": len(self._source.pin_ids)} | filled | clock.read()

    def outcome(self) -> dict[str, np.ndarray]:
        """The answers that were kept, one after another."""
        return {
            "sequences": np.concatenate([answer.sequence for answer in self._answers], axis=1),
            "lengths": np.array([answer.sequence.shape[1] for answer in self._answers]),
            "users": np.stack([answer.user for answer in self._answers]),
            "pins": np.concatenate([answer.pins for answer in self._answers]),
        }
