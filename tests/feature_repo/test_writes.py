"""Nobody writes through Feast; materialising says what the views reflect."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource, RepoConfig, ValueType
from feast.data_source import PushMode
from feast.errors import PushSourceNotFoundException
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from feast.types import Int64

from feature_repo.errors import StateIsWrittenByItsLogError
from feature_repo.reading import open_store
from flows.settings import Settings
from tests.feature_repo.fake import ALL_VIEWS, T0, VIEWS, FakeReader


def rows_of(store: FeatureStore, view: str) -> pd.DataFrame:
    """A frame that Feast finds nothing wrong with."""
    (key,) = store.get_feature_view(view).join_keys
    row = {key: ["x" if key == "topic" else 1], "event_timestamp": [datetime.now(UTC)]}
    for f in store.get_feature_view(view).features:
        row[f.name] = [[] if "Array" in str(f.dtype) else 0.0 if "Float" in str(f.dtype) else 1]
    return pd.DataFrame(row)


FRAMES: dict[str, Callable[[pd.DataFrame], Any]] = {
    "complete": lambda frame: frame,
    "lacks features": lambda frame: frame.iloc[:, :2],
    "no rows": lambda frame: frame.iloc[:0],
    "no columns": lambda _: pd.DataFrame(),
    "no values": lambda frame: frame.assign(**dict.fromkeys(frame.columns[2:])),
    "unknown columns": lambda frame: frame.assign(more=1),
    "no frame": lambda _: None,
}
WRITES: dict[str, Callable[[FeatureStore, str, Any], Any]] = {
    "push": lambda store, view, frame: store.push(view, frame),
    "push offline": lambda store, view, frame: store.push(view, frame, to=PushMode.OFFLINE),
    "push to both": lambda store, view, frame: store.push(push_source_name=view, df=frame, to=PushMode.ONLINE_AND_OFFLINE),
    "push_async": lambda store, view, frame: asyncio.run(store.push_async(view, frame)),
    "push_async to both": lambda store, view, frame: asyncio.run(store.push_async(view, frame, to=PushMode.ONLINE_AND_OFFLINE)),
    "write online": lambda store, view, frame: store.write_to_online_store(view, frame),
    "write online, named": lambda store, view, frame: store.write_to_online_store(feature_view_name=view, df=frame),
    "write online, async": lambda store, view, frame: asyncio.run(store.write_to_online_store_async(view, frame)),
    "write offline": lambda store, view, frame: store.write_to_offline_store(view, frame),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("view", sorted(VIEWS))
def test_writes_through_feast_are_refused_whatever_the_frame(store: FeatureStore, opened: list[FakeReader], view: str, write: str) -> None:
    for frame in FRAMES.values():
        with pytest.raises(StateIsWrittenByItsLogError, match=f"'{view}'.*written by its log alone.*tidemark run"):
            WRITES[write](store, view, frame(rows_of(store, view)))
    assert opened == []


@pytest.mark.parametrize("view", sorted(VIEWS))
def test_the_stores_themselves_refuse_too(store: FeatureStore, view: str) -> None:
    """Feast's server of offline stores, and whoever has a provider, ask them alone."""
    provider, table = store._get_provider(), store.get_feature_view(view)
    with pytest.raises(StateIsWrittenByItsLogError):
        provider.ingest_df(table, rows_of(store, view))
    with pytest.raises(StateIsWrittenByItsLogError):
        asyncio.run(provider.ingest_df_async(table, rows_of(store, view)))
    with pytest.raises(StateIsWrittenByItsLogError):
        provider.offline_store.offline_write_batch(store.config, table, pa.table({}), None)


def test_each_view_has_a_push_source_that_says_that_it_is_refused(store: FeatureStore) -> None:
    sources = {source.name: source for source in store.list_data_sources() if isinstance(source, PushSource)}
    assert sources.keys() == ALL_VIEWS
    for source in sources.values():
        assert "Written by its log alone: a push is refused" in source.description
    for view in store.list_feature_views():
        assert (view.stream_source, view.batch_source) == (sources[view.name], sources[view.name].batch_source)


def test_a_registry_from_before_there_were_push_sources_is_told_the_same(
    store: FeatureStore, settings: Settings, reader: FakeReader
) -> None:
    registry = RegistryProto.FromString(settings.registry.read_bytes())
    for view in registry.feature_views:
        view.spec.ClearField("stream_source")
    kept = [source for source in registry.data_sources if source.type != DataSourceProto.PUSH_SOURCE]
    del registry.data_sources[:]
    registry.data_sources.extend(kept)
    settings.registry.write_bytes(registry.SerializeToString())
    # As Feast's commands and servers open it.
    old = FeatureStore(config=store.config)
    assert [view.stream_source for view in old.list_feature_views()] == [None] * len(ALL_VIEWS)
    for view in VIEWS:
        with pytest.raises(StateIsWrittenByItsLogError, match=f"'{view}': a push is refused"):
            old.push(view, pd.DataFrame())
    name = "revisits_click_all_7d_count"
    assert old.get_online_features([f"pin_revisit_counters:{name}"], [{"pin_id": 3}]).to_dict()[name] != [None]
    # `open_store` brings it up to date.
    assert {view.name for view in open_store(settings).list_feature_views() if view.stream_source is not None} == ALL_VIEWS


def test_names_that_are_no_views_are_left_to_feast(store: FeatureStore) -> None:
    with pytest.raises(PushSourceNotFoundException, match="no_such"):
        store.push("no_such", pd.DataFrame({"user_id": [1]}))


def test_other_repositories_are_left_alone(tmp_path: Path) -> None:
    """A view of the same name in stores of Feast's own can be pushed to."""
    config = RepoConfig(
        project="other",
        provider="local",
        registry=str(tmp_path / "registry.db"),
        online_store={"type": "sqlite", "path": str(tmp_path / "online.db")},
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
        repo_path=tmp_path,
    )
    other = FeatureStore(config=config)
    pin = Entity(name="pin", join_keys=["pin_id"], value_type=ValueType.INT64)
    source = PushSource(
        name="pin_revisit_counters", batch_source=FileSource(path=str(tmp_path / "f.parquet"), timestamp_field="event_timestamp")
    )
    schema = [Field(name="pin_id", dtype=Int64), Field(name="count", dtype=Int64)]
    other.apply([pin, FeatureView(name="pin_revisit_counters", entities=[pin], schema=schema, source=source)], partial=True)
    other.push("pin_revisit_counters", pd.DataFrame({"pin_id": [3], "count": [7], "event_timestamp": [datetime.now(UTC)]}))
    assert other.get_online_features(["pin_revisit_counters:count"], [{"pin_id": 3}]).to_dict()["count"] == [7]
    with pytest.raises(KeyError, match="count"):
        other.write_to_online_store("pin_revisit_counters", pd.DataFrame({"pin_id": [3]}))
    with pytest.raises(KeyError, match="none"):
        other.get_historical_features(pd.DataFrame({"pin_id": [3]}), ["pin_revisit_counters:none"])


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
    assert {view.name for view in open_store(settings).list_feature_views()} == ALL_VIEWS
