"""A row's logits are the same to the bit alone, in a batch of 512 and in any order; the score weighs probabilities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from flows.errors import SettingsError
from flows.examples.record import HEADS
from online_model.model.config import Encoder, ModelConfig
from online_model.model.inputs import CONTEXT_FIELDS, Inputs
from online_model.model.ranker import Ranker
from online_model.model.scoring import _ROW_FIELDS, UTILITY, score_rows, utility_of
from tests.model.batches import batch, config


def some(inputs: Inputs, rows: np.ndarray, contexts: np.ndarray) -> Inputs:
    """Some rows and requests, in that order; the requests must hold the rows'."""
    place = {one: i for i, one in enumerate(contexts.tolist())}
    cut = {name: getattr(inputs, name)[torch.from_numpy(rows)] for name in _ROW_FIELDS}
    cut |= {name: getattr(inputs, name)[torch.from_numpy(contexts)] for name in CONTEXT_FIELDS}
    return Inputs(**cut | {"context": torch.tensor([place[one] for one in cut["context"].tolist()], dtype=torch.int64)})


@pytest.mark.parametrize(("encoder", "embedding"), [*((one.value, 0) for one in Encoder), ("mean", 48)])
def test_a_row_is_the_same_to_the_bit_whatever_it_is_asked_with(encoder: str, embedding: int) -> None:
    of = ModelConfig(encoder=Encoder(encoder), sequence_length=24, dim=16, user_embedding=embedding)
    ranker, inputs = Ranker(of), batch(1, 512, 37, of)
    whole = score_rows(ranker, inputs)
    rng = np.random.default_rng(2)
    for row in (0, 63, 64, 200, 511):
        assert np.array_equal(score_rows(ranker, some(inputs, np.array([row]), inputs.context[row : row + 1].numpy()))[0], whole[row])
    order, requests = rng.permutation(512), rng.permutation(37)
    assert np.array_equal(score_rows(ranker, some(inputs, order, requests)), whole[order])
    part = rng.choice(512, 100, replace=False)
    assert np.array_equal(score_rows(ranker, some(inputs, part, np.unique(inputs.context[part].numpy()))), whole[part])
    assert whole.std(0).min() > 1e-3


def test_it_says_what_the_model_says_in_the_serving_slot() -> None:
    of = config(serving_slot=2)
    ranker, inputs = Ranker(of).train(), batch(2, 100, 9, of)
    scored = score_rows(ranker, inputs)
    assert ranker.training
    with torch.no_grad():
        expected = ranker.eval()(replace(inputs, slot=torch.full((100,), 2)))
    np.testing.assert_allclose(scored, expected.numpy(), rtol=1e-5, atol=1e-6)
    assert np.array_equal(scored, score_rows(ranker, replace(inputs, slot=inputs.slot * 0 - 1)))


def test_no_rows() -> None:
    of = config(revisit_head=False)
    assert score_rows(Ranker(of), batch(3, 0, 2, of)).shape == (0, 4)


def test_the_score_weighs_probabilities_and_a_hide_counts_against() -> None:
    probabilities = np.array([[0.5, 0.25, 0.1, 0.0, 0.1], [0.5, 0.25, 0.1, 0.2, 0.1]])
    score = utility_of(probabilities, HEADS)
    assert score[0] == pytest.approx(0.25 + 0.25 + 0.2 + 0.2)
    assert score[1] == pytest.approx(score[0] + 0.2 * UTILITY["hide"])
    assert score[1] < score[0]
    with pytest.raises(SettingsError, match="'hide' has no utility"):
        utility_of(probabilities, HEADS, {"click": 1.0, "long_click": 1.0, "save": 1.0})
