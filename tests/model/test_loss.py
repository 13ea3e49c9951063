"""The loss is the weighted sum that it says, and a masked head has no part in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flows.errors import SettingsError
from flows.examples.record import HEADS
from online_model.model.heads import HEAD_WEIGHTS
from online_model.model.loss import loss_of, weights_of
from tests.oracles import ranker as oracle


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_weighted_sum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(20, 5)).astype(np.float32) * 3, rng.integers(-1, 2, (20, 5)).astype(np.int8)
    weights = (rng.random(20) * 5).astype(np.float32)
    got = loss_of(torch.from_numpy(logits), torch.from_numpy(labels), weights_of(HEADS), torch.from_numpy(weights).unsqueeze(1))
    expected = oracle.loss(logits.astype(np.float64), labels, [1, 1, 1, 1, 1.27], weights)
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_weights_may_be_of_rows_and_heads() -> None:
    logits, labels = torch.zeros(2, 2), torch.tensor([[1, 0], [1, 1]], dtype=torch.int8)
    weights = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert float(loss_of(logits, labels, torch.tensor([1.0, 3.0]), weights)) == pytest.approx((1 + 6) * np.log(2) / 2)


def test_a_masked_head_has_no_gradient_whatever_it_says() -> None:
    logits = torch.tensor([[0.5, 1e30, -1e30]], requires_grad=True)
    loss = loss_of(logits, torch.tensor([[1, -1, -1]], dtype=torch.int8), torch.ones(3), torch.ones(1, 1))
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert logits.grad[0, 0] != 0
    assert logits.grad[0, 1:].tolist() == [0, 0]


def test_no_rows_lose_nothing() -> None:
    assert float(loss_of(torch.zeros(0, 5), torch.zeros(0, 5, dtype=torch.int8), torch.ones(5), torch.ones(0, 1))) == 0


def test_a_revisit_weighs_more_than_a_save() -> None:
    assert HEAD_WEIGHTS["revisit"] == 1.27 * HEAD_WEIGHTS["save"]
    with pytest.raises(SettingsError, match=r"no head 'saves' \(did you mean 'save'"):
        weights_of(HEADS, {"saves": 1.0})
    with pytest.raises(SettingsError, match="'hide' has no weight"):
        weights_of(HEADS, {"click": 1.0, "long_click": 1.0, "save": 1.0})
