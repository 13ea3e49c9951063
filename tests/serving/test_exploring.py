"""What is shown: the best, and others with exactly the chance that is told."""

from __future__ import annotations

import numpy as np
import pytest

from online_model.serving.exploring import NOT_SHOWN, shown_of
from tests.sparing import first


def scores(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(n).astype(np.float32) / 7


def test_without_exploring_it_is_the_best_in_order() -> None:
    score = scores(50)
    shown = shown_of(score, 8, 0.0, "r")
    assert score[shown.place].tolist() == sorted(score.tolist(), reverse=True)[:8]
    assert shown.propensity.tolist() == [1.0] * 8
    assert not shown.explored.any()
    assert len(shown.not_shown) == NOT_SHOWN
    assert not set(shown.not_shown) & set(shown.place)
    equal = shown_of(np.array([1, 3, 3, 1, 3], np.float32), 4, 0.0, "r")
    assert equal.place.tolist() == [1, 2, 4, 0]


@pytest.mark.parametrize(("n", "k"), [(1, 1), (1, 5), (5, 5), (6, 4), (7, 1), (9, 4), (40, 10)])
@pytest.mark.parametrize("share", first(3, [0.0, 0.5, 1.0, 0.1]))
def test_propensities_are_how_often_a_pin_is_in_a_slot(n: int, k: int, share: float) -> None:
    draws, score = 3_000, scores(n)
    k_shown = min(n, k)
    often, told = np.zeros((k_shown, n)), np.full((k_shown, n), np.nan)
    for i in range(draws):
        shown = shown_of(score, k, share, str(i))
        assert len(set(shown.place.tolist())) == len(shown.place) == k_shown
        slots = np.arange(k_shown)
        often[slots, shown.place] += 1
        known = told[slots, shown.place]
        # The same pin in the same slot always has the same chance.
        assert np.array_equal(known[~np.isnan(known)], shown.propensity[~np.isnan(known)])
        told[slots, shown.place] = shown.propensity
        best = np.argsort(-score, kind="stable")[:k_shown]
        assert np.array_equal(shown.explored, shown.place != best)
    assert not np.isnan(told[often > 0]).any()
    chance = np.nan_to_num(told)
    sigma = np.sqrt(np.maximum(chance * (1 - chance), 1e-12) / draws)
    assert (np.abs(often / draws - chance) <= 6 * sigma + 1e-7 + 6e-3 * (often == 0)).all()
    assert np.allclose(chance.sum(1), 1, atol=0.02)
    able = min(k_shown, n - k_shown)
    moves = (1 - np.array([told[slot, best[slot]] if not np.isnan(told[slot, best[slot]]) else 0 for slot in range(k_shown)])) > 0
    assert moves.sum() == (able if share > 0 else 0)


def test_the_request_decides_what_is_drawn() -> None:
    score = scores(100)
    one, same, other = (shown_of(score, 10, 0.5, request) for request in ("a", "a", "b"))
    assert one.place.tolist() == same.place.tolist() != other.place.tolist()
    assert one.not_shown.tolist() == same.not_shown.tolist() != other.not_shown.tolist()
