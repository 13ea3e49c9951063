"""One contract on both stores, task state and Redis: the answers of the oracles for every view at every time, and how a Feast store reads them."""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from feature_repo import readers
from feature_repo.errors import StateIsWrittenByItsLogError
from feature_repo.online_store import one_catch_up, reading_as_of
from feature_repo.reading import open_store, pin_features, topic_features, user_features
from flows.answers import EntityReader
from flows.errors import OnlineStoreError
from flows.features import PIN_COUNTERS, TOPIC_STATS, USER_COUNTERS
from flows.online.follower import Follower, Outcome
from flows.online.reader import RedisReader
from flows.outputs import ACTIONS, REVISITS
from flows.past import Past
from flows.reading import FeatureReader
from flows.settings import Settings
from tests.online.redis_server import RedisServer
from tests.oracles import features as oracle
from tests.oracles.decide import decide
from tests.oracles.records import DAY, HOUR
from tests.state.house import House
from tests.strategies import adversarial, interesting_times, random_stream, streams
from tests.test_reading import FAR, check_reads, house

pytestmark = pytest.mark.redis
STORES = ["state", "redis"]


def over_redis(settings: Settings, server: RedisServer) -> Settings:
    """The same data directory, served from a part of a Redis that nobody else uses."""
    return dataclasses.replace(settings, online=server.url, online_prefix=f"t{uuid.uuid4().hex[:8]}.")


def synced(settings: Settings) -> Settings:
    with Follower(settings) as follower:
        list(follower.round())
    return settings


@contextmanager
def reading(store: str, settings: Settings, server: RedisServer) -> Iterator[EntityReader]:
    """A reader of one of the two stores."""
    if store == "state":
        with FeatureReader(settings) as state:
            yield state
    else:
        with RedisReader(synced(over_redis(settings, server))) as redis:
            yield redis


@pytest.mark.parametrize("store", STORES)
@hypothesis_settings(max_examples=5)
@given(streams(40, partitions=2), st.data())
def test_the_answers_of_the_oracles_at_any_time(store: str, shared_redis: RedisServer, events: pd.DataFrame, data: st.DataObject) -> None:
    with house(events, (data.draw(st.integers(1, 20)),), partitions=2) as made, reading(store, made.settings, shared_redis) as reader:
        decided = decide(events)
        check_reads(reader, decided, None)
        for as_of in data.draw(st.lists(st.sampled_from(interesting_times(events) + FAR), min_size=1, max_size=3)):
            check_reads(reader, decided, as_of)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("seed", range(2))
def test_expired_and_merged_state_long_before_and_long_after(seed: int, store: str, shared_redis: RedisServer) -> None:
    """Steps of 31 days: rows expire in merges through several levels; earlier times are answered from the log."""
    events = adversarial(seed, 250, partitions=2)
    decided = decide(events)
    now = oracle.default_as_of(decided)
    assert now is not None
    with house(events, (7, 1, 30), partitions=2) as made, reading(store, made.settings, shared_redis) as reader:
        for as_of in [*np.random.default_rng(seed).choice(interesting_times(events), 4).tolist(), *FAR[3:6], now + 8 * DAY, now + 91 * DAY]:
            check_reads(reader, decided, as_of)
        with mock.patch.object(Past, "_judged", side_effect=AssertionError("read from the log")):
            for as_of in (None, now, now + HOUR):
                check_reads(reader, decided, as_of)


@pytest.mark.parametrize("seed", range(3))
def test_a_follower_that_looks_after_any_commits_gives_the_answers_of_state(seed: int, shared_redis: RedisServer) -> None:
    """Nothing is written anew after the first round, and all that has changed is written: expired, credited, taken back, never seen before."""
    events = adversarial(seed, 220, partitions=2)
    rng = np.random.default_rng(seed)
    with house(events.iloc[:0], partitions=2) as made:
        settings = over_redis(made.settings, shared_redis)
        from tests import driving

        driving.write(made.settings, events, rng)
        outcomes = set()
        with Follower(settings) as follower:
            list(follower.round())
            ends = {p: made.logs[ACTIONS].end_position(p) for p in range(2)}
            while True:
                left = [p for p in range(2) if _advance(made, p, int(rng.integers(1, 40))) < ends[p]]
                outcomes |= {str(one.outcome) for one in follower.round()}
                with FeatureReader(made.settings) as state, RedisReader(settings) as redis:
                    assert redis.positions() == state.positions()
                    assert redis.default_as_of() == state.default_as_of()
                    agree(redis, state, events, [None, *rng.choice(interesting_times(events), 2).tolist()])
                if not left:
                    break
        assert outcomes == {"kept", "changed"}
        with RedisReader(settings) as redis:
            check_reads(redis, decide(events), None)


