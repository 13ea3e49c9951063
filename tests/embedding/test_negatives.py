"""What positive pins are told from: the pool, a user's own pins, the correction, and the loss, each against plain counting."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from online_model.embedding.config import Negatives
from online_model.embedding.loss import sampled_softmax
from online_model.embedding.negatives import expected_count, own_pins, pool_of
from online_model.embedding.positives import Positives
from online_model.embedding.sketch import CountMinSketch
from tests.embedding.worlds import TINY, random_sequences


def positives_of(seed: int) -> Positives:
    sequences = random_sequences(seed)
    return Positives.of(sequences, np.arange(len(sequences.pin_ids)), len(sequences.pin_ids), TINY)


@pytest.mark.parametrize("seed", range(3))
def test_a_sketch_counts_exactly_where_there_is_room_and_never_too_little(seed: int) -> None:
    rng = np.random.default_rng(seed)
    numbers = (rng.pareto(0.7, 5_000) * 3).astype(np.int64) % 900
    exact = np.bincount(numbers, minlength=900)
    wide, narrow = CountMinSketch(1 << 16, 4, seed), CountMinSketch(64, 3, seed)
    for part in np.array_split(numbers, 7):
        wide.add(part)
        narrow.add(part)
    assert wide.total == narrow.total == 5_000
    assert (wide.counts(np.arange(900)) == exact).all()
    over = narrow.counts(np.arange(900)) - exact
    assert over.min() >= 0
    # Of the promise of depth 3: all but a twentieth are over by less than e/width of the total.
    assert (over > math.e / 64 * 5_000).mean() < 0.05 + math.exp(-3)
    assert over.max() > 0


@pytest.mark.parametrize("kind", list(Negatives))
def test_the_correction_is_of_exact_counts(kind: Negatives) -> None:
    """ln Q, told by the sketch, is the logarithm of how often a pin is in pools, counted over many of them."""
    positives, pins_in_all, rng = positives_of(1), 30, np.random.default_rng(1)
    popular = rng.dirichlet(np.full(pins_in_all, 0.3))
    config = replace(TINY, negatives=kind, random_negatives=20, sketch_width=1 << 14)
    sketch, users = CountMinSketch(config.sketch_width, config.sketch_depth), np.arange(8)
    seen, drawn, pools = np.zeros(pins_in_all), np.zeros(pins_in_all), 1_000
    for _ in range(pools):
        pins = rng.choice(pins_in_all, 12, p=popular)
        pool = pool_of(users, pins, positives, pins_in_all, sketch, config, rng)
        seen += np.bincount(pins, minlength=pins_in_all)
        drawn += np.bincount(pool.pin, minlength=pins_in_all)
    in_batch, at_random = (0 if kind == Negatives.RANDOM else 12), (0 if kind == Negatives.IN_BATCH else 20)
    assert len(pool.pin) == in_batch + at_random
    exact = in_batch * seen / seen.sum() + at_random / pins_in_all
    np.testing.assert_allclose(expected_count(np.arange(pins_in_all), in_batch, at_random, pins_in_all, sketch), exact)
    np.testing.assert_allclose(pool.log_q, np.log(exact[pool.pin]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pool.positive_log_q, np.log(exact[pins]), rtol=1e-5, atol=1e-6)
    often = exact > 0.05
    np.testing.assert_allclose(exact[often], (drawn / pools)[often], rtol=0.2)
    without = pool_of(users, pins, positives, pins_in_all, sketch, replace(config, log_q=False), rng)
    assert not without.log_q.any()
    assert not without.positive_log_q.any()


@pytest.mark.parametrize("seed", range(4))
def test_own_positive_pins_are_masked_and_no_others(seed: int) -> None:
    sequences, positives = random_sequences(seed), positives_of(seed)
    mine: list[set[int]] = [set() for _ in range(len(sequences))]
    owner = sequences.owner
    for place, row in zip(positives.place.tolist(), positives.row.tolist(), strict=True):
        mine[owner[place]].add(row)
    rng = np.random.default_rng(seed)
    users, pool = rng.permutation(len(sequences))[:6], rng.integers(0, len(sequences.pin_ids), 50)
    found = own_pins(users, pool, positives)
    assert found.tolist() == [[pin in mine[user] for pin in pool.tolist()] for user in users.tolist()]
    assert found.any()
    assert own_pins(users, pool[:0], positives).shape == (6, 0)


def plain_loss(
    u: np.ndarray, p: np.ndarray, c: np.ndarray, own: np.ndarray, q: np.ndarray, pq: np.ndarray, t: float, w: np.ndarray
) -> float:
    total = 0.0
    for e in range(len(u)):
        told = math.exp(float(u[e] @ p[e]) / t - pq[e])
        others = sum(math.exp(float(u[e] @ c[j]) / t - q[j]) for j in range(len(c)) if not own[e, j])
        total += float(w[e]) * -math.log(told / (told + others))
    return total


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_the_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def unit(n: int) -> np.ndarray:
        of = rng.normal(size=(n, 5))
        return of / np.linalg.norm(of, axis=1, keepdims=True)

    u, p, c = unit(6), unit(6), unit(9)
    own = rng.random((6, 9)) < 0.3
    own[0] = True
    q, pq, w = rng.normal(size=9), rng.normal(size=6), rng.random(6)
    arrays = [torch.tensor(of) for of in (u, p, c, own, q, pq, 0.2, w)]
    arrays[0].requires_grad_()
    loss = sampled_softmax(*arrays)
    assert float(loss.detach()) == pytest.approx(plain_loss(u, p, c, own, q, pq, 0.2, w))
    loss.backward()
    assert torch.isfinite(arrays[0].grad).all(), "also where nobody is left to tell it from"  # type: ignore[arg-type]
    assert (arrays[0].grad[0] == 0).all()  # type: ignore[index]
    assert (arrays[0].grad[1] != 0).any()  # type: ignore[index]
