"""The model says what its formulas say, and of each row whatever else is asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from online_model.model.config import Encoder
from online_model.model.encoder import Encoded
from online_model.model.inputs import Inputs
from online_model.model.ranker import Ranker
from tests.model.batches import arrays, batch, config
from tests.oracles import ranker as oracle

ENCODERS = [one.value for one in Encoder]
each_encoder = pytest.mark.parametrize("encoder", ENCODERS)


def weights(ranker: Ranker) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in ranker.state_dict().items()}


def logits(ranker: Ranker, inputs: Inputs) -> np.ndarray:
    with torch.no_grad():
        return ranker.eval()(inputs).numpy()


def shaken(ranker: Ranker, seed: int = 0) -> Ranker:
    """No weight at a value that it begins with, for zeros and ones hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in ranker.named_parameters():
            value += torch.randn(value.shape, generator=generator) * 0.2
            if name.startswith("encoder.steps."):
                value[0] = 0
    return ranker


@each_encoder
@pytest.mark.parametrize("revisit", [True, False])
def test_it_is_what_the_formulas_say(encoder: str, revisit: bool) -> None:
    of = config(encoder=encoder, revisit_head=revisit, revisit_features=revisit)
    ranker, inputs = shaken(Ranker(of)), batch(3, 12, 5, of)
    expected = oracle.logits(of.to_dict(), weights(ranker), arrays(inputs))
    np.testing.assert_allclose(logits(ranker, inputs), expected, rtol=2e-4, atol=2e-4)
    assert expected.std() > 0.1


@pytest.mark.parametrize("encoder", ["none", "mean", "transact_v1_1"])
def test_a_users_embedding_is_an_input(encoder: str) -> None:
    of = config(encoder=encoder, user_embedding=5)
    ranker, inputs = shaken(Ranker(of)), batch(3, 12, 5, of)
    expected = oracle.logits(of.to_dict(), weights(ranker), arrays(inputs))
    np.testing.assert_allclose(logits(ranker, inputs), expected, rtol=2e-4, atol=2e-4)
    # Each row has its own, and one who has none is told from one whose vector is zeros.
    for changed in (torch.roll(inputs.user_embedding, 1, 0), inputs.user_embedding * torch.tensor([0, 0, 0, 0, 0, 1.0])):
        moved = np.abs(logits(ranker, replace(inputs, user_embedding=changed)) - expected).max(1)
        assert ((moved > 1e-3) == (changed != inputs.user_embedding).any(1).numpy()).all()


@each_encoder
def test_padding_changes_nothing(encoder: str) -> None:
    of = config(encoder=encoder, sequence_length=20)
    ranker, inputs = shaken(Ranker(of)), batch(4, 9, 4, of)
    short = {"sequence_action": 6, "sequence_surface": 6, "sequence_age": 6, "sequence_mask": 6, "sequence_pin": 6}
    cut = replace(inputs, **{name: getattr(inputs, name)[:, :length] for name, length in short.items()})
    longer = replace(
        cut,
        sequence_pin=torch.cat([cut.sequence_pin, torch.full((4, 14, of.dim), 50.0)], 1),
        **{
            name: torch.cat([getattr(cut, name), torch.zeros(4, 14, dtype=getattr(cut, name).dtype)], 1)
            for name in short
            if name != "sequence_pin"
        },
    )
    np.testing.assert_allclose(logits(ranker, cut), logits(ranker, longer), rtol=1e-4, atol=1e-5)


@each_encoder
def test_no_action_at_all_is_finite_and_says_nothing(encoder: str) -> None:
    of = config(encoder=encoder)
    ranker, inputs = shaken(Ranker(of)), batch(5, 6, 2, of)
    empty = replace(inputs, sequence_mask=torch.zeros_like(inputs.sequence_mask), sequence_action=inputs.sequence_action * 0,
                    sequence_surface=inputs.sequence_surface * 0)  # fmt: skip
    other = replace(empty, sequence_pin=empty.sequence_pin + 3)
    assert np.isfinite(logits(ranker, empty)).all()
    assert np.array_equal(logits(ranker, empty), logits(ranker, other))
    ranker.train()
    for tensor in (empty.user, empty.pin, empty.sequence_pin):
        tensor.requires_grad_()
    ranker(empty).sum().backward()
    assert all(torch.isfinite(value.grad).all() for value in ranker.parameters() if value.grad is not None)
    assert empty.sequence_pin.grad is None or not empty.sequence_pin.grad.any()


