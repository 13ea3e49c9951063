"""What a server has answered, from task state or from Redis, at any time: the check finds no difference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from flows.features import PIN_COUNTERS, USER_COUNTERS
from flows.settings import DAY_MS, Settings
from flows.skew.check import check
from flows.skew.served import open_served
from tests.oracles.decide import decide
from tests.oracles.features import default_as_of
from tests.processes import front_door
from tests.serving.conftest import Site, synced
from tests.serving.http import running


@pytest.fixture
def stored(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """State, or a Redis that holds the same."""
    return settings if request.param == "state" else synced(settings, request.getfixturevalue("shared_redis"))


@pytest.mark.parametrize("stored", ["state", pytest.param("redis", marks=pytest.mark.redis)], indirect=True)
def test_what_was_served_is_what_the_log_says(stored: Settings, site: Site) -> None:
    newest = default_as_of(decide(site.events))
    assert newest is not None
    rng = np.random.default_rng(5)
    rows = 0
    with running(stored) as server:
        for as_of in (None, newest - 1, newest - 40 * DAY_MS, newest + 400 * DAY_MS, 0):
            users, pins = rng.permutation(site.users).tolist(), rng.permutation(site.pins).tolist()
            said = {"users": users, "pins": pins, "topics": site.topics} | ({} if as_of is None else {"as_of": as_of})
            server.client.post(said)
            rows += 2 * len(users) + len(pins) + len(site.topics)
        server.client.post({"pins": site.pins})
        rows += len(site.pins)
    with open_served(stored) as served:
        checked = check(stored, served)
    assert checked.causes == ()
    assert (checked.compared, checked.differing, checked.apart, checked.findings) == (rows, 0, 0, 0)
    assert all(one.equal == one.rows for one in checked.figures)


def test_what_was_served_goes_back_into_a_training_set(
    settings: Settings, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(settings) as server:
        answers = [server.client.post({"users": site.users[i : i + 3], "pins": site.pins[i : i + 4]}) for i in (0, 4)]
    for entity, names, asked in (("user", USER_COUNTERS, 3), ("pin", PIN_COUNTERS, 4)):
        frame, out = tmp_path / f"{entity}.parquet", tmp_path / f"{entity}-features.parquet"
        front_door("features", "served", "--entity", entity, "--out", frame, data=settings.data, monkeypatch=monkeypatch, partitions=2)
        front_door(
            "features", "history", "--entities", frame, "--feature", f"{entity}_revisit_counters", "--out", out,
            data=settings.data, monkeypatch=monkeypatch, partitions=2,
        )  # fmt: skip
        rows = pq.read_table(out).to_pylist()
        said = {
            (answer["request_id"], id): [answer[f"{entity}s"]["counters"][name][i] for name in names]
            for answer in answers
            for i, id in enumerate(answer[f"{entity}s"][f"{entity}_id"])
        }
        assert len(rows) == len(said) == 2 * asked
        # What is not known is null in a training set, and zero where it is served.
        assert {(row["request_id"], row[f"{entity}_id"]): [row[name] or 0 for name in names] for row in rows} == said
