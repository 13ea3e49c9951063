"""Features of times against the formulas, in exact arithmetic; and what attention sees of the time between two actions."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch

from online_model.embedding.time_features import ABSOLUTE_PERIODS_MS, TimeRotation, gaps, log_spaced, time_features

DAY = 86_400_000
TIMES = [0, 1, 999, 1_000, 3_600_000, DAY - 1, 1_700_000_000_123, 253_402_300_799_999]


def turned(time: int, period: int) -> float:
    return 2 * math.pi * float(Fraction(time % period, period))


@pytest.mark.parametrize("periods", [ABSOLUTE_PERIODS_MS, log_spaced()])
def test_features_are_the_formulas(periods: tuple[int, ...]) -> None:
    found = time_features(torch.tensor(TIMES), torch.tensor(periods))
    assert found.dtype == torch.float32
    assert found.shape == (len(TIMES), 2 * len(periods) + 1)
    for time, row in zip(TIMES, found.tolist(), strict=True):
        angles = [turned(time, period) for period in periods]
        want = [*map(math.sin, angles), *map(math.cos, angles), math.log(1 + time / 1_000)]
        assert row == pytest.approx(want, abs=2e-6, rel=1e-6)


def test_periods_are_spread_evenly_from_a_second_to_four_weeks() -> None:
    periods = log_spaced()
    assert len(periods) == 32
    assert (periods[0], periods[-1]) == (1_000, 28 * DAY)
    steps = [math.log(b / a) for a, b in itertools.pairwise(periods)]
    assert steps == pytest.approx([math.log(28 * 86_400) / 31] * 31, rel=1e-3)


def test_a_gap_is_told_by_the_action_behind_it() -> None:
    assert gaps(torch.tensor([[5, 5, 9, 100], [7, 0, 0, 0]])).tolist() == [[0, 0, 4, 91], [0, 0, 0, 0]]


def test_attention_sees_the_time_between_and_nothing_else_of_time() -> None:
    """Turned queries and keys have the product that plain ones have at the same moment, turned by the time between them."""
    torch.manual_seed(0)
    periods = torch.tensor([[7_000, DAY], [60_000, 28 * DAY]])
    times = torch.tensor([[0, 61_000, 3_600_000, 5 * DAY + 17]])
    query, key = torch.randn(1, 2, 4, 6), torch.randn(1, 2, 4, 6)
    products = []
    for shift in (0, 1_700_000_000_000):
        rotation = TimeRotation(times + shift, periods)
        products.append(rotation(query) @ rotation(key).transpose(-1, -2))
    torch.testing.assert_close(products[0], products[1], rtol=1e-5, atol=1e-5)
    for head in range(2):
        for i in range(4):
            for j in range(4):
                want = sum(query[0, head, i, 4 + k] * key[0, head, j, 4 + k] for k in range(2))
                for pair in range(2):
                    angle = turned(int(times[0, i] - times[0, j]), int(periods[head, pair]))
                    (a, b), (c, d) = ((x[pair], x[2 + pair]) for x in (query[0, head, i], key[0, head, j]))
                    want = want + (a * c + b * d) * math.cos(angle) + (a * d - b * c) * math.sin(angle)
                assert products[0][0, head, i, j].item() == pytest.approx(float(want), abs=1e-5)
