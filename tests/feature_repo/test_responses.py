"""Responses over arrays say what Feast's own response over the same values says, in every form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast import FeatureStore
from feast.infra.online_stores.online_store import OnlineStore
from feast.online_response import OnlineResponse

from feature_repo.online_store import TaskStateOnlineStore, reading_as_of
from feature_repo.response import ArrayResponse
from flows import features
from tests.feature_repo.fake import T0, FakeReader

TOPICS = [f"topic_revisit_stats:{name}" for name, _ in features.TOPIC_STATS]
REQUESTS: list[tuple[Any, Any, bool]] = [
    ("ranking_v1_user", {"user_id": [1, 404, 2, -(2**63), 1]}, False),
    ("ranking_v1_user", {"user_id": [404]}, True),
    ("ranking_v1_candidate", {"pin_id": [*range(999, 900, -1), 5000, 999]}, False),
    ("ranking_v1", {"topic": ["käse", "", "käse"], "user_id": [1, 2, 1], "pin_id": [1, 2000, 1]}, True),
    (TOPICS, [{"topic": "käse"}, {"topic": "none"}], False),
    ([TOPICS[3], *reversed(TOPICS[:2])], {"topic": ["käse"]}, True),
    (["user_revisit_counters:revisits_click_rp_7d_pins", "user_action_sequence:sequence_action"], {"user_id": [2, 1]}, False),
]


def both(store: FeatureStore, wanted: Any, rows: Any, full: bool) -> tuple[OnlineResponse, OnlineResponse]:
    """Ours, and that of the code in Feast that ours takes the place of."""
    wanted = store.get_feature_service(wanted) if isinstance(wanted, str) else wanted
    ours = store.get_online_features(wanted, rows, full_feature_names=full)
    theirs = OnlineStore.get_online_features(TaskStateOnlineStore(), store.config, wanted, rows, store.registry, store.project, full)
    return ours, theirs


@pytest.mark.parametrize(("wanted", "rows", "full"), REQUESTS)
@pytest.mark.parametrize("as_of", [None, 0, T0 - 1])
def test_every_form(store: FeatureStore, reader: FakeReader, wanted: Any, rows: Any, full: bool, as_of: int | None) -> None:
    with reading_as_of(as_of):
        ours, theirs = both(store, wanted, rows, full)
    assert isinstance(ours, ArrayResponse)
    assert not isinstance(theirs, ArrayResponse)
    for stamps in (False, True):
        got, want = ours.to_dict(stamps), theirs.to_dict(stamps)
        assert got == want
        assert list(got) == list(want)
        assert all(type(a) is type(b) for name in want for a, b in zip(got[name], want[name], strict=True))
        assert ours.to_df(stamps).equals(theirs.to_df(stamps))
    table: pa.Table = ours.to_arrow()
    assert table.equals(theirs.to_arrow())
    assert ours.proto == theirs.proto
    assert ours._feature_types == theirs._feature_types


def test_nothing_accepted_yet(store: FeatureStore, reader: FakeReader) -> None:
    reader.as_of = None
    ours, theirs = both(store, "ranking_v1_candidate", {"pin_id": [1, 2]}, False)
    assert ours.proto == theirs.proto
    assert ours.to_dict(True) == theirs.to_dict(True)


def test_an_answer_is_the_callers_own(store: FeatureStore, reader: FakeReader) -> None:
    response = store.get_online_features(["user_action_sequence:sequence_pin_id"], {"user_id": [1, 1]})
    for got in (response.to_dict(), response.to_dict()):
        assert got["sequence_pin_id"] == [[12, 11], [12, 11]]
        got["sequence_pin_id"][0].clear()
        got["user_id"].clear()


def test_an_entity_that_is_named_often_is_read_once(store: FeatureStore, reader: FakeReader) -> None:
    pins = list(range(500))
    rows = [{"user_id": 1, "pin_id": pin, "topic": "käse"} for pin in pins]
    got = store.get_online_features(store.get_feature_service("ranking_v1"), rows, full_feature_names=True).to_dict()
    assert sorted(reader.asked) == [("pin_counters", 500, T0), ("topic_stats", 1, T0), ("user_counters", 1, T0), ("user_sequences", 1, T0)]
    assert got["user_action_sequence__sequence_pin_id"] == [[12, 11]] * 500
    assert got["pin_revisit_counters__" + features.PIN_COUNTERS[1]] == [pin * 24 + 1 for pin in pins]


def test_feasts_metrics_go_on_counting(store: FeatureStore, reader: FakeReader, monkeypatch: pytest.MonkeyPatch) -> None:
    from feast import metrics

    monkeypatch.setattr(metrics._config, "online_features", True)
    counted: list[tuple[str, int, int]] = []
    monkeypatch.setattr(metrics, "track_feature_statuses", lambda view, present, missing: counted.append((view, present, missing)))
    response = store.get_online_features(["user_action_sequence:sequence_pin_id"], {"user_id": np.array([1, 404])})
    assert counted == [("user_action_sequence", 1, 1)]
    assert response.to_dict()["sequence_pin_id"] == [[12, 11], None]
