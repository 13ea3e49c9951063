"""Feast over task state, with the state replaced by a fake that holds rows in memory: what Feast returns is what the reader said."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore, FeatureView, FileSource, RepoConfig
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_operations import get_repo_files

from feature_repo import readers
from feature_repo.errors import FeastReadError, StateIsWrittenByItsLogError
from feature_repo.online_store import TaskStateOnlineStore, one_catch_up, reading_as_of
from feature_repo.reading import open_store, pin_features, topic_features, user_features
from feature_repo.repository import PROJECT, REPOSITORY
from feature_repo.views import FINGERPRINT_TAG, definitions
from flows import features
from flows.errors import SettingsError
from flows.reading import FeatureReader
from flows.settings import Settings, load_settings
from tests import driving
from tests.strategies import random_stream

T0 = 1_790_000_000_123  # milliseconds that a float of seconds would not keep
SAVE, CLICK = 4, 2
HOMEFEED, SEARCH = 0, 2
VIEWS = {"user_action_sequence", "user_revisit_counters", "pin_revisit_counters", "topic_revisit_stats"}


@dataclass
class FakeReader:
    """`flows.reading.FeatureReader` over dicts; counts what is asked of it."""

    settings: Settings
    as_of: int | None = T0
    refreshed: int = 0
    asked: list[tuple[str, int, int]] = field(default_factory=list)  # (method, entities, as_of)
    closed: bool = False
    # (pin_id, action, surface, event_time, duration_ms), newest first
    sequences: dict[int, list[tuple[int, int, int, int, int]]] = field(default_factory=dict)
    users: dict[int, list[int]] = field(default_factory=dict)
    pins: dict[int, list[int]] = field(default_factory=dict)
    topics: dict[str, list[float]] = field(default_factory=dict)

    def refresh(self) -> None:
        self.refreshed += 1

    def default_as_of(self) -> int | None:
        return self.as_of

    def positions(self) -> dict[str, int]:
        return {"actions/0": 100 + self.refreshed}

    def close(self) -> None:
        self.closed = True

    def user_sequences(self, user_ids: np.ndarray, as_of: int | None = None) -> SimpleNamespace:
        at = self._note("user_sequences", user_ids, as_of)
        assert user_ids.dtype == np.int64
        lists = [[row for row in self.sequences.get(user, []) if row[3] <= at] for user in user_ids.tolist()]
        rows = np.array([row for rows in lists for row in rows], dtype=np.int64).reshape(-1, 5)
        return SimpleNamespace(
            offsets=np.cumsum([0, *map(len, lists)]).astype(np.int64),
            pin_id=rows[:, 0],
            action=rows[:, 1].astype(np.int16),
            surface=rows[:, 2].astype(np.int16),
            event_time=rows[:, 3],
            duration_ms=rows[:, 4],
            found=np.array([user in self.sequences for user in user_ids.tolist()], dtype=bool),
            as_of=at,
        )

    def user_counters(self, user_ids: np.ndarray, as_of: int | None = None) -> SimpleNamespace:
        return self._rows("user_counters", user_ids, as_of, self.users, len(features.USER_COUNTERS), np.int64)

    def pin_counters(self, pin_ids: np.ndarray, as_of: int | None = None) -> SimpleNamespace:
        return self._rows("pin_counters", pin_ids, as_of, self.pins, len(features.PIN_COUNTERS), np.int64)

    def topic_stats(self, topics: list[str], as_of: int | None = None) -> SimpleNamespace:
        return self._rows("topic_stats", topics, as_of, self.topics, len(features.TOPIC_STATS), np.float64)

    def _rows(self, method: str, keys: Any, as_of: int | None, held: dict[Any, list[Any]], width: int, dtype: Any) -> SimpleNamespace:
        at = self._note(method, keys, as_of)
        keys = keys if isinstance(keys, list) else keys.tolist()
        values = np.array([held.get(key, [0] * width) for key in keys], dtype=dtype).reshape(-1, width)
        return SimpleNamespace(values=values, found=np.array([key in held for key in keys], dtype=bool), as_of=at)

    def _note(self, method: str, keys: Any, as_of: int | None) -> int:
        assert as_of is not None, "a read through Feast fixes its as_of once, for all views"
        self.asked.append((method, len(keys), as_of))
        return as_of


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "made" / "when needed")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeReader]]:
    """The readers that were opened, all fake."""
    made: list[FakeReader] = []

    def make(settings: Settings) -> FakeReader:
        made.append(FakeReader(settings))
        return made[-1]

    monkeypatch.setattr(readers, "_open", make)
    yield made
    readers.close_readers()


@pytest.fixture
def store(settings: Settings, opened: list[FakeReader]) -> FeatureStore:
    return open_store(settings)


@pytest.fixture
def reader(store: FeatureStore, settings: Settings, opened: list[FakeReader]) -> FakeReader:
    readers.shared_reader(settings)
    (reader,) = opened
    reader.sequences = {
        1: [(12, CLICK, SEARCH, T0, 1500), (11, SAVE, HOMEFEED, T0 - 5000, 0)],
        2: [],
        -(2**63): [(2**63 - 1, SAVE, HOMEFEED, T0 - 1, 2**62)],
    }
    reader.users = {1: list(range(100, 124)), 2: [0] * 24}
    reader.pins = {pin: [pin * 24 + place for place in range(24)] for pin in range(1000)}
    reader.topics = {"käse": [3.0, 2.0, 1.0, 2 / 3, 0.5] * 3}
    return reader


def export_of(view: FeatureView) -> str:
    source = view.batch_source
    assert isinstance(source, FileSource)
    return source.path


def statuses(response: Any, name: str) -> list[Any]:
    return list(response.proto.results[list(response.proto.metadata.feature_names.val).index(name)].statuses)


def test_apply_registers_what_the_declaration_names(store: FeatureStore, settings: Settings, opened: list[FakeReader]) -> None:
    views = {view.name: view for view in store.list_feature_views()}
    assert set(views) == VIEWS
    assert {f.name for f in views["user_action_sequence"].features} == {f"sequence_{name}" for name in features.SEQUENCE_FIELDS}
    assert [f.name for f in views["user_revisit_counters"].features] == list(features.USER_COUNTERS)
    assert [f.name for f in views["pin_revisit_counters"].features] == list(features.PIN_COUNTERS)
    assert [f.name for f in views["topic_revisit_stats"].features] == [name for name, _ in features.TOPIC_STATS]
    for view in views.values():
        assert view.ttl == timedelta(0)
        assert view.tags[FINGERPRINT_TAG] == features.fingerprint()
        assert export_of(view) == str(settings.offline / f"{view.name}.parquet")
    assert {service.name for service in store.list_feature_services()} == {"ranking_v1", "ranking_v1_user", "ranking_v1_candidate"}
    assert {entity.join_key for entity in store.list_entities()} >= {"user_id", "pin_id", "topic"}
    # It creates the registry and nothing of ours, and leaves no file that it wrote aside.
    assert os.listdir(settings.data) == ["registry.db"]
    assert opened == []


def test_types_in_the_registry(store: FeatureStore) -> None:
    types = {f.name: str(f.dtype) for view in store.list_feature_views() for f in view.features}
    assert types["sequence_pin_id"] == types["sequence_event_time"] == types["sequence_duration_ms"] == "Array(Int64)"
    assert types["sequence_action"] == types["sequence_surface"] == "Array(String)"
    assert {types[name] for name in (*features.USER_COUNTERS, *features.PIN_COUNTERS)} == {"Int64"}
    assert {types[name] for name, kind in features.TOPIC_STATS if kind == "float64"} == {"Float64"}
    assert {types[name] for name, kind in features.TOPIC_STATS if kind == "int64"} == {"Int64"}


def test_a_registry_is_applied_once_and_again_when_definitions_change(
    settings: Settings, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = settings.registry.read_bytes()
    open_store(settings)
    assert settings.registry.read_bytes() == before

    monkeypatch.setattr(features, "SEMANTICS_VERSION", features.SEMANTICS_VERSION + 1)
    again = open_store(settings)
    assert settings.registry.read_bytes() != before
    assert {view.tags[FINGERPRINT_TAG] for view in again.list_feature_views()} == {features.fingerprint()}


def test_a_moved_data_directory_is_applied_again(settings: Settings, store: FeatureStore, tmp_path: Path) -> None:
    moved = settings.data.rename(tmp_path / "moved")
    again = open_store(Settings(data=moved))
    assert export_of(again.get_feature_view("pin_revisit_counters")) == str(moved / "offline" / "pin_revisit_counters.parquet")


def test_values_and_types(store: FeatureStore, reader: FakeReader) -> None:
    response = store.get_online_features(
        features=store.get_feature_service("ranking_v1_user"), entity_rows=[{"user_id": 1}, {"user_id": -(2**63)}]
    )
    got = response.to_dict()
    assert got["sequence_pin_id"] == [[12, 11], [2**63 - 1]]
    assert got["sequence_action"] == [["click", "save"], ["save"]]
    assert got["sequence_surface"] == [["search", "homefeed"], ["homefeed"]]
    assert got["sequence_event_time"] == [[T0, T0 - 5000], [T0 - 1]]
    assert got["sequence_duration_ms"] == [[1500, 0], [2**62]]
    assert [got[name][0] for name in features.USER_COUNTERS] == list(range(100, 124))
    assert all(got[name][1] is None for name in features.USER_COUNTERS)


def test_topics(store: FeatureStore, reader: FakeReader) -> None:
    names = [f"topic_revisit_stats:{name}" for name, _ in features.TOPIC_STATS]
    got = store.get_online_features(names, [{"topic": "käse"}, {"topic": ""}]).to_dict()
    assert [got[name][0] for name, _ in features.TOPIC_STATS] == [3, 2, 1, 2 / 3, 0.5] * 3
    assert all(type(got[name][0]) is (int if kind == "int64" else float) for name, kind in features.TOPIC_STATS)
    assert all(got[name][1] is None for name, _ in features.TOPIC_STATS)


def test_missing_is_not_found_and_nothing_to_show_is_present(store: FeatureStore, reader: FakeReader) -> None:
    response = store.get_online_features(
        ["user_action_sequence:sequence_pin_id", f"user_revisit_counters:{features.USER_COUNTERS[0]}"],
        [{"user_id": user} for user in (404, 2, 1)],
    )
    assert response.to_dict()["sequence_pin_id"] == [None, [], [12, 11]]
    assert response.to_dict()[features.USER_COUNTERS[0]] == [None, 0, 100]
    for name in ("sequence_pin_id", features.USER_COUNTERS[0]):
        assert statuses(response, name) == [FieldStatus.NOT_FOUND, FieldStatus.PRESENT, FieldStatus.PRESENT]


def test_event_timestamp_is_the_as_of(store: FeatureStore, reader: FakeReader) -> None:
    response = store.get_online_features(["user_action_sequence:sequence_pin_id"], [{"user_id": 1}, {"user_id": 404}])
    stamps = response.proto.results[-1].event_timestamps
    assert stamps[0].ToDatetime(UTC) == datetime.fromtimestamp(T0 // 1000, UTC) + timedelta(milliseconds=T0 % 1000)
    assert stamps[1].ToNanoseconds() == 0


def test_reading_as_of(store: FeatureStore, reader: FakeReader) -> None:
    def pins() -> Any:
        return store.get_online_features(["user_action_sequence:sequence_pin_id"], [{"user_id": 1}]).to_dict()["sequence_pin_id"][0]

    with reading_as_of(T0 - 1):
        assert pins() == [11]
        with reading_as_of(T0 - 5001):
            assert pins() == []
        with reading_as_of(None):
            assert pins() == [12, 11]
        assert pins() == [11]
    assert pins() == [12, 11]
    assert [at for _, _, at in reader.asked] == [T0 - 1, T0 - 5001, T0, T0 - 1, T0]


@pytest.mark.parametrize("wrong", [-1, 253_402_300_800_000, 1.5, "1790000000000", True])
def test_reading_as_of_what_is_no_time(wrong: Any) -> None:
    with pytest.raises(FeastReadError, match="as_of"), reading_as_of(wrong):
        pass


def test_as_of_holds_in_its_own_thread_only(store: FeatureStore, reader: FakeReader) -> None:
    def elsewhere() -> None:
        store.get_online_features(["user_action_sequence:sequence_pin_id"], [{"user_id": 1}])

    with reading_as_of(5):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert [at for _, _, at in reader.asked] == [T0]


def test_async_read_takes_the_as_of_along(store: FeatureStore, reader: FakeReader) -> None:
    async def read() -> Any:
        with reading_as_of(T0 - 1):
            return await store.get_online_features_async(["user_action_sequence:sequence_pin_id"], [{"user_id": 1}])

    assert asyncio.run(read()).to_dict()["sequence_pin_id"] == [[11]]


def test_a_catch_up_is_not_shared_by_coroutines(store: FeatureStore, reader: FakeReader) -> None:
    async def other() -> None:
        user_features(store, 1)

    async def spans_an_await() -> None:
        task = asyncio.create_task(other())  # its context is from before the catch-up
        with one_catch_up(store):
            await asyncio.sleep(0)
        await task

    with pytest.raises(RuntimeError, match="must not span an await"):
        asyncio.run(spans_an_await())
    assert user_features(store, 1)["found"]


def test_nothing_accepted_yet(store: FeatureStore, reader: FakeReader) -> None:
    reader.as_of = None
    got = store.get_online_features(["user_action_sequence:sequence_pin_id"], [{"user_id": 1}]).to_dict()
    assert got["sequence_pin_id"] == [None]
    assert reader.asked == []
    assert user_features(store, 1)["as_of"] is None


def test_a_request_for_several_views_catches_up_once(store: FeatureStore, reader: FakeReader) -> None:
    store.get_online_features(
        store.get_feature_service("ranking_v1"), [{"user_id": 1, "pin_id": 5, "topic": "käse"}], full_feature_names=True
    )
    assert reader.refreshed == 1
    assert {(method, count) for method, count, _ in reader.asked} == {
        ("user_sequences", 1),
        ("user_counters", 1),
        ("pin_counters", 1),
        ("topic_stats", 1),
    }


def test_positions_are_those_of_the_values(store: FeatureStore, reader: FakeReader) -> None:
    with one_catch_up(store) as caught:
        store.get_online_features(["user_action_sequence:sequence_pin_id"], [{"user_id": 1}])
        store.get_online_features(["user_action_sequence:sequence_pin_id"], [{"user_id": 2}])
        assert caught.positions == {"actions/0": 101}
        assert caught.default_as_of == T0
    assert reader.refreshed == 1
    assert user_features(store, 1)["positions"] == {"actions/0": 102}


def test_five_hundred_entities_are_one_read(store: FeatureStore, reader: FakeReader) -> None:
    asked = [*range(499, 0, -1), 0, 2000, 7]  # any order, one missing, one twice
    got = store.get_online_features(store.get_feature_service("ranking_v1_candidate"), [{"pin_id": pin} for pin in asked]).to_dict()
    assert reader.asked == [("pin_counters", 501, T0)]
    assert got["pin_id"] == asked
    for place, name in enumerate(features.PIN_COUNTERS):
        assert got[name] == [None if pin == 2000 else pin * 24 + place for pin in asked]


def test_no_entities(store: FeatureStore, reader: FakeReader) -> None:
    # `get_online_features` raises a KeyError of Feast's own for an empty request; the store beneath it needn't.
    online = TaskStateOnlineStore()
    assert online.online_read(store.config, store.get_feature_view("pin_revisit_counters"), []) == []
    assert reader.asked == []


def test_online_read_gives_all_features_unless_told_which(store: FeatureStore, reader: FakeReader) -> None:
    online = TaskStateOnlineStore()
    key = EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=1)])
    for view in ("user_action_sequence", "user_revisit_counters"):
        table = store.get_feature_view(view)
        ((at, row),) = online.online_read(store.config, table, [key])
        assert at == datetime.fromtimestamp(T0 // 1000, UTC) + timedelta(milliseconds=T0 % 1000)
        assert row is not None
        assert list(row) == [f.name for f in table.features]


@pytest.mark.parametrize("view", sorted(VIEWS))
def test_writes_through_feast_are_refused(store: FeatureStore, reader: FakeReader, view: str) -> None:
    (key,) = store.get_feature_view(view).join_keys
    row = {key: ["x" if key == "topic" else 1], "event_timestamp": [datetime.now(UTC)]}
    for f in store.get_feature_view(view).features:
        row[f.name] = [[] if "Array" in str(f.dtype) else 0.0 if "Float" in str(f.dtype) else 1]
    with pytest.raises(StateIsWrittenByItsLogError, match=f"'{view}'.*written by its log alone.*tidemark run"):
        store.write_to_online_store(view, pd.DataFrame(row))
    with pytest.raises(StateIsWrittenByItsLogError, match=f"'{view}': materialize is refused"):
        store.materialize(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC), feature_views=[view])
    with pytest.raises(StateIsWrittenByItsLogError):
        asyncio.run(store.write_to_online_store_async(view, pd.DataFrame(row)))


def test_materialize_incremental_is_refused(store: FeatureStore) -> None:
    with pytest.raises(StateIsWrittenByItsLogError, match="flows keep it current"):
        store.materialize_incremental(datetime(2026, 2, 1, tzinfo=UTC))


def test_teardown_keeps_task_state(
    store: FeatureStore, settings: Settings, opened: list[FakeReader], caplog: pytest.LogCaptureFixture
) -> None:
    settings.state.mkdir()
    (settings.state / "CURRENT").write_text("all there is")
    with caplog.at_level(logging.WARNING):
        store.teardown()
    assert (settings.state / "CURRENT").read_text() == "all there is"
    assert str(settings.state) in caplog.text
    assert "kept" in caplog.text
    assert opened == []
    assert {view.name for view in open_store(settings).list_feature_views()} == VIEWS


def test_a_key_of_another_type_is_an_error_and_not_entity_zero(store: FeatureStore, reader: FakeReader) -> None:
    reader.sequences[0] = [(1, SAVE, HOMEFEED, T0, 0)]
    table = store.get_feature_view("user_action_sequence")
    for wrong in (Value(string_val="7"), Value(double_val=7.0), Value()):
        key = EntityKey(join_keys=["user_id"], entity_values=[wrong])
        with pytest.raises(FeastReadError, match="entity key user_id"):
            TaskStateOnlineStore().online_read(store.config, table, [key])


def test_a_view_that_is_not_task_state(store: FeatureStore, reader: FakeReader) -> None:
    with pytest.raises(FeastReadError, match="'other' is not in task state"):
        TaskStateOnlineStore().online_read(store.config, FeatureView(name="other"), [])


def test_a_code_that_the_vocabulary_lacks(store: FeatureStore, reader: FakeReader) -> None:
    reader.sequences[1] = [(1, 99, HOMEFEED, T0, 0)]
    with pytest.raises(SettingsError, match="action code 99"):
        user_features(store, 1)


def test_declared_actions_are_named(tmp_path: Path, opened: list[FakeReader]) -> None:
    vocabulary = tmp_path / "vocabulary.toml"
    vocabulary.write_text("[actions]\nzoom = 40\n")
    settings = Settings(data=tmp_path / "data", vocabulary=vocabulary)
    store = open_store(settings)
    readers.shared_reader(settings)
    opened[0].sequences[1] = [(1, 40, HOMEFEED, T0, 0)]
    assert user_features(store, 1)["sequence"][0]["action"] == "zoom"
    with pytest.raises(SettingsError, match="is open in this process with vocabulary"):
        user_features(open_store(Settings(data=settings.data)), 1)


def test_one_reader_per_data_directory(tmp_path: Path, opened: list[FakeReader], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for data in (tmp_path / "a", Path("a"), tmp_path / "b" / ".." / "a", tmp_path / "b"):
        user_features(open_store(Settings(data=data)), 1)
    assert len(opened) == 2
    readers.close_readers()
    assert all(reader.closed for reader in opened)


@pytest.mark.parametrize("name", ["allowed_lateness_ms", "partitions"])
def test_settings_that_decide_values_are_one_per_data_directory(
    store: FeatureStore, reader: FakeReader, settings: Settings, name: str
) -> None:
    same = dataclasses.replace(settings, batch_records=7, anchor_records=8)
    assert user_features(open_store(same), 1)["found"]
    changed: dict[str, Any] = {name: 3}
    with pytest.raises(SettingsError, match=f"is open in this process with {name}"):
        user_features(open_store(dataclasses.replace(settings, **changed)), 1)


def test_user_features(store: FeatureStore, reader: FakeReader) -> None:
    assert user_features(store, 1) == {
        "user_id": 1,
        "found": True,
        "as_of": T0,
        "sequence": [
            {"pin_id": 12, "action": "click", "surface": "search", "event_time": T0, "duration_ms": 1500},
            {"pin_id": 11, "action": "save", "surface": "homefeed", "event_time": T0 - 5000, "duration_ms": 0},
        ],
        "counters": dict(zip(features.USER_COUNTERS, range(100, 124), strict=True)),
        "positions": {"actions/0": 101},
    }
    earlier = user_features(store, 1, T0 - 1)
    assert earlier["as_of"] == T0 - 1
    assert [action["pin_id"] for action in earlier["sequence"]] == [11]


def test_missing_entities_as_dicts(store: FeatureStore, reader: FakeReader) -> None:
    zeros = dict.fromkeys(features.USER_COUNTERS, 0)
    missing = user_features(store, 404)
    assert (missing["found"], missing["sequence"], missing["counters"]) == (False, [], zeros)
    only_a_sequence = user_features(store, -(2**63))
    assert (only_a_sequence["found"], only_a_sequence["counters"]) == (True, zeros)
    pin = pin_features(store, 2000)
    assert (pin["found"], pin["counters"]) == (False, dict.fromkeys(features.PIN_COUNTERS, 0))
    topic = topic_features(store, "none")
    assert (topic["found"], set(topic["statistics"].values())) == (False, {0})
    assert all(type(topic["statistics"][name]) is (float if kind == "float64" else int) for name, kind in features.TOPIC_STATS)


def test_pin_and_topic_features(store: FeatureStore, reader: FakeReader) -> None:
    assert list(pin_features(store, 3)["counters"].items()) == list(zip(features.PIN_COUNTERS, range(72, 96), strict=True))
    assert topic_features(store, "käse")["statistics"]["click_rate_30d"] == 2 / 3


def test_feast_returns_what_the_reader_of_real_state_does(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data", partitions=2)
    events = random_stream(3, 3000, partitions=2, users=60, pins=80, days=60)
    rng = np.random.default_rng(3)
    driving.write(settings, events, rng)
    driving.apply(settings, rng)
    users = np.unique(events["user_id"].to_numpy())
    pins = np.unique(events["pin_id"].to_numpy())
    topics = [*sorted({topic for topic in events["topic"] if topic}), "there is none"]
    store = open_store(settings)
    try:
        with FeatureReader(settings) as direct:
            latest = direct.default_as_of()
            assert latest is not None
            for as_of in (None, latest - 20 * 86_400_000):
                with reading_as_of(as_of):
                    got = store.get_online_features(store.get_feature_service("ranking_v1_user"), {"user_id": users.tolist()}).to_dict()
                    by_pin = store.get_online_features(
                        store.get_feature_service("ranking_v1_candidate"), {"pin_id": pins.tolist()}
                    ).to_dict()
                    names = [f"topic_revisit_stats:{name}" for name, _ in features.TOPIC_STATS]
                    by_topic = store.get_online_features(names, {"topic": topics}).to_dict()
                sequences = direct.user_sequences(users, as_of)
                assert sequences.found.any()
                words = settings.load_vocabulary().action_names()
                for i, (start, end) in enumerate(zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True)):
                    expected = sequences.pin_id[start:end].tolist() if sequences.found[i] else None
                    assert got["sequence_pin_id"][i] == expected
                    assert got["sequence_event_time"][i] == (expected and sequences.event_time[start:end].tolist())
                    assert got["sequence_action"][i] == (expected and [words[int(code)] for code in sequences.action[start:end]])
                for answer, rows, declared in (
                    (got, direct.user_counters(users, as_of), features.USER_COUNTERS),
                    (by_pin, direct.pin_counters(pins, as_of), features.PIN_COUNTERS),
                    (by_topic, direct.topic_stats(topics, as_of), [name for name, _ in features.TOPIC_STATS]),
                ):
                    assert rows.found.any()
                    for place, name in enumerate(declared):
                        assert answer[name] == [
                            v if found else None for v, found in zip(rows.values[:, place].tolist(), rows.found, strict=True)
                        ]
            assert user_features(store, int(users[0]))["positions"] == direct.positions()
            assert user_features(store, int(users[0]))["as_of"] == latest
    finally:
        readers.close_readers()


def feast_command(data: Path, *arguments: str, cwd: Path = REPOSITORY, **variables: str) -> subprocess.CompletedProcess[str]:
    """The `feast` command in the repository."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMARK_")}
    environment = {**inherited, "PYTHONPATH": str(REPOSITORY.parent), "TIDEMARK_DATA": str(data), **variables}
    # The command itself is `from feast.cli.cli import cli; cli()`; our import before it saves seconds.
    command = [sys.executable, "-c", "import feature_repo; from feast.cli.cli import cli; cli()", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_feast_apply_sees_the_definitions_alone() -> None:
    assert [path.name for path in get_repo_files(REPOSITORY)] == ["definitions.py"]


def test_feast_command(tmp_path: Path) -> None:
    applied = feast_command(tmp_path / "data", "apply")
    assert applied.returncode == 0, applied.stderr
    assert "WARNING" not in applied.stderr
    assert os.listdir(tmp_path / "data") == ["registry.db"]
    listed = feast_command(Path("data"), "--chdir", str(REPOSITORY), "feature-views", "list", cwd=tmp_path)
    assert all(view in listed.stdout for view in VIEWS), listed.stderr
    refused = feast_command(tmp_path / "data", "materialize-incremental", "2026-02-01T00:00:00")
    assert refused.returncode != 0
    assert "flows keep it current" in refused.stderr
    # Both ways of opening agree on what is applied.
    before = (tmp_path / "data" / "registry.db").read_bytes()
    open_store(Settings(data=tmp_path / "data"))
    assert (tmp_path / "data" / "registry.db").read_bytes() == before


def test_where_the_repository_looks_for_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from feature_repo import repository

    for name in [name for name in os.environ if name.startswith("TIDEMARK_")]:
        monkeypatch.delenv(name)
    project, shell = tmp_path / "project", tmp_path / "shell"
    for directory in (project / "feature_repo", shell):
        directory.mkdir(parents=True)
    monkeypatch.setattr(repository, "REPOSITORY", project / "feature_repo")
    monkeypatch.setattr(repository, "_LAUNCHED_IN", shell)
    monkeypatch.chdir(project / "feature_repo")  # as `feast apply` does

    assert repository.repository_settings().data == project / "data"
    (project / "tidemark.toml").write_text('data = "elsewhere"\npartitions = 3\n')
    assert repository.repository_settings() == Settings(data=project / "elsewhere", partitions=3)
    (shell / "own.toml").write_text("partitions = 5\n")
    monkeypatch.setenv("TIDEMARK_CONFIG", "own.toml")
    assert repository.repository_settings() == Settings(data=project / "data", partitions=5)
    monkeypatch.setenv("TIDEMARK_DATA", "data")
    assert repository.repository_settings().data == shell / "data"
    monkeypatch.setenv("TIDEMARK_DATA", str(tmp_path / "absolute"))
    assert repository.repository_settings().data == tmp_path / "absolute"


def test_importing_this_package_leaves_torch_and_warning_filters_alone() -> None:
    program = (
        "import sys, types, warnings; before = list(warnings.filters); import feature_repo, typeguard, feast;"
        "assert 'torch' not in sys.modules; assert list(warnings.filters) == before;"
        "assert typeguard.typechecked.__module__.startswith('typeguard');"
        "sys.modules['torch'] = types.ModuleType('torch'); "
        "from feast.online_response import get_torch; assert get_torch() is sys.modules['torch']"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_definitions_need_no_file(tmp_path: Path) -> None:
    assert len(definitions(tmp_path / "absent").objects()) == 1 + 3 + 4 + 3
    assert not (tmp_path / "absent").exists()


def test_project(store: FeatureStore) -> None:
    assert store.project == PROJECT == "tidemark"
    assert isinstance(store.config, RepoConfig)
    assert store.config.entity_key_serialization_version == 3
    assert load_settings(data="x").registry.name == "registry.db"
