"""Random (entity, moment) pairs of a simulated stream: online = offline = oracle; and the comparison finds what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from benchmarks import point_in_time
from benchmarks._pairs import Tally, compare_offline, compare_online
from flows.settings import Settings
from tests import driving
from tests.oracles.decide import decide
from tests.strategies import random_stream


def compared(directory: Path, events: pd.DataFrame, pairs: int, moments: int, decided: pd.DataFrame | None = None) -> tuple[Tally, Tally]:
    settings, live = (Settings(data=directory / name, partitions=4) for name in ("whole", "live"))
    rng = np.random.default_rng(2)
    driving.write(settings, events, rng)
    decided = decide(events, partitions=4) if decided is None else decided

    def run() -> None:
        driving.apply(live, rng, most=5_000)

    return compare_offline(settings, decided, pairs, rng), compare_online(settings, live, run, decided, pairs, moments, rng)


def test_pairs_agree(tmp_path: Path) -> None:
    alone, together = compared(tmp_path, random_stream(6, 3_000, 4, users=40, pins=60, days=100), 150, 2)
    assert (alone.mismatches, together.mismatches) == (0, 0), alone.examples + together.examples
    assert alone.pairs == together.pairs == 150
    assert together.values > alone.values > 150 * 24


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    """An oracle that takes the late records for saves."""
    events = random_stream(6, 3_000, 4, users=40, pins=60, days=100)
    decided = decide(events, partitions=4)
    wrong = decided.assign(late=False)
    wrong.attrs = decided.attrs
    alone, together = compared(tmp_path, events, 150, 2, wrong)
    assert alone.mismatches
    assert together.mismatches
    assert "and" in alone.examples[0]


@pytest.mark.slow
def test_the_benchmark_on_a_small_stream(tmp_path: Path) -> None:
    found = point_in_time.simulated(1_000, 100, 2)
    assert {part["mismatches"] for part in (found["offline_oracle"], found["online_offline_oracle"])} == {0}
    assert found["offline_oracle"]["pairs"] == found["online_offline_oracle"]["pairs"] >= 100
    lacks = CliRunner().invoke(point_in_time.main, ["--data-dir", str(tmp_path)])
    assert lacks.exit_code == 1
    assert "lacks mathoverflow.parquet and online_retail.parquet" in lacks.stderr


@pytest.mark.soak
@pytest.mark.timeout(7_200)
def test_ten_thousand_pairs_agree(tmp_path: Path) -> None:
    alone, together = compared(tmp_path, random_stream(0, 60_000, 4, users=800, pins=1_500, days=120), 10_000, 6)
    assert (alone.mismatches, together.mismatches) == (0, 0), alone.examples + together.examples
