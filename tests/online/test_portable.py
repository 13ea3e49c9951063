"""Feast's own online stores, filled with rows: the answers of the reader of task state at any time that they reach back to, and no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore, RepoConfig

from feature_repo import portable, views
from feature_repo.errors import FeastReadError
from flows import features
from flows.errors import OnlineStoreError
from flows.outputs import ACTIONS, REVISITS
from flows.reading import FeatureReader
from flows.settings import Settings
from tests import driving
from tests.online.redis_server import RedisServer
from tests.oracles.records import DAY, HOUR
from tests.state.house import House
from tests.strategies import adversarial, interesting_times
from tests.test_reading import house

# Feast's word on each such view: it is about offline reads.
pytestmark = pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature")


def opened(directory: Path, online_store: dict[str, Any] | None = None) -> FeatureStore:
    config = RepoConfig(
        project="elsewhere",
        provider="local",
        registry=str(directory / "registry.db"),
        online_store=online_store or {"type": "sqlite", "path": str(directory / "online.db")},
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
    )
    FeatureStore(config=config).apply(portable.definitions())
    # As another process has it: with what the registry says.
    return FeatureStore(config=config)


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FeatureStore:
    if request.param == "sqlite":
        return opened(tmp_path)
    server: RedisServer = request.getfixturevalue("server")
    return opened(tmp_path, {"type": "redis", "connection_string": server.url.removeprefix("redis://").removesuffix("/0") + ",db=5"})


def read(store: FeatureStore, view: str, names: list[str], key: str, ids: np.ndarray, as_of: int) -> dict[str, list[Any]]:
    rows = [{key: int(entity), "as_of": as_of} for entity in ids]
    return store.get_online_features([f"{view}:{name}" for name in names], rows).to_dict()


def agree(store: FeatureStore, reader: FeatureReader, events: pd.DataFrame, as_of: int) -> int:
    """How many views reach back to a time, and say the same as the reader."""
    users = np.array([*events["user_id"].unique(), 987], np.int64)
    pins = np.array([*events["pin_id"].unique(), 987], np.int64)
    actions = reader.vocabulary.action_names()
    reached = 0

    def compare(view: str, names: list[str], key: str, ids: np.ndarray, want: Callable[[], dict[str, list[Any]]]) -> None:
        nonlocal reached
        try:
            got = read(store, view, names, key, ids, as_of)
        except FeastReadError as error:
            if "doesn't reach back" not in str(error):
                raise
            return
        reached += 1
        assert {name: got[name] for name in names} == want()

    def sequences() -> dict[str, list[Any]]:
        told = reader.user_sequences(users, as_of)
        columns = {"pin_id": told.pin_id.tolist(), "event_time": told.event_time.tolist(), "duration_ms": told.duration_ms.tolist()}
        columns["action"] = [actions[code] for code in told.action.tolist()]
        columns["surface"] = [reader.vocabulary.surface_names()[code] for code in told.surface.tolist()]
        spans = list(zip(told.offsets[:-1].tolist(), told.offsets[1:].tolist(), strict=True))
        return {f"sequence_{name}": [values[a:b] if b > a else None for a, b in spans] for name, values in columns.items()}

    def counters(names: tuple[str, ...], told: Any) -> dict[str, list[Any]]:
        rows = [row if found else [None] * len(row) for row, found in zip(told.values.tolist(), told.found.tolist(), strict=True)]
        return {name: [row[i] for row in rows] for i, name in enumerate(names)}

    names = [f"sequence_{name}" for name in features.SEQUENCE_FIELDS]
    compare(views.USER_ACTION_SEQUENCE, names, "user_id", users, sequences)
    compare(
        views.USER_REVISIT_COUNTERS, list(features.USER_COUNTERS), "user_id", users,
        lambda: counters(features.USER_COUNTERS, reader.user_counters(users, as_of)),
    )  # fmt: skip
    compare(
        views.PIN_REVISIT_COUNTERS, list(features.PIN_COUNTERS), "pin_id", pins,
        lambda: counters(features.PIN_COUNTERS, reader.pin_counters(pins, as_of)),
    )  # fmt: skip
    return reached


def _advance(made: House, records: int) -> int:
    """Positions gained."""
    gained = 0
    for partition in range(2):
        task = made.open(ACTIONS, partition)
        before = task.position
        task.apply(made.logs[ACTIONS].read(partition, before, records))
        gained += task.position - before
        task.close()
    for partition in range(2):
        made.feed(made.open(REVISITS, partition)).close()
    return gained


def test_the_answers_of_state_after_a_fill_and_after_each_change(store: FeatureStore) -> None:
    """Late, credited, taken back, cut off, expired: what has changed is written, and what a time needs and isn't there is an error."""
    events = adversarial(0, 220, partitions=2)
    rng = np.random.default_rng(0)
    with house(events.iloc[:0], partitions=2) as made:
        driving.write(made.settings, events, rng)
        unreached = 0
        while _advance(made, 60):
            assert portable.write(made.settings, store)
            assert not portable.write(made.settings, store)
            with FeatureReader(made.settings) as reader:
                now = reader.default_as_of()
                assert now is not None
                assert [agree(store, reader, events, as_of) for as_of in (now, now + HOUR, now + 91 * DAY, 2**63 - 1)] == [3] * 4
                for as_of in rng.choice(interesting_times(events), 3).tolist():
                    unreached += 3 - agree(store, reader, events, as_of)
        assert unreached


