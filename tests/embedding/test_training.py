"""Training: it learns, it is the same again to the byte, and also if it was stopped anywhere; what can't be learned from is said."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flows import stopping
from flows.errors import CorruptionError
from online_model.embedding import training
from online_model.embedding.config import EmbeddingConfig, Negatives, Objective
from online_model.embedding.embedding_model import EmbeddingModel
from online_model.embedding.errors import NoPositivesError, VectorsError
from online_model.embedding.learned_vectors import learned_vectors
from online_model.embedding.model import PinnerFormer
from online_model.embedding.pin_vectors import PinVectors
from online_model.embedding.sequences import UserSequences, sequences_of
from online_model.embedding.training import Training, rate_at, train
from online_model.training.errors import DivergedError, TrainingStoppedError
from tests.embedding.worlds import ACTIONS, SURFACES, TINY, of_one_user, random_sequences, random_vectors, tastes


def weights(model: EmbeddingModel) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.former.state_dict().items()}


def assert_same(one: EmbeddingModel, other: EmbeddingModel) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)


def recall(model: EmbeddingModel, sequences: UserSequences, vectors: PinVectors, seen: int, k: int = 8) -> float:
    """Of what users do after their first actions, the share among the k nearest pins."""
    rank = np.arange(len(sequences.pin)) - sequences.offsets[:-1][sequences.owner]
    users, pins = model.users(sequences.where(rank < seen)), model.pins(vectors)
    near = np.argsort(-users @ pins.T, axis=1)[:, :k]
    later = rank >= seen
    rows = vectors.rows_of(sequences.pin_ids)[sequences.pin[later]]
    return float((near[sequences.owner[later]] == rows[:, None]).any(1).mean())


@pytest.mark.parametrize("trained", [False, True])
def test_it_learns_who_will_like_what(trained: bool) -> None:
    """Four groups of users, each with eight pins of its own; the vectors given say nothing of the groups."""
    sequences = tastes(0)
    vectors = PinVectors(sequences.pin_ids, np.eye(32, dtype=np.float32))
    config = replace(TINY, epochs=8, learning_rate=1e-2, trained_vectors=trained, dropout=0.0, vector_dim=32)
    model, metrics = train(sequences, vectors, config)
    assert metrics["losses"][-1] < metrics["losses"][0]
    assert (metrics["users"], metrics["users_given"], metrics["positives"]) == (120, 120, len(sequences.pin))
    fresh = EmbeddingModel(PinnerFormer(config, torch.from_numpy(vectors.vectors)), vectors, ACTIONS, SURFACES)
    assert recall(fresh, sequences, vectors, 12) < 0.5, "of 32 pins, eight are looked at"
    assert recall(model, sequences, vectors, 12) > 0.85


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": objective.value, "negatives": negatives.value}
        for objective, negatives in zip(Objective, [*Negatives, Negatives.MIXED], strict=True)
    ]
    + [{"trained_vectors": True}],
)
def test_a_stopped_training_ends_with_the_bytes_of_one_that_never_was(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = random_sequences(5, users=40)
    vectors, config = random_vectors(5, sequences), replace(TINY, **changes)
    whole, metrics = train(sequences, vectors, config)
    batches = metrics["batches"]
    assert batches >= 6
    stops = 0
    for _ in range(20):
        asked = iter([False] * 3 + [True] * 100)
        monkeypatch.setattr(stopping, "requested", lambda asked=asked: next(asked))
        try:
            model, told = train(sequences, vectors, replace(config, checkpoint_every=2), tmp_path)
            break
        except TrainingStoppedError:
            stops += 1
    assert stops >= 2
    assert_same(model, whole)
    assert told == metrics


def test_a_killed_training_goes_on_from_what_it_kept_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = random_sequences(6, users=40)
    vectors, config = random_vectors(6, sequences), replace(TINY, checkpoint_every=3)
    whole, _ = train(sequences, vectors, config)
    step = Training.step

    def killed(self: Training) -> None:
        if self.progress.batches == 5:
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(sequences, vectors, config, tmp_path)
    told: list[int] = []
    assert_same(train(sequences, vectors, config, tmp_path, lambda done, total: told.append(done))[0], whole)
    assert told[0] == 3


def test_other_trainings_do_not_go_on_from_it_and_damage_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = random_sequences(7, users=40)
    vectors = random_vectors(7, sequences)
    monkeypatch.setattr(stopping, "requested", lambda: len(list(tmp_path.rglob("batch-*"))) > 0)
    for changes in ({}, {"seed": 1}, {"epochs": 3}):
        for one in tmp_path.glob("*"):
            assert one.is_dir()
        with pytest.raises(TrainingStoppedError, match="stopped after 2 of" if not changes else "stopped after 0 of"):
            train(sequences, vectors, replace(TINY, checkpoint_every=2, **changes), tmp_path)
    monkeypatch.undo()
    first = sorted(tmp_path.rglob("batch-000000002/model.safetensors"))[0]
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    with pytest.raises(CorruptionError, match=r"model\.safetensors is not what was written; delete"):
        train(sequences, vectors, replace(TINY, checkpoint_every=2), tmp_path)


def test_every_user_is_learned_from_once_in_an_epoch() -> None:
    sequences = random_sequences(8, users=50)
    made = Training(sequences, random_vectors(8, sequences), TINY)
    orders = []
    for epoch in range(2):
        numbers = range(epoch * made.batches_in_epoch, (epoch + 1) * made.batches_in_epoch)
        users = [made._users_of(number) for number in numbers]
        assert max(map(len, users)) <= TINY.batch_users
        orders.append(np.concatenate(users).tolist())
        assert sorted(orders[-1]) == made.users.tolist()
    assert orders[0] != orders[1]


def test_nothing_to_learn_from_is_said() -> None:
    hides = of_one_user(20, "hide")
    vectors = PinVectors(hides.pin_ids, np.ones((len(hides.pin_ids), 8), np.float32))
    with pytest.raises(NoPositivesError, match=r"none of 1 users has an action before a positive one .* positive are save, closeup > 10s"):
        train(hides, vectors, TINY)
    with pytest.raises(NoPositivesError):
        train(of_one_user(1), vectors, TINY)
    with pytest.raises(NoPositivesError):
        train(of_one_user(20), PinVectors(np.array([10_000]), np.ones((1, 8), np.float32)), TINY)
    with pytest.raises(VectorsError, match="have 8 numbers, vector_dim says 9"):
        train(hides, vectors, replace(TINY, vector_dim=9))
    with pytest.raises(VectorsError, match="no pin has a vector"):
        train(of_one_user(1), learned_vectors(of_one_user(1), 8, 0), TINY)


def test_users_without_positives_and_of_100_000_actions_are_no_obstacle() -> None:
    parts = [of_one_user(100_000, user=1), of_one_user(30, "hide", user=2), of_one_user(1, user=3), of_one_user(9, user=4)]
    columns = [np.concatenate([getattr(p, name) for p in parts]) for name in ("action", "surface", "duration_ms", "time_ms")]
    user = np.concatenate([np.repeat(p.user_ids, p.lengths) for p in parts])
    pin = np.concatenate([p.pin_ids[p.pin] for p in parts])
    sequences = sequences_of(user, pin, *columns, ACTIONS, SURFACES)
    vectors = random_vectors(0, sequences, share=1.0)
    model, metrics = train(sequences, vectors, replace(TINY, objective=Objective.ALL_ACTION, window_days=10_000.0))
    assert metrics["users"] == 2
    assert np.isfinite(model.users(sequences)).all()


def test_the_temperature_is_learned_and_never_below_the_least() -> None:
    sequences = tastes(1, users=40)
    config = replace(TINY, temperature=0.02, least_temperature=0.015, learning_rate=0.1, warmup=0.0)
    model, metrics = train(sequences, random_vectors(1, sequences, share=1.0), config)
    assert metrics["temperature"] >= 0.015 - 1e-6
    assert metrics["temperature"] != pytest.approx(0.02)
    assert float(model.former.log_temperature.detach().exp()) >= 0.015 - 1e-6


def test_a_loss_that_is_no_number_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "loss_of", lambda *given: torch.tensor(torch.nan))
    sequences = random_sequences(9)
    with pytest.raises(DivergedError, match="the loss of batch 0 is nan; train again with a smaller learning_rate"):
        train(sequences, random_vectors(9, sequences), TINY)


def test_the_rate_rises_then_falls() -> None:
    rates = [rate_at(i, 100, 0.1) for i in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == 1
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.01
    assert isinstance(EmbeddingConfig().warmup, float)
