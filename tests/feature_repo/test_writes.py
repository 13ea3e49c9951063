"""Nobody writes through Feast; materialising says what the views reflect."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

import pandas as pd
import pytest
from feast import FeatureStore
from feast.errors import PushSourceNotFoundException

from feature_repo.errors import StateIsWrittenByItsLogError
from feature_repo.reading import open_store
from flows.settings import Settings
from tests.feature_repo.fake import T0, VIEWS, FakeReader


@pytest.mark.parametrize("view", sorted(VIEWS))
def test_writes_through_feast_are_refused(store: FeatureStore, reader: FakeReader, view: str) -> None:
    (key,) = store.get_feature_view(view).join_keys
    row = {key: ["x" if key == "topic" else 1], "event_timestamp": [datetime.now(UTC)]}
    for f in store.get_feature_view(view).features:
        row[f.name] = [[] if "Array" in str(f.dtype) else 0.0 if "Float" in str(f.dtype) else 1]
    with pytest.raises(StateIsWrittenByItsLogError, match=f"'{view}'.*written by its log alone.*tidemark run"):
        store.write_to_online_store(view, pd.DataFrame(row))
    with pytest.raises(StateIsWrittenByItsLogError):
        asyncio.run(store.write_to_online_store_async(view, pd.DataFrame(row)))


@pytest.mark.parametrize("view", sorted(VIEWS))
def test_there_is_nothing_to_push_to(store: FeatureStore, view: str) -> None:
    with pytest.raises(PushSourceNotFoundException, match=view):
        store.push(view, pd.DataFrame({"user_id": [1]}))


def test_a_frame_that_lacks_columns_is_written_nowhere_either(store: FeatureStore, opened: list[FakeReader]) -> None:
    """Feast looks at it before any of our code is asked."""
    with pytest.raises(KeyError, match="sequence_pin_id"):
        store.write_to_online_store("user_action_sequence", pd.DataFrame({"user_id": [1]}))
    assert opened == []


@pytest.mark.parametrize("view", sorted(VIEWS))
def test_materialising_writes_nothing_and_says_what_a_view_reflects(
    store: FeatureStore, reader: FakeReader, view: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store.materialize(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC), feature_views=[view])
    said = capsys.readouterr().out
    reflects = "revisits/0: 7" if view == "pin_revisit_counters" else "actions/0: 101"
    assert f"{view}: nothing to write, the flows keep it current (`tidemark run`); it reflects the positions {reflects}" in said
    assert f"as of 2026-09-21 14:13 UTC ({T0})" in said
    assert reader.asked == []


def test_materialize_incremental_says_it_of_all_views_as_often_as_it_is_called(
    store: FeatureStore, reader: FakeReader, capsys: pytest.CaptureFixture[str]
) -> None:
    reader.as_of = None
    for month in (2, 2, 3):
        store.materialize_incremental(datetime(2026, month, 1, tzinfo=UTC))
        said = capsys.readouterr().out
        assert all(f"{view}: nothing to write" in said for view in VIEWS)
        assert said.count("nothing was accepted yet") == len(VIEWS)


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
