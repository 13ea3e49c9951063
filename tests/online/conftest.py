"""One real Redis for all tests of a process, a prefix of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.online.redis_server import RedisServer


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis of the test's own, to be stopped and started."""
    own = RedisServer(tmp_path_factory.mktemp("redis"))
    yield own
    own.stop()
