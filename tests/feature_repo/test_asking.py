"""What a request may say, and what it may not: one clear line, before anything is read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from feast import FeatureStore
from feast.errors import FeatureNameCollisionError, FeatureServiceNotFoundException, FeatureViewNotFoundException
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value

from feature_repo.errors import FeastReadError, OtherFingerprintError
from feature_repo.online_store import TaskStateOnlineStore
from feature_repo.reading import open_store
from flows import features
from flows.settings import Settings
from tests.feature_repo.fake import HOMEFEED, SAVE, T0, FakeReader


def test_a_key_of_another_type_is_an_error_and_not_entity_zero(store: FeatureStore, reader: FakeReader) -> None:
    reader.sequences[0] = [(1, SAVE, HOMEFEED, T0, 0)]
    table = store.get_feature_view("user_action_sequence")
    for wrong in (Value(string_val="7"), Value(double_val=7.0), Value()):
        key = EntityKey(join_keys=["user_id"], entity_values=[wrong])
        with pytest.raises(FeastReadError, match="entity key user_id"):
            TaskStateOnlineStore().online_read(store.config, table, [key])


SEQUENCE = ["user_action_sequence:sequence_pin_id"]
COUNTER = [f"pin_revisit_counters:{features.PIN_COUNTERS[0]}"]
TOPIC = ["topic_revisit_stats:saves_7d_count"]


def asked(store: FeatureStore, wanted: Any, rows: Any) -> dict[str, Any]:
    got: dict[str, Any] = store.get_online_features(wanted, rows).to_dict()
    return got


@pytest.mark.parametrize(
    ("wanted", "rows", "message"),
    [
        (SEQUENCE, [{"user_id": "abc"}], "row 0: user_id is 'abc' (str); an ID is a whole number"),
        # Ingested, these are texts: other entities than 7 and 0.
        (SEQUENCE, [{"user_id": "007"}], "row 0: user_id is '007' (str); an ID is a whole number"),
        (SEQUENCE, [{"user_id": "-0"}], "row 0: user_id is '-0' (str); an ID is a whole number"),
        (SEQUENCE, [{"user_id": 1}, {"user_id": 7.5}], "row 1: user_id is 7.5 (float)"),
        (SEQUENCE, [{"user_id": 7.0}], "user_id is 7.0 (float)"),
        (SEQUENCE, [{"user_id": float("nan")}], "user_id is nan (float)"),
        (SEQUENCE, [{"user_id": True}], "user_id is True (bool)"),
        (SEQUENCE, [{"user_id": None}], "user_id is None (NoneType)"),
        (SEQUENCE, [{"user_id": b"7"}], "user_id is b'7' (bytes)"),
        (SEQUENCE, [{"user_id": "٧"}], "user_id is '٧' (str)"),
        (SEQUENCE, [{"user_id": 1}, {"user_id": 2**63}], "row 1: user_id is 9223372036854775808 (int); an ID has 64 bits"),
        (SEQUENCE, {"user_id": np.array([1.0])}, "user_id is 1.0 (float)"),
        (TOPIC, [{"topic": 3}], "row 0: topic is 3 (int); a topic is text"),
        (TOPIC, {"topic": ["a", None]}, "row 1: topic is None (NoneType)"),
        (SEQUENCE, [], "entity rows are empty"),
        (SEQUENCE, {"user_id": []}, "entity rows are empty: name at least one user_id"),
        (SEQUENCE, [{"pin_id": 3}], "entity rows have pin_id and lack user_id"),
        (SEQUENCE, [{}], "entity rows have no key and lack user_id"),
        (SEQUENCE + COUNTER, [{"user_id": 3}], "entity rows have user_id and lack pin_id"),
        (SEQUENCE, [{"user_id": 3}, {"user_id": 4, "x": 1}], "entity row 1 has user_id, x, and row 0 user_id"),
        (SEQUENCE + COUNTER, {"user_id": [1, 2], "pin_id": [1]}, "user_id, pin_id differ in length"),
        (SEQUENCE, "user_id", "entity rows came as str"),
        (SEQUENCE, None, "entity rows came as NoneType"),
        (SEQUENCE, [7], "entity rows must each be"),
        (SEQUENCE[0], [{"user_id": 3}], "features came as str; give a list"),
        (["user_action_sequence:sequence_pin"], [{"user_id": 3}], "has no feature 'sequence_pin' (did you mean 'sequence_pin_id'?)"),
    ],
)
def test_a_request_that_is_wrong_is_one_clear_line(store: FeatureStore, reader: FakeReader, wanted: Any, rows: Any, message: str) -> None:
    with pytest.raises(FeastReadError) as error:
        asked(store, wanted, rows)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.http_status_code() == 400
    assert reader.asked == []


def test_what_feast_itself_refuses(store: FeatureStore, reader: FakeReader) -> None:
    with pytest.raises(FeatureViewNotFoundException, match="nope does not exist in project tidemark"):
        asked(store, ["nope:nope"], [{"user_id": 3}])
    with pytest.raises(FeatureServiceNotFoundException, match="ranking_v9 does not exist in project tidemark"):
        store.get_feature_service("ranking_v9")
    both = [f"{view}:{features.PIN_COUNTERS[0]}" for view in ("user_revisit_counters", "pin_revisit_counters")]
    with pytest.raises(FeatureNameCollisionError):
        asked(store, both, [{"user_id": 3, "pin_id": 3}])


@pytest.mark.parametrize(
    "rows",
    [
        [{"user_id": 1}, {"user_id": 404}],
        [{"user_id": "1"}, {"user_id": "404"}],  # as JSON carries IDs past 2^53
        [{"user_id": np.int64(1)}, {"user_id": 404}],
        [{"user_id": np.uint8(1), "note": "x"}, {"user_id": 404, "note": None}],
        {"user_id": [1, 404]},
        {"user_id": (1, 404)},
        {"user_id": np.array([1, 404])},
        {"user_id": [Value(int64_val=1), Value(int64_val=404)]},
        {"user_id": RepeatedValue(val=[Value(int64_val=1), Value(int64_val=404)])},
    ],
)
def test_forms_of_a_request(store: FeatureStore, reader: FakeReader, rows: Any) -> None:
    assert asked(store, SEQUENCE, rows) == {"user_id": [1, 404], "sequence_pin_id": [[12, 11], None]}


def test_the_name_of_an_entity_for_its_key(store: FeatureStore, reader: FakeReader) -> None:
    with pytest.warns(UserWarning, match="entity name is deprecated"):
        assert asked(store, SEQUENCE, [{"user": 1}])["sequence_pin_id"] == [[12, 11]]


@pytest.mark.parametrize("applied", [{"tidemark.fingerprint": "0123456789abcdef"}, {}])
def test_a_registry_of_other_definitions_is_not_read_through(
    store: FeatureStore, reader: FakeReader, settings: Settings, applied: dict[str, str]
) -> None:
    view = store.get_feature_view("user_action_sequence")
    view.tags = applied
    store.apply(view)
    for wanted in (SEQUENCE, store.get_feature_service("ranking_v1_user")):
        with pytest.raises(
            OtherFingerprintError, match=r"'user_action_sequence' was applied .* under other definitions .*feature_repo apply"
        ):
            asked(store, wanted, [{"user_id": 1}])
    with pytest.raises(OtherFingerprintError):
        TaskStateOnlineStore().online_read(store.config, view, [])
    with pytest.raises(OtherFingerprintError):
        store.materialize_incremental(datetime(2026, 2, 1, tzinfo=UTC), ["user_action_sequence"])
    assert reader.asked == []
    # The views that were not touched are read on; and applied again, so is this one.
    assert asked(store, COUNTER, [{"pin_id": 1}])["pin_id"] == [1]
    assert asked(open_store(settings), SEQUENCE, [{"user_id": 1}])["sequence_pin_id"] == [[12, 11]]