def _advance(made: House, partition: int, records: int) -> int:
    task = made.open(ACTIONS, partition)
    task.apply(made.logs[ACTIONS].read(partition, task.position, records))
    position = task.position
    task.close()
    for pins in range(2):
        made.feed(made.open(REVISITS, pins)).close()
    return position


def agree(one: EntityReader, other: EntityReader, events: pd.DataFrame, times: list[int | None]) -> None:
    """Two readers say the same, found and missing too."""
    users = np.array([*events["user_id"].unique(), 987], np.int64)
    pins = np.array([*events["pin_id"].unique(), 987], np.int64)
    topics = [*sorted(set(events["topic"]) - {""}), "no such topic"]
    for as_of in times:
        for name, ids in (("user_sequences", users), ("user_counters", users), ("pin_counters", pins), ("topic_stats", topics)):
            got, want = getattr(one, name)(ids, as_of), getattr(other, name)(ids, as_of)
            for field in dataclasses.fields(want):
                assert np.array_equal(getattr(got, field.name), getattr(want, field.name)), (name, as_of, field.name)


# Through Feast ---------------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Site:
    """A data directory with some thousand events, synced to Redis."""

    settings: Settings
    redis: Settings
    events: pd.DataFrame

    def store(self, name: str) -> FeatureStore:
        return open_store(self.settings if name == "state" else self.redis)


@pytest.fixture(scope="module")
def site(shared_redis: RedisServer) -> Iterator[Site]:
    events = random_stream(3, 4_000, partitions=2, users=600, pins=600, days=60)
    with tempfile.TemporaryDirectory() as directory:
        made = House(Path(directory) / "data", events, partitions=2)
        made.finish([500])
        made.close()
        redis = synced(over_redis(made.settings, shared_redis))
        yield Site(made.settings, redis, events)
        readers.close_readers()


ALL_TOPICS = [f"topic_revisit_stats:{name}" for name, _ in TOPIC_STATS]


def everything(store: FeatureStore, events: pd.DataFrame) -> list[dict[str, Any]]:
    """All views for 500 entities each, some of which there are not."""
    users = [*events["user_id"].unique()[:495].tolist(), 1, 2, 3, 4, 5]
    pins = [*events["pin_id"].unique()[:495].tolist(), 1, 2, 3, 4, 5]
    topics = [*sorted(set(events["topic"]) - {""}), "there is none"]
    return [
        store.get_online_features(store.get_feature_service("ranking_v1_user"), {"user_id": users}).to_dict(),
        store.get_online_features(store.get_feature_service("ranking_v1_candidate"), {"pin_id": pins}).to_dict(),
        store.get_online_features(ALL_TOPICS, {"topic": topics}).to_dict(),
    ]


def test_feast_gives_the_same_from_both(site: Site) -> None:
    latest = int(site.events["event_time"].max())
    for as_of in (None, latest - HOUR, latest - 20 * DAY, latest + 8 * DAY):
        with reading_as_of(as_of):
            assert everything(site.store("redis"), site.events) == everything(site.store("state"), site.events)


@pytest.mark.parametrize("store", STORES)
def test_single_entities_with_their_positions(store: str, site: Site) -> None:
    opened, decided = site.store(store), decide(site.events)
    user = next(iter(oracle.counters(decided, "user").index))
    got = user_features(opened, user)
    assert got["counters"] == {name: oracle.counters(decided, "user").loc[user, name] for name in USER_COUNTERS}
    assert len(got["sequence"]) == len(oracle.sequences(decided)[user])
    pins = oracle.counters(decided, "pin")
    assert pin_features(opened, int(pins.index[0]))["counters"] == {name: pins.loc[pins.index[0], name] for name in PIN_COUNTERS}
    topics = oracle.topics(decided)
    assert topic_features(opened, topics.index[0])["statistics"] == {name: topics.loc[topics.index[0], name] for name, _ in TOPIC_STATS}
    with FeatureReader(site.settings) as state:
        assert got["positions"] == state.positions()
        assert got["as_of"] == state.default_as_of()


