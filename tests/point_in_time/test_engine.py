"""Point-in-time reads equal the oracle of each query's own prefix, and what online reads gave when state stood there."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flows.outputs import ACTIONS, REVISITS
from flows.point_in_time import Asked, PointInTime, gathered
from flows.positions import Positions
from flows.reading import FeatureReader
from flows.settings import Settings
from tests import driving
from tests.oracles.decide import decide
from tests.oracles.point_in_time import arrivals
from tests.oracles.records import DAY, HOUR
from tests.point_in_time.asking import Oracle, Queries, pins_found, topics_found, users_found, users_online
from tests.state.house import House
from tests.strategies import adversarial, astray, interesting_times, random_stream, streams

FAR = [-(2**63), -1, 0, 2**62, 2**63 - 1]


def queries_of(events: pd.DataFrame, rng: np.random.Generator, n: int) -> dict[str, Queries]:
    """Random entities, some unknown, at times and arrivals where a read may go wrong; most as training rows ask, some as nobody would."""
    times = interesting_times(events)
    arrived = [*arrivals(events).tolist(), 0] if len(events) else [0]
    out = {"user": Queries(), "pin": Queries(), "topic": Queries()}
    for kind, column in (("user", "user_id"), ("pin", "pin_id"), ("topic", "topic")):
        known = [*events[column].unique().tolist(), "no such topic" if kind == "topic" else 987]
        for _ in range(n):
            moment = int(rng.choice(times) if rng.random() < 0.6 else rng.choice(arrived) + rng.integers(-1, 2))
            time, by = moment - 1, moment
            if rng.random() < 0.3:
                time, by = int(rng.choice(times)), int(rng.choice(arrived))
            if rng.random() < 0.05:
                time = int(rng.choice(FAR))
            if rng.random() < 0.05:
                by = int(rng.choice(FAR))
            out[kind].add(known[int(rng.integers(len(known)))], time, by)
    return out


def check(settings: Settings, decided: pd.DataFrame, queries: dict[str, Queries]) -> None:
    oracle = Oracle(decided)
    with PointInTime(settings) as point:
        for kind, found, said in (
            ("user", users_found, oracle.user),
            ("pin", pins_found, oracle.pin),
            ("topic", topics_found, oracle.topic),
        ):
            q = queries[kind]
            for got, entity, time, by in zip(found(point, q), q.entity, q.time, q.arrived_by, strict=True):
                want = said(entity, min(max(time, -1), 2**62), by)
                if kind == "user":
                    assert got[:2] == want, (entity, time, by)
                    assert got[2] == bool(want[0])
                    assert got[3] or not any(want[1])
                else:
                    assert got == want, (kind, entity, time, by)


@hypothesis_settings(max_examples=10)
@given(streams(40, partitions=2), st.integers(0, 2**32 - 1), st.booleans())
def test_queries_equal_the_oracle_of_their_prefix(events: pd.DataFrame, seed: int, small: bool) -> None:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as directory:
        settings = Settings(data=Path(directory) / "data", partitions=2, batch_records=int(rng.integers(1, 60)))
        driving.write(settings, events, rng)
        if not len(events):
            driving.open_log(settings, ACTIONS).close()
        # Rows for which there is no room go to another pass.
        with mock.patch.object(gathered, "MOST_ROWS", 3 if small else 10**9):
            check(settings, decide(events, partitions=2), queries_of(events, rng, 25))


@pytest.mark.parametrize("seed", range(3))
def test_long_streams_equal_the_oracle(seed: int, tmp_path: Path) -> None:
    events = adversarial(seed, 250, partitions=3)
    rng = np.random.default_rng(seed)
    settings = Settings(data=tmp_path / "data", partitions=3, batch_records=37)
    driving.write(settings, events, rng)
    check(settings, decide(events, partitions=3), queries_of(events, rng, 60))


@pytest.mark.parametrize("limits", [(0, 0, 0), (30 * DAY, 30 * DAY, 30 * DAY), (2 * HOUR, 1, DAY)])
def test_other_settings_and_records_in_other_partitions(limits: tuple[int, int, int], tmp_path: Path) -> None:
    events = adversarial(21, 150, 3, lateness_ms=limits[0], horizon_ms=limits[1], skew_ms=limits[2])
    events = astray(events, 3, 0.1, 4)
    names = ("allowed_lateness_ms", "dedup_horizon_ms", "clock_skew_ms")
    settings = Settings(data=tmp_path / "data", partitions=3, **dict(zip(names, limits, strict=True)))
    rng = np.random.default_rng(1)
    driving.write(settings, events, rng)
    check(settings, decide(events, *limits, partitions=3), queries_of(events, rng, 40))


def test_only_what_is_needed_is_read(tmp_path: Path) -> None:
    """Users of one partition; and no further than the latest moment."""
    events = random_stream(5, 2_000, 4, users=30, pins=30)
    settings = Settings(data=tmp_path / "data", partitions=4, batch_records=20)
    driving.write(settings, events, np.random.default_rng(0))
    user = int(events["user_id"][0])
    told: list[tuple[int, int]] = []
    with PointInTime(settings, lambda done, total: told.append((done, total))) as point:
        early = int(arrivals(events).quantile(0.1))
        one = np.array([user], np.int64)
        point.users(Asked(one, np.array([early]), np.array([early])))
        mine = int((events["partition"] == events["partition"][0]).sum())
        assert {total for _, total in told} == {mine}
        assert told[-1][0] < mine / 2
        told.clear()
        point.pins(Asked(one, np.array([early]), np.array([2**60])))
        assert told[-1] == (len(events), len(events))
        told.clear()
        none = np.empty(0, np.int64)
        assert len(point.users(Asked(none, none, none)).offsets) == 1
        assert len(point.pins(Asked(none, none, none)).values) == len(point.topics(Asked([], none, none)).values) == 0
        assert not told


def test_queries_without_a_prefix_are_a_mistake() -> None:
    one = np.array([1], np.int64)
    with pytest.raises(ValueError, match="no prefix"):
        Asked(one, one)
    with pytest.raises(ValueError, match="no prefix"):
        Asked(one, one, position=np.array([-1], np.int32))
    with pytest.raises(ValueError, match="of one length"):
        Asked(one, one, np.empty(0, np.int64))


@pytest.mark.parametrize("seed", range(3))
def test_reads_by_position_equal_what_online_reads_gave_there(seed: int, tmp_path: Path) -> None:
    """State is read at commits, pins behind or ahead of users; later, the log alone says the same."""
    events = adversarial(seed, 200, partitions=2) if seed else random_stream(9, 1_500, 2, users=25, pins=30)
    rng = np.random.default_rng(seed)
    house = House(tmp_path / "data", events, 2)
    seen = Seen()
    for _ in range(6):
        for flow in (ACTIONS, REVISITS):
            for partition in range(2):
                task = house.open(flow, partition)
                end = task.source.end_position(partition)
                until = min(end, task.reached + int(rng.integers(0, max(2, end // 3))))
                while task.reached < until:
                    task.apply(task.source.read(partition, task.reached, min(until - task.reached, 40)))
                task.close()
        with FeatureReader(house.settings) as reader:
            seen.look(reader, events, rng)
    house.finish()
    house.close()
    seen.check(house.settings)


class Seen:
    """What online reads gave, at which positions."""

    def __init__(self) -> None:
        self.positions: list[Positions] = []
        self.queries = {"user": Queries(), "pin": Queries(), "topic": Queries()}
        self.answers: dict[str, list[tuple[object, ...]]] = {"user": [], "pin": [], "topic": []}

    def look(self, reader: FeatureReader, events: pd.DataFrame, rng: np.random.Generator) -> None:
        at = len(self.positions)
        self.positions.append(Positions.from_bytes(Positions.of(reader).to_bytes()))  # type: ignore[arg-type]
        default = reader.default_as_of() or 0
        for as_of in (default, default - 1, int(rng.choice(interesting_times(events)))):
            users, pins = ([*events[name].unique()[:12].tolist(), 987] for name in ("user_id", "pin_id"))
            topics = [*events["topic"].unique().tolist(), "none"]
            counters, stats = reader.pin_counters(np.array(pins, np.int64), as_of), reader.topic_stats(topics, as_of)
            self.answers["user"] += users_online(reader, users, as_of)
            self.answers["pin"] += zip(counters.values.tolist(), counters.found.tolist(), strict=True)
            self.answers["topic"] += zip(stats.values.tolist(), stats.found.tolist(), strict=True)
            for kind, entities in (("user", users), ("pin", pins), ("topic", topics)):
                for entity in entities:
                    self.queries[kind].add(entity, as_of, position=at)

    def check(self, settings: Settings, pins_with_zeros: bool = True) -> None:
        """The log alone says the same; without `pins_with_zeros`, a pin all of whose revisits no longer count may be found or not."""
        with PointInTime(settings) as point:
            for kind, found in (("user", users_found), ("pin", pins_found), ("topic", topics_found)):
                got = found(point, self.queries[kind], self.positions)
                for mine, theirs, entity, time, at in zip(
                    got, self.answers[kind], self.queries[kind].entity, self.queries[kind].time, self.queries[kind].position, strict=True
                ):
                    if kind == "pin" and not pins_with_zeros:
                        mine, theirs = mine[:1], theirs[:1]
                    assert mine == theirs, (kind, entity, time, self.positions[at])