@each_encoder
def test_a_mask_hides_vectors_and_gradients(encoder: str) -> None:
    of = config(encoder=encoder)
    ranker, inputs = shaken(Ranker(of)).eval(), batch(6, 8, 4, of)
    inputs.sequence_pin.requires_grad_()
    ranker(inputs).sum().backward()
    gradient = inputs.sequence_pin.grad
    if encoder == "none":
        assert gradient is None
        return
    assert not gradient[~inputs.sequence_mask].any()
    used = torch.zeros(4, dtype=torch.bool).index_fill(0, inputs.context, True)
    seen = gradient.abs().sum((1, 2)) > 0
    assert torch.equal(seen, used & inputs.sequence_mask.any(1))


@each_encoder
def test_huge_values_give_finite_logits(encoder: str) -> None:
    of = config(encoder=encoder)
    inputs = batch(7, 8, 3, of)
    sign = torch.where(torch.rand(8, of.dim) < 0.5, -1.0, 1.0)
    huge = replace(
        inputs, user=sign * 100, pin=-sign * 100, sequence_pin=torch.full_like(inputs.sequence_pin, 100.0),
        user_counters=torch.full((3, 24), 16.0), pin_counters=torch.full((8, 24), 16.0), slot=inputs.slot + 30_000,
        sequence_age=torch.full_like(inputs.sequence_age, 1e9),
    )  # fmt: skip
    for ranker in (Ranker(of), shaken(Ranker(of))):
        assert np.isfinite(logits(ranker, huge)).all()
        ranker.train()
        ranker(huge).sum().backward()
        assert all(torch.isfinite(value.grad).all() for value in ranker.parameters() if value.grad is not None)


def test_the_candidate_is_in_every_step_of_v1_1_alone() -> None:
    def moves(encoder: str) -> bool:
        ranker = shaken(Ranker(config(encoder=encoder))).eval()
        inputs = batch(8, 3, 2, ranker.config)
        whole: Encoded = ranker.encoder.of_contexts(inputs)
        context = torch.tensor([1, 1, 1])
        return not torch.equal(ranker.encoder.of_rows(whole, context, inputs.pin), ranker.encoder.of_rows(whole, context, inputs.pin + 1))

    assert [name for name in ENCODERS if moves(name)] == ["transact_v1_1"]


@pytest.mark.parametrize("encoder", ["transact_v1_0", "transact_v1_1"])
def test_training_hides_a_random_time_before_the_request(encoder: str) -> None:
    of = config(encoder=encoder, window_hours=24.0)
    ranker = Ranker(of).train()
    inputs = batch(9, 4, 400, of)
    inputs = replace(
        inputs, sequence_mask=torch.ones(400, 7, dtype=torch.bool), sequence_age=torch.tensor([0.0, 6, 12, 18, 24, 48, 900]).expand(400, 7)
    )
    torch.manual_seed(1)
    seen = ranker.encoder.mask(inputs).float().mean(0)  # type: ignore[operator]
    np.testing.assert_allclose(seen.numpy(), [0, 0.25, 0.5, 0.75, 1, 1, 1], atol=0.08)
    assert ranker.eval().encoder.mask(inputs).all()  # type: ignore[operator]


@each_encoder
def test_first_weights_follow_from_the_seed_alone(encoder: str) -> None:
    torch.manual_seed(1)
    first = weights(Ranker(config(encoder=encoder, seed=3)))
    state = torch.get_rng_state()
    again, other = weights(Ranker(config(encoder=encoder, seed=3))), weights(Ranker(config(encoder=encoder, seed=4)))
    assert torch.equal(state, torch.get_rng_state())
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


def test_gates_lose_experts_in_training_alone_and_never_all() -> None:
    ranker = shaken(Ranker(config(expert_dropout=0.6)))
    x = torch.randn(2_000, ranker.mixture.gates.in_features)
    torch.manual_seed(2)
    with torch.no_grad():
        whole, some = ranker.eval().mixture.shares(x), ranker.train().mixture.shares(x)
    assert (whole > 0).all()
    np.testing.assert_allclose(some.sum(-1).numpy(), 1, rtol=1e-5)
    # Of three experts, all are lost with 0.6³, and then none is.
    assert abs(float((some == 0).float().mean()) - 0.6 * (1 - 0.6**2)) < 0.02
    kept = some > 0
    expected = torch.where(kept, whole, 0.0)
    np.testing.assert_allclose(some.numpy(), (expected / expected.sum(-1, keepdim=True)).numpy(), rtol=1e-4, atol=1e-6)