@pytest.mark.parametrize("store", STORES)
def test_missing_entities_are_not_found(store: str, site: Site) -> None:
    opened = site.store(store)
    user = int(site.events["user_id"].iloc[0])
    response = opened.get_online_features(["user_action_sequence:sequence_pin_id"], [{"user_id": 1}, {"user_id": user}])
    assert list(response.proto.results[-1].statuses) == [FieldStatus.NOT_FOUND, FieldStatus.PRESENT]
    assert not topic_features(opened, "there is none")["found"]


@pytest.mark.parametrize("store", STORES)
def test_async_reads(store: str, site: Site) -> None:
    opened = site.store(store)
    users = [{"user_id": user} for user in site.events["user_id"].unique()[:50].tolist()]

    async def read(as_of: int | None) -> Any:
        with reading_as_of(as_of):
            return (await opened.get_online_features_async(opened.get_feature_service("ranking_v1_user"), users)).to_dict()

    async def together() -> list[Any]:
        return await asyncio.gather(*(read(as_of) for as_of in times))

    times = [None, int(site.events["event_time"].max()) + 8 * DAY, None]
    got = asyncio.run(together())
    for one, as_of in zip(got, times, strict=True):
        with reading_as_of(as_of):
            assert one == opened.get_online_features(opened.get_feature_service("ranking_v1_user"), users).to_dict()


@pytest.mark.parametrize("store", STORES)
def test_writes_through_feast_are_refused(store: str, site: Site) -> None:
    opened = site.store(store)
    frame = pd.DataFrame(
        {"user_id": [1], **{name: [0] for name in USER_COUNTERS}, "event_timestamp": [pd.Timestamp("2026-01-01", tz="UTC")]}
    )
    with pytest.raises(StateIsWrittenByItsLogError):
        opened.write_to_online_store("user_revisit_counters", frame)
    before = everything(opened, site.events)
    opened.materialize(pd.Timestamp("2026-01-01", tz="UTC"), pd.Timestamp("2026-02-01", tz="UTC"), ["user_revisit_counters"])
    assert everything(opened, site.events) == before


def test_a_view_is_one_round_trip(site: Site) -> None:
    """500 entities of 2 partitions: one catch-up, then one pipeline for each view."""
    opened = site.store("redis")
    with one_catch_up(opened) as caught:
        assert isinstance(caught.shared.reader, RedisReader)
        with mock.patch.object(caught.shared.reader, "_fetch", wraps=caught.shared.reader._fetch) as fetch:
            everything(opened, site.events)
            assert fetch.call_count == 4


def test_an_older_copy_of_the_data_directory_never_takes_redis_back(shared_redis: RedisServer, tmp_path: Path) -> None:
    events = random_stream(5, 400, partitions=2, users=20, pins=20, days=10)
    half = events[events.groupby("partition").cumcount() < 100]
    prefix = f"t{uuid.uuid4().hex[:8]}."
    made: dict[str, Settings] = {}
    for name, some in (("old", half), ("new", events)):
        house = House(tmp_path / name, some, partitions=2)
        house.finish([100])
        house.close()
        made[name] = dataclasses.replace(house.settings, online=shared_redis.url, online_prefix=prefix)
    synced(made["old"])
    with Follower(made["new"]) as follower:
        assert {one.outcome for one in follower.round()} <= {Outcome.CHANGED, Outcome.ANEW, Outcome.KEPT}
    with RedisReader(made["new"]) as reader:
        newest = reader.positions()
    with Follower(made["old"]) as follower, pytest.raises(OnlineStoreError, match=r"older copy.*--anew"):
        list(follower.round())
    with RedisReader(made["new"]) as reader:
        assert reader.positions() == newest
    with Follower(made["old"], anew=True) as follower:
        list(follower.round())
    with RedisReader(made["old"]) as reader, FeatureReader(made["old"]) as state:
        assert reader.positions() == state.positions() != newest
