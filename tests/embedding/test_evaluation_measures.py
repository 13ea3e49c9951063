"""The paper's measures, against plain loops."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from online_model.embedding.evaluation.measures import coverage, entropy_of_topics, found, nearest, recall_of_users
from online_model.training.errors import DivergedError


def unit(rng: np.random.Generator, n: int, dim: int = 3) -> np.ndarray:
    # Eighths, of which products and sums are exact: so ties are ties, in whatever order they are added.
    return (rng.integers(-8, 9, (n, dim)) / 8).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_a_pin_is_found_if_fewer_than_k_others_are_nearer_or_as_near(seed: int) -> None:
    rng = np.random.default_rng(seed)
    users, pins = unit(rng, 7), unit(rng, 40)
    corpus = np.sort(rng.choice(40, 25, replace=False))
    which, pin = rng.integers(0, 7, 600), rng.integers(0, 40, 600)
    assert np.isin(pin, corpus).any()
    assert not np.isin(pin, corpus).all()
    for k in (1, 5):
        hit = found(users, pins, corpus, which, pin, k)
        for i in range(600):
            own = float(users[which[i]] @ pins[pin[i]])
            others = sum(float(users[which[i]] @ pins[c]) >= own for c in corpus if c != pin[i])
            assert hit[i] == (others < k)
    assert 0 < hit.mean() < 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("what", ["user", "pin"])
def test_what_is_not_finite_is_never_found(what: str, bad: float) -> None:
    rng = np.random.default_rng(1)
    users, pins = unit(rng, 3), unit(rng, 30)
    {"user": users, "pin": pins}[what][2, 1] = bad
    corpus = np.arange(10, 30)
    # Nobody asks about it.
    found(users, pins, corpus, np.array([0, 1]), np.array([3, 4]))
    with pytest.raises(DivergedError, match=f"not finite .* for 1 of 2 {what}s"):
        found(users, pins, corpus, np.array([0, 2]), np.array([3, 2]))
    if what == "pin":
        with pytest.raises(DivergedError, match="for 1 of 3 pins"):
            found(users, pins, np.array([2, 10, 11]), np.array([0]), np.array([3]))


def test_recall_is_of_each_user_and_nan_where_there_is_nothing_to_find() -> None:
    recall = recall_of_users(np.array([True, False, True, True]), np.array([0, 0, 2, 2]), 4)
    assert recall[0] == 0.5
    assert recall[2] == 1
    assert np.isnan(recall[[1, 3]]).all()


def test_entropy_is_of_the_topics_that_are_known() -> None:
    near, topic = np.array([[0, 1, 2, 3], [0, 0, 0, 0], [4, 4, 4, 4]]), np.array([0, 0, 1, 2, -1])
    said = entropy_of_topics(near, topic)
    counts = Counter([0, 0, 1, 2])
    assert said[0] == pytest.approx(-sum(n / 4 * math.log(n / 4) for n in counts.values()))
    assert said[1:].tolist() == [0, 0]
    assert entropy_of_topics(np.array([[0, 4]]), topic)[0] == 0, "a pin without a topic counts for nothing"
    assert entropy_of_topics(near, np.full(5, -1)).tolist() == [0, 0, 0]


def naive_coverage(lists: list[list[int]], corpus: int) -> float:
    """By trying how few pins are enough."""
    times = Counter(pin for one in lists for pin in one)
    total, so_far, pins = sum(times.values()), 0, 0
    for _, count in times.most_common():
        if 10 * so_far >= 9 * total:
            break
        so_far, pins = so_far + count, pins + 1
    return pins / corpus


@pytest.mark.parametrize("seed", range(6))
def test_coverage_is_the_least_share_that_makes_up_nine_tenths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    near = np.argsort(rng.random((20, 60)) - rng.random(60) * (seed % 3), axis=1)[:, :10]
    assert coverage(near, 60) == naive_coverage(near.tolist(), 60)


def test_the_same_ten_pins_for_everybody_cover_nine_of_the_corpus() -> None:
    assert coverage(np.tile(np.arange(10), (30, 1)), 1_000) == 9 / 1_000


def test_nearest_are_of_the_corpus_alone() -> None:
    rng = np.random.default_rng(3)
    users, pins, corpus = rng.normal(size=(4, 5)), rng.normal(size=(30, 5)), np.array([3, 8, 9, 20, 29])
    near = nearest(users.astype(np.float32), pins.astype(np.float32), corpus, 3)
    for row, user in zip(near, users, strict=True):
        assert corpus[row].tolist() == sorted(corpus, key=lambda c: -float(user @ pins[c]))[:3]
