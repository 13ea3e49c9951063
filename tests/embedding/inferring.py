"""A log with a version of user embeddings, and runs that infer them: what tests of what is inferred and of runs that were cut off share."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from feature_repo.embedding_table import ROWS, open_table
from flows.settings import Settings
from online_model.embedding.daily import Done, keep_current
from tests.embedding.served_made import before, elsewhere, events_of, logged, version


def rows_bytes(settings: Settings, number: int | None = None) -> bytes:
    return (open_table(settings.data, 1, number).path / ROWS).read_bytes()


def ran(settings: Settings, **how: Any) -> Done:
    return keep_current(settings, settings.data / "embeddings" / "1", **how)


@pytest.fixture
def events() -> pd.DataFrame:
    return events_of(7)


@pytest.fixture
def settings(tmp_path: Path, events: pd.DataFrame) -> Settings:
    """A log with the first part of the events, and a version."""
    made = logged(tmp_path / "data", before(events, 0.6)[0])
    version(made, events["pin_id"].unique()[::2])
    return made


def copied(settings: Settings, path: Path) -> Settings:
    shutil.copytree(settings.data, path)
    return elsewhere(settings, path)
