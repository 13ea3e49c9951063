"""What is said of a published direction, and of differences over seeds."""

from __future__ import annotations

import numpy as np
import pytest

from online_model.evaluation.bootstrap import Difference, compare, pooled, resample
from online_model.evaluation.metrics import METRICS, Value
from online_model.studies.findings import _shows, _verdict
from online_model.studies.study import Direction
from tests.evaluation.making import columns, rows_of


def difference(low: float | None, high: float | None, head: str = "save", metric: str = "hit@3") -> Difference:
    middle = None if low is None or high is None else (low + high) / 2
    some = Value(0.5, 10, "users")
    return Difference(
        head, metric, some, some, middle, low, high, 0.5, None if low is None else 0.02, "" if low is not None else "one user"
    )


def direction(up: bool | None, head: str = "save", metric: str = "hit@3") -> Direction:
    return Direction("a_over_b", head, metric, up, "somebody", "it is small")


@pytest.mark.parametrize(
    ("up", "low", "high", "shows"),
    [
        (True, 0.01, 0.03, "yes"),
        (False, -0.03, -0.01, "yes"),
        (True, -0.03, -0.01, "opposite"),
        (False, 0.01, 0.03, "opposite"),
        (True, -0.01, 0.03, "within chance"),
        (False, -0.01, 0.03, "within chance"),
        (None, -0.01, 0.03, "yes"),
        (None, 0.01, 0.03, "yes"),
        (None, -0.03, -0.01, "opposite"),
        (True, None, None, "unknown"),
    ],
)
def test_a_direction_shows_if_the_interval_lies_on_its_side(up: bool | None, low: float | None, high: float | None, shows: str) -> None:
    said, why = _shows(direction(up), difference(low, high), by_score=True)
    assert said == shows
    if shows in ("opposite", "within chance"):
        assert "it is small" in why
    if up is None and shows == "yes":
        assert "0.0200" in why


def test_hides_should_not_be_on_top_where_one_score_ranks_for_all() -> None:
    fewer = difference(-0.03, -0.01, head="hide")
    assert _verdict(fewer, by_score=True) == "better"
    # Ranked by its own probability, a hide that is found is one that could be kept away.
    assert _verdict(fewer, by_score=False) == "worse"
    assert _verdict(difference(0.01, 0.03, head="hide", metric="auc"), by_score=True) == "better"
    assert _shows(direction(None, head="hide"), fewer, by_score=True)[0] == "yes"


def test_the_interval_over_seeds_is_that_of_their_mean() -> None:
    worlds = [[rows_of(columns(seed, noise=noise, scores=i)) for i, noise in enumerate((0.2, 1.0))] for seed in (1, 2, 3)]
    parts = [resample(*sides, seed, 200) for seed, sides in enumerate(worlds)]
    each = [compare(*sides, seed, 200) for seed, sides in enumerate(worlds)]
    whole = pooled(parts)
    assert whole.users == sum(one.users for one in each)
    for i, one in enumerate(whole.differences):
        alone = [comparison.differences[i] for comparison in each]
        assert (one.head, one.metric) == (alone[0].head, alone[0].metric)
        assert one.difference == pytest.approx(np.mean([other.difference for other in alone]))
        drawn = np.mean([part.drawn[list(part.heads).index(one.head), 0, METRICS.index(one.metric)] for part in parts], axis=0)
        drawn -= np.mean([part.drawn[list(part.heads).index(one.head), 1, METRICS.index(one.metric)] for part in parts], axis=0)
        # Basic interval: twice the difference less the quantiles.
        assert one.low == pytest.approx(2 * one.difference - np.quantile(drawn, 0.975))
        assert one.high == pytest.approx(2 * one.difference - np.quantile(drawn, 0.025))
        # Three independent histories: the mean is known 1/√3 as well as one.
        assert one.detectable < max(other.detectable for other in alone) / 1.3


def test_a_metric_that_one_seed_lacks_has_no_mean() -> None:
    table = columns(1)
    table["label_save"][:] = 0
    lacking = rows_of(table)
    parts = [resample(rows_of(columns(2)), rows_of(columns(2, scores=1)), 0, 100), resample(lacking, lacking, 0, 100)]
    auc = next(one for one in pooled(parts).differences if (one.head, one.metric) == ("save", "auc"))
    assert auc.difference is None
    assert auc.reason == "no row is positive"