def test_requests_of_several_times_and_several_views_at_once(store: FeatureStore) -> None:
    events = adversarial(0, 120, partitions=2)
    with house(events, partitions=2) as made, FeatureReader(made.settings) as reader:
        portable.write(made.settings, store)
        now = reader.default_as_of()
        assert now is not None
        pins = events["pin_id"].unique()[:20]
        times = [now + i % 2 * 20 * DAY for i in range(len(pins))]
        name = features.USER_COUNTERS[4]
        rows = [{"user_id": 987, "pin_id": int(pin), "as_of": at} for pin, at in zip(pins, times, strict=True)]
        both = [f"{views.PIN_REVISIT_COUNTERS}:{features.PIN_COUNTERS[4]}", f"{views.USER_REVISIT_COUNTERS}:{name}"]
        got = store.get_online_features(both, rows, full_feature_names=True).to_dict()
        assert got[f"{views.USER_REVISIT_COUNTERS}__{name}"] == [None] * len(pins)
        told = [reader.pin_counters(np.array([pin]), at) for pin, at in zip(pins, times, strict=True)]
        want = [int(one.values[0, 4]) if one.found[0] else None for one in told]
        sequences = [f"{views.USER_ACTION_SEQUENCE}:sequence_{name}" for name in features.SEQUENCE_FIELDS]
        users = [{"user_id": int(user), "as_of": now} for user in [987, *events["user_id"].unique()]]
        short = store.get_online_features(sequences, users).to_dict()
        full = store.get_online_features(sequences, users, full_feature_names=True).to_dict()
        assert {
            f"{views.USER_ACTION_SEQUENCE}__{name}": values for name, values in short.items() if name.startswith("seq")
        }.items() <= full.items()
        assert got[f"{views.PIN_REVISIT_COUNTERS}__{features.PIN_COUNTERS[4]}"] == want


def test_what_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    """Reads of an empty store, a first fill that was broken off, a state that was put back to before, another log."""
    events = adversarial(0, 120, partitions=2)
    with pytest.raises(FeastReadError, match="isn't filled"):
        read(store, views.PIN_REVISIT_COUNTERS, [features.PIN_COUNTERS[0]], "pin_id", np.array([1]), 0)

    def directory(name: str, events: pd.DataFrame) -> Settings:
        made = House(tmp_path / name, events, partitions=2)
        made.finish([20])
        made.close()
        return made.settings

    whole, older, other = (
        directory(*one) for one in (("whole", events), ("older", events[:60]), ("other", adversarial(1, 300, partitions=2)))
    )
    with mock.patch.object(FeatureReader, "scan", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        portable.write(whole, store)
    with pytest.raises(FeastReadError, match="isn't filled"):
        read(store, views.PIN_REVISIT_COUNTERS, [features.PIN_COUNTERS[0]], "pin_id", np.array([1]), 0)
    with pytest.raises(OnlineStoreError, match="broken off"):
        portable.write(whole, store)
    portable.empty(store)
    with pytest.raises(FeastReadError, match="isn't filled"):
        read(store, views.PIN_REVISIT_COUNTERS, [features.PIN_COUNTERS[0]], "pin_id", np.array([1]), 0)
    portable.write(whole, store)
    for settings, message in ((older, "only"), (other, "another log")):
        with pytest.raises(OnlineStoreError, match=message):
            portable.write(settings, store)
