"""A store over a fake reader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from feast import FeatureStore

from feature_repo import readers
from feature_repo.reading import open_store
from flows.settings import Settings
from tests.feature_repo.fake import CLICK, HOMEFEED, SAVE, SEARCH, T0, FakeReader


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
