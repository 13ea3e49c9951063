"""The data directory that the tests of a process share; they copy what they change."""

from __future__ import annotations

import pytest

from tests.trends.sites import Site, build


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return build(tmp_path_factory.mktemp("trends") / "data")
