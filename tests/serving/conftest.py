"""A data directory with some thousand events, and a Redis that holds the same; both are read only."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flows.online.follower import Follower
from flows.reading import FeatureReader
from flows.settings import Settings
from tests.online.conftest import server as server
from tests.online.conftest import shared_redis as shared_redis
from tests.online.redis_server import RedisServer
from tests.state.house import House
from tests.strategies import random_stream

PARTITIONS = 2


@dataclasses.dataclass(frozen=True)
class Site:
    settings: Settings
    events: pd.DataFrame
    users: list[int]
    pins: list[int]
    topics: list[str]


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    events = random_stream(3, 4_000, partitions=PARTITIONS, users=200, pins=200, days=60)
    with tempfile.TemporaryDirectory() as directory:
        made = House(Path(directory) / "data", events, partitions=PARTITIONS)
        made.finish([500])
        made.close()
        with FeatureReader(made.settings) as reader:
            revisited = np.concatenate(list(reader.pin_rows(reader.default_as_of() or 0)))
        pins = [*np.unique(revisited[:, 0])[:60].tolist(), 1, 2**63 - 1, -(2**63)]
        users = [*events["user_id"].unique()[:60].tolist(), 1, 2**63 - 1, -(2**63)]
        yield Site(made.settings, events, users, pins, [*sorted(set(events["topic"]) - {""}), "there is none", "käse"])


@pytest.fixture
def settings(site: Site, tmp_path: Path) -> Settings:
    """The same state, with logs of the test's own beside it: what is served is nobody else's."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "state").symlink_to(site.settings.state, target_is_directory=True)
    (data / "logs").mkdir()
    for name in ("actions.db", "revisits.db"):
        for beside in site.settings.logs.glob(f"{name}*"):
            (data / "logs" / beside.name).write_bytes(beside.read_bytes())
    return dataclasses.replace(site.settings, data=data)


def synced(settings: Settings, server: RedisServer) -> Settings:
    """The same features, in a Redis that holds them."""
    there = dataclasses.replace(settings, online=server.url)
    with Follower(there) as follower:
        list(follower.round())
    return there
