"""What is in the registry, and when it is applied."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from feast import FeatureStore, RepoConfig
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from feast.repo_config import load_repo_config

from feature_repo import readers
from feature_repo.errors import OtherFingerprintError, RegistryError
from feature_repo.reading import open_store
from feature_repo.repository import PROJECT, REPOSITORY
from feature_repo.response import ArrayResponse
from feature_repo.views import FINGERPRINT_TAG, definitions
from flows import features
from flows.settings import Settings, load_settings
from tests.feature_repo.fake import ALL_VIEWS, CLICK, HOMEFEED, T0, FakeReader, export_of


def test_apply_registers_what_the_declaration_names(store: FeatureStore, settings: Settings, opened: list[FakeReader]) -> None:
    views = {view.name: view for view in store.list_feature_views()}
    assert set(views) == ALL_VIEWS
    assert {f.name for f in views["user_action_sequence"].features} == {f"sequence_{name}" for name in features.SEQUENCE_FIELDS}
    assert [f.name for f in views["user_revisit_counters"].features] == list(features.USER_COUNTERS)
    assert [f.name for f in views["pin_revisit_counters"].features] == list(features.PIN_COUNTERS)
    assert [f.name for f in views["topic_revisit_stats"].features] == [name for name, _ in features.TOPIC_STATS]
    for view in views.values():
        assert view.ttl == timedelta(0)
        assert view.tags[FINGERPRINT_TAG] == features.fingerprint()
        assert export_of(view) == str(settings.offline / f"{view.name}.parquet")
    assert {service.name for service in store.list_feature_services()} == {
        "ranking_v1",
        "ranking_v1_user",
        "ranking_v1_candidate",
        "retrieval_v1",
    }
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


def test_definitions_need_no_file(tmp_path: Path) -> None:
    assert len(definitions(tmp_path / "absent").objects()) == 1 + 3 + 5 + 4
    assert not (tmp_path / "absent").exists()


def test_project(store: FeatureStore) -> None:
    assert store.project == PROJECT == "tidemark"
    assert isinstance(store.config, RepoConfig)
    assert store.config.entity_key_serialization_version == 3
    assert load_settings(data="x").registry.name == "registry.db"


def test_a_registry_that_cannot_be_read(store: FeatureStore, settings: Settings) -> None:
    whole = settings.registry.read_bytes()
    newer = RegistryProto.FromString(whole)
    newer.registry_schema_version = "2"
    for damaged, reason in (
        (b"\xff" + whole, "rror"),
        (whole[: len(whole) // 2], "rror"),
        (newer.SerializeToString(), "its schema is of version 2"),
    ):
        settings.registry.write_bytes(damaged)
        with pytest.raises(
            RegistryError, match=rf"registry {settings.registry} can't be read by Feast .*{reason}.*delete it and run `feast -c"
        ) as error:
            open_store(settings)
        assert "\n" not in str(error.value)
    settings.registry.unlink()
    assert {view.name for view in open_store(settings).list_feature_views()} == ALL_VIEWS


def sql_registry(settings: Settings) -> FeatureStore:
    """The repository with its registry in a database."""
    config = load_repo_config(REPOSITORY, REPOSITORY / "feature_store.yaml")
    config.registry_config = {"registry_type": "sql", "path": f"sqlite:///{settings.data.parent / 'registry.sqlite'}"}
    config.online_config = {**config.online_config, "settings": settings}
    return FeatureStore(config=config)


def test_a_registry_in_sql(settings: Settings, opened: list[FakeReader]) -> None:
    settings.data.mkdir(parents=True)
    store = sql_registry(settings)
    store.apply(definitions(settings.offline).objects())
    readers.shared_reader(settings)
    opened[0].sequences[1] = [(12, CLICK, HOMEFEED, T0, 0)]
    again = sql_registry(settings)
    assert {view.name for view in again.list_feature_views()} == ALL_VIEWS
    got = again.get_online_features(again.get_feature_service("ranking_v1_user"), [{"user_id": 1}])
    assert isinstance(got, ArrayResponse)
    assert got.to_dict()["sequence_pin_id"] == [[12]]
    again.materialize_incremental(datetime(2026, 2, 1, tzinfo=UTC))
    view = again.get_feature_view("user_action_sequence")
    view.tags = {FINGERPRINT_TAG: "another"}
    again.apply(view)
    # A store keeps what it has read of a database for a while, so another one is asked.
    changed = sql_registry(settings)
    with pytest.raises(OtherFingerprintError):
        changed.get_online_features(["user_action_sequence:sequence_pin_id"], [{"user_id": 1}])
    assert not settings.registry.exists()
    for one in (store, again, changed):
        one.registry.write_engine.dispose()  # type: ignore[attr-defined]
        one.registry.read_engine.dispose()  # type: ignore[attr-defined]
