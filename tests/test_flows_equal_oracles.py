"""The stream, cut, killed and read at any time, equals the oracles: the specification of the whole house."""

from __future__ import annotations

import tempfile
from pathlib import Path

import hypothesis
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows import deadletters
from flows.settings import Settings
from tests import agreement, driving
from tests.oracles.decide import decide
from tests.sparing import first
from tests.strategies import adversarial, astray, hot_pin, hot_user, interesting_times, random_stream, reads


def run(
    events: pd.DataFrame,
    times: list[int],
    seed: int,
    partitions: int,
    directory: Path,
    kill_share: float = 0.2,
    most: int = 200,
    **limits: int,
) -> None:
    rng = np.random.default_rng(seed)
    settings = Settings(
        data=directory / "data",
        partitions=partitions,
        batch_records=max(1, most // 2),
        anchor_records=int(rng.integers(1, 4 * most)),
        **limits,
    )
    driving.write(settings, events, rng)
    driving.apply(settings, rng, kill_share, most)
    decided = decide(events, partitions=partitions, **limits)
    for time in times:
        agreement.check(driving.exported(settings, time, directory / "out"), decided, time)


# Each example writes logs and opens databases, which takes a third of a second.
@hypothesis.settings(max_examples=hypothesis.settings().max_examples // 2)
@given(reads(60, partitions=2), st.integers(0, 2**32 - 1))
def test_any_stream_cut_and_killed_anywhere_equals_the_oracles(read: tuple[pd.DataFrame, int], seed: int) -> None:
    events, as_of = read
    with tempfile.TemporaryDirectory() as directory:
        run(events, [as_of], seed, 2, Path(directory), most=30)


@pytest.mark.parametrize("seed", first(2, range(24)))
def test_adversarial_streams_equal_the_oracles_at_many_times(seed: int, tmp_path: Path) -> None:
    events = adversarial(seed, 400, partitions=2)
    rng = np.random.default_rng(seed)
    times = interesting_times(events)
    chosen = sorted({0, times[-1], times[-1] + 200 * 86_400_000, *rng.choice(times, 12).tolist()})
    run(events, chosen, seed, 2, tmp_path, most=60)


@pytest.mark.parametrize(("lateness", "horizon"), [(0, 0), (7_200_000, 600_000), (600_000, 7_200_000)])
def test_other_limits_equal_the_oracles(lateness: int, horizon: int, tmp_path: Path) -> None:
    events = adversarial(99, 400, partitions=2)
    times = interesting_times(events)
    run(events, [times[len(times) // 2], times[-1]], 5, 2, tmp_path, allowed_lateness_ms=lateness, dedup_horizon_ms=horizon)


@pytest.mark.parametrize("seed", first(1, [1, 2]))
def test_a_long_stream_equals_the_oracles(seed: int, tmp_path: Path) -> None:
    events = random_stream(seed, 20_000, partitions=3, users=300, pins=400, days=150)
    good = events["event_time"][~events["bad"]]
    times = [int(good.quantile(q)) for q in (0.3, 0.8)] + [int(good.max()), int(good.max()) + 30 * 86_400_000]
    run(events, times, seed, 3, tmp_path, kill_share=0.02, most=2_000)


@pytest.mark.parametrize(("seed", "share"), [(3, 0.1), (4, 0.9)])
def test_records_in_the_wrong_partition_are_dead_letters_and_change_nothing_else(seed: int, share: float, tmp_path: Path) -> None:
    events = astray(adversarial(seed, 400, partitions=3), 3, share, seed)
    times = interesting_times(events)
    run(events, [times[len(times) // 2], times[-1]], seed, 3, tmp_path, most=60)
    status = decide(events, partitions=3)["status"]
    settings = Settings(data=tmp_path / "data", partitions=3)
    assert deadletters.counts(settings).get("wrong_partition") == (status == "wrong_partition").sum() > 0
    assert (status == "accepted").any()


@pytest.mark.parametrize("make", [hot_user, hot_pin])
def test_one_hot_entity_equals_the_oracles(make: object, tmp_path: Path) -> None:
    events = make(20_000, seed=3, partitions=2)  # type: ignore[operator]
    good = events["event_time"][~events["bad"]]
    run(events, [int(good.max()), int(good.median())], 3, 2, tmp_path, kill_share=0.02, most=8_000)
