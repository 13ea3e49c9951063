"""Sums by stretch of time are those of a loop, whatever the pieces and their order."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from flows.errors import InputError
from flows.settings import DAY_MS, HOUR_MS
from flows.trends import sums as module
from flows.trends.sums import MINUTE_MS, MOST, SIZES, Counting, Period, Sums
from tests.oracles import trends as oracle


def told(sums: Sums) -> dict[int, list[int]]:
    return dict(zip(sums.starts.tolist(), sums.table().tolist(), strict=True))


def wanted(rows: list[tuple[int, int]], columns: int, size: int, **period: Any) -> dict[int, list[int]]:
    return {start: [found[c] for c in range(columns)] for start, found in oracle.by_stretch(rows, size, **period).items()}


@pytest.mark.parametrize("seed", range(4))
def test_counts_are_those_of_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    times, which = rng.integers(-3 * DAY_MS, 9 * DAY_MS, 2_000), rng.integers(0, 3, 2_000)
    first, until = sorted(rng.choice(times, 2, replace=False).tolist())
    reference = Period(*sorted(rng.choice(times, 2, replace=False).tolist()))
    counted = Sums(3, Counting(Period(first, until), reference, HOUR_MS))
    added = Sums(3, Counting(Period(first, until), reference, HOUR_MS))
    for part in np.array_split(rng.permutation(2_000), 17):
        counted.count(times[part], which[part])
        added.add(times[part], np.eye(3, dtype=np.int64)[which[part]])
    rows = list(zip(times.tolist(), which.tolist(), strict=True))
    assert told(counted) == told(added) == wanted(rows, 3, HOUR_MS, first=first, until=until)
    within = Counter(key for time, key in rows if oracle.within(time, reference.first, reference.until))
    assert counted.reference.tolist() == added.reference.tolist() == [within[c] for c in range(3)]
    middle = int(counted.starts[len(counted.starts) // 2])
    assert counted.total(None, middle).tolist() == np.sum([row for at, row in told(counted).items() if at < middle], axis=0).tolist()
    counted.drop_before(middle)
    assert told(counted) == {at: row for at, row in told(added).items() if at >= middle}


@pytest.mark.parametrize("days", [0.01, 0.2, 3, 100, 3_000])
def test_stretches_are_as_wide_as_they_must_be(days: float) -> None:
    rng = np.random.default_rng(int(days))
    times = rng.integers(0, int(days * DAY_MS), 3_000)
    size = oracle.size_of([times.tolist()])
    for part in (1, 40):
        sums = Sums(1, Counting())
        for some in np.array_split(rng.permutation(times), part):
            sums.count(some, np.zeros(len(some), np.int64))
        assert sums.size_ms == size
        assert told(sums) == wanted([(time, 0) for time in times.tolist()], 1, size)
    assert len(sums.starts) <= MOST


def test_sizes_add_up() -> None:
    assert oracle.SIZES == SIZES
    assert all(wide % narrow == 0 for narrow, wide in pairwise(SIZES))


def test_stretches_that_were_asked_for_stay_and_are_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = Sums(1, Counting(size_ms=MINUTE_MS))
    times = np.arange(2 * MOST) * MINUTE_MS
    sums.count(times, np.zeros(len(times), np.int64))
    assert len(sums.starts) == 2 * MOST
    monkeypatch.setattr(module, "MOST_ASKED", 2 * MOST)
    with pytest.raises(InputError, match="more than 800 stretches of 60 s; choose a shorter period"):
        sums.count(np.array([10**13]), np.zeros(1, np.int64))


def test_a_period_that_holds_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="holds nothing"):
        Period(5, 5)
    assert Period(None, 3).holds(np.array([-(10**15), 2, 3])).tolist() == [True, True, False]


def test_what_is_read_reaches_over_period_and_reference() -> None:
    counting = Counting(Period(50, 100), Period(10, 20))
    assert (counting.first, counting.until) == (10, 100)
    assert (Counting(Period(50, None), Period(10, 20)).until, Counting(Period(50, 60), Period(None, 20)).first) == (None, None)
