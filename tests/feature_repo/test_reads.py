"""What Feast returns is what the reader said: values, types, times, and what is missing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from feast import FeatureStore, FeatureView
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from feature_repo import readers
from feature_repo.errors import FeastReadError
from feature_repo.online_store import TaskStateOnlineStore, reading_as_of
from feature_repo.reading import open_store, pin_features, topic_features, user_features
from flows import features
from flows.errors import SettingsError
from flows.reading import FeatureReader
from flows.settings import Settings
from tests import driving
from tests.feature_repo.fake import HOMEFEED, T0, FakeReader, statuses
from tests.strategies import random_stream


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


def test_nothing_accepted_yet(store: FeatureStore, reader: FakeReader) -> None:
    reader.as_of = None
    got = store.get_online_features(["user_action_sequence:sequence_pin_id"], [{"user_id": 1}]).to_dict()
    assert got["sequence_pin_id"] == [None]
    assert reader.asked == []
    assert user_features(store, 1)["as_of"] is None


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
        "positions": {"actions": [101], "revisits": [7]},
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
