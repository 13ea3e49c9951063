"""Both towers: no output knows what comes after it, padding and neighbours change no bit, and each feature is seen where it is asked for."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from online_model.embedding import embedding_model
from online_model.embedding.batches import Windows, vector_rows
from online_model.embedding.config import FEATURES, EmbeddingConfig
from online_model.embedding.embedding_model import EmbeddingModel
from online_model.embedding.errors import OtherActionsError
from online_model.embedding.model import ActionBatch, PinnerFormer
from online_model.embedding.pin_vectors import PinVectors
from online_model.embedding.sequences import UserSequences
from tests.embedding.worlds import ACTIONS, DAY, SURFACES, TINY, of_one_user, random_sequences, random_vectors


def model_of(sequences: UserSequences, config: EmbeddingConfig = TINY, **changes: object) -> EmbeddingModel:
    vectors = random_vectors(0, sequences, config.vector_dim)
    former = PinnerFormer(replace(config, **changes), torch.from_numpy(vectors.vectors))  # type: ignore[arg-type]
    with torch.no_grad():
        former.vectors.unknown.normal_(generator=torch.Generator().manual_seed(0))
    return EmbeddingModel(former.eval(), vectors, dict(sequences.actions), dict(sequences.surfaces))


def batch_of(sequences: UserSequences, model: EmbeddingModel, length: int = 16, rows: int | None = None) -> ActionBatch:
    found = vector_rows(model.vectors.rows_of(sequences.pin_ids), len(model.vectors))
    last = sequences.offsets[1:]
    return Windows(sequences, found).batch(np.maximum(last - length, sequences.offsets[:-1]), last, length, rows)


def outputs(model: EmbeddingModel, batch: ActionBatch) -> torch.Tensor:
    with torch.inference_mode():
        return model.former.outputs(model.former.states(batch))


@pytest.mark.parametrize("field", ["pin", "action", "surface", "duration_ms", "time_ms"])
def test_a_later_action_never_changes_an_earlier_output(field: str) -> None:
    sequences = random_sequences(1, users=9, most=16)
    model = model_of(sequences)
    batch = batch_of(sequences, model)
    before = outputs(model, batch)
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    for at in range(16):
        changed = values[field].clone()
        changed[:, at:] += {"time_ms": 12_345, "duration_ms": 7_000}.get(field, 1)
        changed = changed.clamp(max=len(model.vectors)) if field == "pin" else changed
        after = outputs(model, ActionBatch(**values | {field: changed}))
        assert torch.equal(before[:, :at], after[:, :at])
        seen = changed[:, at] != values[field][:, at]
        assert (before[:, at] != after[:, at]).any(1)[seen].all(), "nor is it unseen where it is"


def test_padding_and_neighbours_change_no_bit() -> None:
    sequences = random_sequences(2, users=40, most=90)
    model = model_of(sequences, length=64)
    among = model.users(sequences)
    assert among.shape == (40, 8)
    assert among.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(among, axis=1), 1, rtol=1e-5)
    for i in range(0, len(sequences), 7):
        assert (model.users(sequences.take(np.array([i]))) == among[i]).all()
    backwards = sequences.take(np.arange(len(sequences))[::-1])
    assert (model.users(backwards)[::-1] == among).all()
    assert len(np.unique(among, axis=0)) == 40


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_of_a_batch_is_the_same_wherever_it_lies(threads: int) -> None:
    """Shapes of the real size: what a matrix product does at the edge of its blocks, or shares among threads, must not show."""
    torch.set_num_threads(threads)
    sequences = of_one_user(70)
    model = model_of(sequences, config=EmbeddingConfig(vector_dim=8, positives=("save",)))
    copies = UserSequences(
        np.arange(130), 70 * np.arange(131), *(np.tile(getattr(sequences, n), 130) for n in ("pin", "action", "surface", "duration_ms", "time_ms")),
        sequences.pin_ids, ACTIONS, SURFACES,
    )  # fmt: skip
    found = model.users(copies)
    assert (found == found[0]).all()
    assert len(range(0, 130, embedding_model._TOKENS // 128)) > 2
    pins = PinVectors(np.arange(3_000), np.tile(model.vectors.vectors[:1], (3_000, 1)))
    assert (model.pins(pins) == model.pins(pins)[0]).all()


def test_only_the_newest_actions_up_to_the_moment_count() -> None:
    sequences = random_sequences(3, most=40)
    model = model_of(sequences)
    assert (model.users(sequences) == model.users(sequences.newest(16))).all()
    moments = sequences.time_ms[sequences.offsets[1:] - 1] - 5 * DAY
    assert (model.users(sequences, moments) == model.users(sequences.until(moments))).all()
    nobody = model.users(sequences, 0)
    assert (nobody == 0).all()
    assert model.users(sequences.take(np.empty(0, np.int64))).shape == (0, 8)


def test_many_actions_and_one() -> None:
    many = of_one_user(100_000)
    model = model_of(many)
    assert (model.users(many) == model.users(many.newest(16))).all()
    one = model.users(of_one_user(1))
    assert np.isfinite(one).all()
    assert np.linalg.norm(one) == pytest.approx(1)


def test_pins_without_a_vector_are_one_unknown_pin() -> None:
    sequences = random_sequences(4)
    model = model_of(sequences)
    without = np.setdiff1d(sequences.pin_ids, model.vectors.ids)
    assert len(without) >= 2
    a, b = np.searchsorted(sequences.pin_ids, without[:2])
    renamed = replace(sequences, pin=np.where(sequences.pin == a, b, sequences.pin).astype(np.int32))
    assert (model.users(renamed) == model.users(sequences)).all()
    known = int(np.searchsorted(sequences.pin_ids, model.vectors.ids[0]))
    renamed = replace(sequences, pin=np.where(sequences.pin == a, known, sequences.pin).astype(np.int32))
    assert (model.users(renamed) != model.users(sequences)).any()


def test_pins_are_unit_vectors_whatever_the_length_of_theirs() -> None:
    sequences = random_sequences(5)
    model = model_of(sequences)
    pins = model.pins(model.vectors)
    np.testing.assert_allclose(np.linalg.norm(pins, axis=1), 1, rtol=1e-5)
    longer = PinVectors(model.vectors.ids, model.vectors.vectors * 8)
    np.testing.assert_allclose(model.pins(longer), pins, atol=1e-5)
    with pytest.raises(OtherActionsError, match="have 3 numbers; the embedding was trained with 8"):
        model.pins(PinVectors(np.arange(2), np.ones((2, 3), np.float32)))


@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_is_seen_if_it_is_asked_for(feature: str) -> None:
    sequences = random_sequences(6, users=20)
    column = {"pin": "pin", "action": "action", "surface": "surface", "duration": "duration_ms"}.get(feature, "time_ms")
    values = getattr(sequences, column)
    if feature == "absolute_time":
        changed = values + 7 * 3_600_000
    elif column == "time_ms":
        # Whole periods of all that tells the time of day and year are left out by asking for nothing else.
        changed = np.sort(values.reshape(-1) // 3 + sequences.owner * 10**13) - sequences.owner * 10**13
    else:
        changed = ((values + 1) % (values.max() + 1)).astype(values.dtype)
    other = replace(sequences, **{column: changed})
    alone = model_of(sequences, features=("pin", feature)) if feature != "pin" else model_of(sequences, features=("pin",))
    assert (alone.users(other) != alone.users(sequences)).any(1).sum() >= len(sequences) // 2
    others = [name for name in FEATURES if name != feature and not (column == "time_ms" and name in FEATURES[4:])]
    without = model_of(sequences, features=tuple(others))
    assert (without.users(other) == without.users(sequences)).all()


def test_other_codes_are_refused() -> None:
    sequences = random_sequences(7)
    model = model_of(sequences)
    with pytest.raises(OtherActionsError, match="action 'save' has code 9, and had 4 when this was trained"):
        model.users(replace(sequences, actions=ACTIONS | {"save": 9}))
    assert (model.users(replace(sequences, actions=ACTIONS | {"share": 32})) == model.users(sequences)).all()


def test_the_same_configuration_makes_the_same_model() -> None:
    sequences = random_sequences(8)
    assert (model_of(sequences).users(sequences) == model_of(sequences).users(sequences)).all()
    assert (model_of(sequences, seed=1).users(sequences) != model_of(sequences).users(sequences)).any()
