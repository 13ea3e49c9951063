"""A data directory for each test of ingest."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.settings import Settings
from tests.ingest.ingesting import PARTITIONS


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", partitions=PARTITIONS)
