"""What is learned from: final rows alone, of one fingerprint, split by when they became known, down-sampled where all is negative."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks._examples import examples
from flows.errors import FingerprintError, InputError, SettingsError
from flows.examples.record import Kind
from online_model.training.config import TrainingConfig
from online_model.training.examples import DAY_MS, Spans, TrainingExamples
from online_model.training.order import Order


def made(n: int = 200, seed: int = 0) -> TrainingExamples:
    return TrainingExamples.of([examples(n, users=20, pins=30, actions=4, seed=seed)])


def test_only_final_rows_get_in() -> None:
    rows = examples(30, users=9, pins=9, actions=4)
    kind = np.array([Kind.NEGATIVE, Kind.POSITIVE, Kind.FINAL], np.int8)[np.arange(30) % 3]
    found = TrainingExamples.of([replace(rows, kind=kind)])
    assert np.array_equal(found.labels, rows.labels[2::3])
    assert np.array_equal(found.columns.pin_id, rows.pin_id[2::3])
    with pytest.raises(InputError, match="no final example"):
        TrainingExamples.of([replace(rows, kind=kind * 0)])
    with pytest.raises(InputError, match="no final example"):
        TrainingExamples.of([])


def test_labels_that_cannot_be_are_refused() -> None:
    rows = examples(30, users=9, pins=9, actions=4)
    with pytest.raises(InputError, match="a label is 3"):
        TrainingExamples.of([replace(rows, labels=rows.labels * 0 + 3)])


def test_features_of_other_definitions_are_refused() -> None:
    rows = examples(30, users=9, pins=9, actions=4)
    assert TrainingExamples.of([rows], "made-up").fingerprint == "made-up"
    with pytest.raises(FingerprintError, match="under fingerprint made-up, not today's"):
        TrainingExamples.of([rows], "today's")
    mixed = replace(rows, fingerprint=(np.arange(30) % 2).astype(np.int32), fingerprints=("a", "b"))
    with pytest.raises(FingerprintError, match="several fingerprints \\(a, b\\)"):
        TrainingExamples.of([mixed])
    assert TrainingExamples.of([mixed.take(np.arange(0, 30, 2))]).fingerprint == "a"
    with pytest.raises(FingerprintError, match="isn't known"):
        TrainingExamples.of([replace(rows, fingerprint=rows.fingerprint - 1)])


def test_spans_follow_each_other_and_share_nothing() -> None:
    end = 100 * DAY_MS
    time = np.array([69, 68.99, 95.9, 96, 96.99, 97, 99.99, 100, 101]) * DAY_MS
    train, calibration, evaluation = Spans().split(time.astype(np.int64), end)
    assert train.tolist() == [True, False, True, *[False] * 6]
    assert calibration.tolist() == [*[False] * 3, True, True, *[False] * 4]
    assert evaluation.tolist() == [*[False] * 5, True, True, False, False]
    with pytest.raises(SettingsError, match="train_days"):
        Spans(train_days=-1)


def test_every_example_is_in_one_batch() -> None:
    found = made()
    order = Order.of(found, TrainingConfig(batch_size=64), 5)
    batches = [order.batch(i).tolist() for i in range(len(order))]
    assert [len(one) for one in batches] == [64, 64, 64, 8]
    together = np.concatenate(batches).tolist()
    assert sorted(together) == list(range(200))
    assert together != list(range(200))
    assert (order.weight == 1).all()
    assert not np.array_equal(order.index, Order.of(found, TrainingConfig(batch_size=64, seed=1), 5).index)


def test_down_sampling_touches_what_is_negative_on_every_head() -> None:
    found = made(4_000)
    labels = found.labels.copy()
    labels[::50, 4] = -1  # not known on every head
    found = replace(found, labels=labels)
    order = Order.of(found, TrainingConfig(negatives_kept=0.25), 5)
    negative = (labels == 0).all(1)
    kept = np.zeros(4_000, bool)
    kept[order.index] = True
    assert kept[~negative].all()
    assert kept[negative].mean() == pytest.approx(0.25, abs=0.03)
    assert set(order.weight[negative].tolist()) == {4.0}
    assert set(order.weight[~negative].tolist()) == {1.0}
    # The weighted number of examples is what it was, but for chance.
    assert order.weight[order.index].sum() == pytest.approx(4_000, rel=0.06)


def test_what_became_of_a_save_a_week_later_is_learned_by_the_revisit_head_and_no_sighting() -> None:
    found = made(100)
    labels = found.labels.copy()
    labels[:40, :4] = -1
    found = replace(found, labels=labels)
    assert found.sightings().tolist() == [False] * 40 + [True] * 60
    assert sorted(Order.of(found, TrainingConfig(), 5).index.tolist()) == list(range(100))
    assert sorted(Order.of(found, TrainingConfig(), 4).index.tolist()) == list(range(40, 100))


def test_a_digest_is_of_everything_that_is_learned_from() -> None:
    found = made()
    assert found.digest() == made().digest()
    labels = found.labels.copy()
    labels[3, 0] ^= 1
    others = [
        replace(found, labels=labels),
        replace(found, seen_at=found.seen_at + 1),
        replace(found, fingerprint="x"),
        replace(found, columns=replace(found.columns, action_time=found.columns.action_time + 1)),
    ]
    assert len({one.digest() for one in (found, *others)}) == 5


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"negatives_kept": 0.0}, "negatives_kept"),
        ({"negatives_kept": 1.5}, "negatives_kept"),
        ({"id_dropout": 1.0}, "id_dropout"),
        ({"accumulator_decay": 0.0}, "accumulator_decay"),
        ({"head_weights": {"save": 1.0}}, "has no weight"),
    ],
)
def test_settings_that_make_no_training_are_refused(values: dict, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        TrainingConfig(**values)
