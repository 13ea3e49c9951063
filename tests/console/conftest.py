"""A small data directory with its logs open, to which a test adds records and applies them, and a server of it with the console."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flows.events import RAW_SCHEMA, id_of
from flows.outputs import ACTIONS, REVISITS
from flows.partition import partition_of
from flows.settings import Settings
from replay.console.console import Console
from tests.serving.http import Running, running
from tests.state.house import House
from tests.strategies import random_stream

PARTITIONS = 2
HOSTILE = "<img src=x onerror=\"document.title='owned'\">&amp;'\"</script><script>document.title='owned'</script>\u202e\u0000é"
"""What an ID, an action or a record may be, and must never be taken for markup."""


class Site:
    """A data directory with some hundred events; without one, it is made with all of them applied."""

    def __init__(self, data: Path) -> None:
        events = random_stream(5, 400, partitions=PARTITIONS, users=20, pins=30, days=20)
        self._house = House(data, events.iloc[:0] if data.exists() else events, partitions=PARTITIONS)
        self.settings: Settings = self._house.settings
        self.logs = self._house.logs
        self._ids = iter(range(10**12, 2 * 10**12))

    def apply(self) -> None:
        """Apply whatever the logs hold."""
        for flow in (ACTIONS, REVISITS):
            for partition in range(PARTITIONS):
                self._house.feed(self._house.open(flow, partition)).close()

    def append(self, *events: dict[str, Any] | bytes, arrived: int | None = None) -> None:
        """Append raw records: events, completed where they lack something, or bytes as they are, in partition 0."""
        now = time.time_ns() // 1_000_000
        for event in events:
            partition, value = 0, event
            if isinstance(event, dict):
                whole = {"user_id": 1, "pin_id": 1, "action": "closeup", "event_time": now, "event_id": next(self._ids), **event}
                user = whole["user_id"] if isinstance(whole["user_id"], int) else id_of(whole["user_id"])
                partition = int(partition_of(np.array([user], np.int64), PARTITIONS)[0])
                value = json.dumps(whole).encode()
            stamps = pa.array([arrived if arrived is not None else now], pa.int64())
            self.logs[ACTIONS].append([(partition, pa.record_batch([pa.array([value], pa.binary()), stamps], schema=RAW_SCHEMA))])

    def close(self) -> None:
        self._house.close()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that sites are copies of."""
    site = Site(tmp_path_factory.mktemp("console") / "data")
    site.apply()
    site.close()
    return site.settings.data


@pytest.fixture(scope="module")
def shared(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """For tests that change nothing."""
    site = Site(Path(shutil.copytree(made, tmp_path_factory.mktemp("shared") / "data")))
    # Late by a year, and two that can't be taken; all under the newest times.
    site.append({"user_id": 3}, {"user_id": 3, "event_time": site_time() - 365 * 86_400_000, "pin_id": 2**53 + 1})
    site.append({"action": HOSTILE, "user_id": HOSTILE}, b"\xff\x00no JSON" + b"x" * 5_000)
    site.apply()
    yield site
    site.close()


@pytest.fixture
def site(made: Path, tmp_path: Path) -> Iterator[Site]:
    """A test's own."""
    site = Site(Path(shutil.copytree(made, tmp_path / "data")))
    yield site
    site.close()


def site_time() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture(scope="module")
def server(shared: Site) -> Iterator[Running]:
    """A server of what is shared, with the console."""
    with running(shared.settings, make_beside=Console) as made:
        yield made
