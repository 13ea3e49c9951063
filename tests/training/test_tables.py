"""Rows get the gradients of the examples they are in, each once, and nothing else moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from benchmarks._examples import examples
from online_model.model.config import ModelConfig
from online_model.model.ranker import Ranker
from online_model.training.examples import TrainingExamples
from online_model.training.tables import Tables, dropped
from tests.training.new_tables import DIM, tables

MODEL = ModelConfig(dim=DIM, sequence_length=6)


def begun(n: int = 60) -> tuple[Tables, TrainingExamples]:
    found, of = TrainingExamples.of([examples(n, users=12, pins=40, actions=6, seed=3)]), tables()
    of.begin(found, 0.5)
    rng = np.random.default_rng(0)
    for table in (of.users, of.pins):
        table.put(table.ids, rng.normal(0, 0.3, (len(table), DIM)).astype(np.float32))
    return of, found


def test_rows_stand_for_ids_and_vectors_are_theirs() -> None:
    of, found = begun()
    index = np.arange(24)
    ids, rows = (columns.features(index, 6) for columns in (found.columns, of.rows_in(found.columns)))
    assert np.array_equal(rows.user_id, of.users.rows_of(ids.user_id))
    expected = np.where(ids.sequence_mask, of.pins.rows_of(ids.sequence_pin_id.ravel()).reshape(ids.sequence_pin_id.shape), 0)
    assert np.array_equal(rows.sequence_pin_id, expected)
    inputs = of.gather(rows)
    assert np.array_equal(inputs.sequence_pin[2, 1].numpy(), of.pins.gather(rows.sequence_pin_id[2, 1:2])[0])
    assert np.array_equal(inputs.user.numpy(), of.users.gather(rows.user_id))


def test_a_row_takes_the_sum_of_all_places_it_is_in() -> None:
    of, found = begun()
    features = of.rows_in(found.columns).features(np.arange(20), 6)
    inputs = of.gather(features)
    for vectors in (inputs.user, inputs.pin, inputs.sequence_pin):
        vectors.requires_grad_()
    ranker = Ranker(MODEL).eval()
    ranker(inputs).sum().backward()

    # The same, with one tensor for each table, of which autograd keeps the sums.
    numbers = [np.arange(len(table) + 1) for table in (of.users, of.pins)]
    users, pins = (torch.from_numpy(table.gather(rows)).requires_grad_() for table, rows in zip((of.users, of.pins), numbers, strict=True))
    plain = replace(inputs, user=users[features.user_id], pin=pins[features.pin_id], sequence_pin=pins[features.sequence_pin_id])
    ranker(plain).sum().backward()

    of.apply(features, inputs, 0.1)
    for table, rows, whole in zip((of.users, of.pins), numbers, (users, pins), strict=True):
        assert whole.grad is not None
        gradient = whole.grad.numpy()
        # Accumulators began at 0.1; those of default rows had decayed by half.
        accumulators = np.where(rows == 0, 0.05, 0.1) + (gradient**2).mean(1)
        expected = whole.detach().numpy() - 0.1 * gradient / np.sqrt(accumulators)[:, None]
        np.testing.assert_allclose(table.gather(rows), expected, rtol=1e-4, atol=1e-6)
        assert (table.gather(rows) != whole.detach().numpy()).any(1).sum() > 1


def test_dropped_ids_are_the_default_row_and_what_is_asked_twice_is_the_same() -> None:
    of, found = begun(2_000)
    features = of.rows_in(found.columns).features(np.arange(2_000), 6)
    some = dropped(features, 0.3, np.random.default_rng(1))
    for name in ("user_id", "pin_id", "sequence_pin_id"):
        before, after = getattr(features, name), getattr(some, name)
        assert ((after == before) | (after == 0)).all()
        assert (after[before > 0] == 0).mean() == np.clip((after[before > 0] == 0).mean(), 0.26, 0.34)
    again = dropped(features, 0.3, np.random.default_rng(1))
    assert np.array_equal(some.sequence_pin_id, again.sequence_pin_id)
    assert dropped(features, 0.0, np.random.default_rng(1)) is features


def test_who_has_a_row_does_not_depend_on_the_order_of_examples() -> None:
    rows = examples(100, users=30, pins=60, actions=6, seed=4)
    found = []
    for order in (np.arange(100), np.random.default_rng(1).permutation(100)):
        part, of = TrainingExamples.of([rows.take(order)]), tables()
        of.begin(part, 1.0)
        found.append((of.pins.digest(), of.pins.rows_of(rows.pin_id).tolist()))
    assert found[0] == found[1]
    assert 0 in found[0][1]
    assert max(found[0][1]) > 5


def test_a_save_and_what_became_of_it_are_one_sighting() -> None:
    rows = examples(40, users=9, pins=20, actions=6, seed=6)
    part = TrainingExamples.of([rows])
    labels = np.concatenate([part.labels, np.full_like(part.labels, -1)])
    labels[40:, 4] = 0
    twice = replace(TrainingExamples.of([rows, rows]), labels=labels)
    digests = []
    for found in (part, twice):
        of = tables()
        of.begin(found, 1.0)
        digests.append((of.users.digest(), of.pins.digest()))
    assert digests[0] == digests[1]
