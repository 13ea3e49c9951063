"""A micro-batch moves the rows that it must, as far as it must, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks._example_stream import stream
from benchmarks._examples import examples
from flows.examples.picked import Picked
from flows.examples.record import HEADS, MASKED, Kind
from flows.examples.rows import ExampleRows
from online_model.learner.config import LearnerConfig
from online_model.learner.delayed import DelayedLabels, weights_for
from online_model.learner.errors import UnlearnableError
from online_model.learner.prepared import prepare
from online_model.learner.step import DAY_MS, Step
from online_model.model.columns import Features
from online_model.model.config import Encoder, ModelConfig
from online_model.model.inputs import VECTOR_LIMIT, features_of
from online_model.model.ranker import Ranker
from online_model.table import EmbeddingTable, TableConfig
from online_model.training.tables import Tables
from tests.oracles import ranker as naive_ranker
from tests.oracles.embedding_table import NaiveTable

DIM, RATE = 4, 0.1
CONFIG = LearnerConfig(learning_rate=RATE)
WEIGHTS = [CONFIG.head_weights[head] for head in HEADS]
DEFAULTS = [np.full(DIM, value, np.float32) for value in (0.1, -0.2)]


def model(encoder: str = "mean", **changes: object) -> ModelConfig:
    settings = {
        "dim": DIM,
        "sequence_length": 5,
        "encoder_hidden": 8,
        "first_outputs": 3,
        "cross_rank": 6,
        "experts": 2,
        "expert_hidden": 6,
        "seed": 3,
    }
    return ModelConfig(encoder=Encoder(encoder), **(settings | changes))  # type: ignore[arg-type]


def shaken(config: ModelConfig) -> Ranker:
    """Larger weights than those a model begins with, so that vectors matter."""
    ranker = Ranker(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in ranker.named_parameters():
            value += torch.randn(value.shape, generator=generator) * 0.2
            if name.startswith("encoder.steps."):
                value[0] = 0
    return ranker


def tables(admit_after: int = 1, candidates: int = 1 << 17) -> Tables:
    return Tables(*(EmbeddingTable(TableConfig(DIM, admit_after, candidates), default) for default in DEFAULTS))


def records(n: int = 40, seed: int = 0, users: int = 6, pins: int = 10) -> ExampleRows:
    return stream(examples(n, users=users, pins=pins, actions=6, per_request=4, seed=seed), seed)


def arrays(features: Features, vectors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: getattr(features, name) for name in Features.__dataclass_fields__} | vectors


class Naive:
    """A learner, one record at a time, in double precision; gradients by differences."""

    def __init__(self, ranker: Ranker, way: str, admit_after: int) -> None:
        self.config = ranker.config.to_dict()
        self.weights = {name: value.detach().numpy().astype(np.float64) for name, value in ranker.state_dict().items()}
        self.way = way
        self.user, self.pin = (NaiveTable(DIM, admit_after, 1 << 17, 0.1, 1e-8, default) for default in DEFAULTS)

    def learn(self, rows: ExampleRows) -> None:
        kinds = {"fake-negative": {0, 1}, "wait": {2}, "positives-first": {1, 2}}[self.way]
        learned = [i for i in range(len(rows)) if int(rows.kind[i]) in kinds]
        for i in learned:
            counts = rows.kind[i] == 0 if self.way == "fake-negative" else rows.kind[i] == 2 and any(rows.labels[i, :4] != MASKED)
            if counts:
                self.user.see(int(rows.user_id[i]), int(rows.impression_time[i]))
                self.pin.see(int(rows.pin_id[i]), int(rows.impression_time[i]))
        gradients = [self.gradients(rows.take(np.array([i]))) for i in learned]
        for table, ids, which in ((self.user, rows.user_id, 0), (self.pin, rows.pin_id, 1)):
            known = [int(ids[i]) if int(ids[i]) in table.rows else None for i in learned]
            table.apply(known, np.array([g[which] for g in gradients]).reshape(-1, DIM), RATE)

    def gradients(self, row: ExampleRows) -> tuple[np.ndarray, np.ndarray]:
        features = features_of(row, ModelConfig.from_dict(self.config))
        user, pin = self.user.vector(int(row.user_id[0])), self.pin.vector(int(row.pin_id[0]))
        sequence = np.array([self.pin.vector(int(i)) for i in features.sequence_pin_id[0]])[None]

        def logits(user: np.ndarray, pin: np.ndarray) -> np.ndarray:
            given = arrays(features, {"user": user[None], "pin": pin[None], "sequence_pin": sequence})
            return naive_ranker.logits(self.config, self.weights, given)[0]

        slopes = []
        for head, z in enumerate(logits(user, pin)):
            label, p = int(row.labels[0, head]), 1 / (1 + np.exp(-z))
            if self.way == "positives-first" and row.kind[0] == Kind.FINAL and label == 1:
                label = MASKED
            weight = 1.0
            if self.way == "fake-negative":
                weight = 1 + p if label else (1 - p) * (1 + p)
            slopes.append(0.0 if label == MASKED else WEIGHTS[head] * weight * (p - label))

        def total(user: np.ndarray, pin: np.ndarray) -> float:
            return float(np.dot(slopes, logits(user, pin)))

        out = np.zeros((2, DIM))
        step = 1e-5
        for i in range(DIM):
            move = np.zeros(DIM)
            move[i] = step
            out[0, i] = (total(user + move, pin) - total(user - move, pin)) / (2 * step)
            out[1, i] = (total(user, pin + move) - total(user, pin - move)) / (2 * step)
        return out[0], out[1]


@pytest.mark.parametrize("way", [way.value for way in DelayedLabels])
@pytest.mark.parametrize(("encoder", "admit_after"), [("mean", 1), ("mean", 3), ("transact_v1_1", 2)])
def test_rows_move_as_the_definition_says(way: str, encoder: str, admit_after: int) -> None:
    ranker = shaken(model(encoder))
    step = Step(ranker, tables(admit_after), replace(CONFIG, delayed_labels=DelayedLabels(way)))
    naive = Naive(ranker, way, admit_after)
    rows = records(24)
    moved = 0.0
    for low in range(0, len(rows), 17):
        some = rows.take(np.arange(low, min(low + 17, len(rows))))
        step.learn(some)
        naive.learn(some)
        for table, expected, default in ((step.tables.users, naive.user, DEFAULTS[0]), (step.tables.pins, naive.pin, DEFAULTS[1])):
            assert table.ids.tolist() == sorted(expected.rows)
            got = table.gather(table.rows_of(table.ids))
            wanted = np.array([expected.rows[i].vector for i in sorted(expected.rows)]).reshape(-1, DIM)
            np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=2e-4)
            moved = max(moved, np.abs(got - default).max(initial=0))
    assert moved > 0.05


@pytest.mark.parametrize("where", ["user", "pin", "sequence"])
def test_a_vector_that_is_too_large_counts_as_the_largest(where: str) -> None:
    rows = records(8, pins=40)
    features = features_of(rows, model())
    others = np.setdiff1d(features.sequence_pin_id[features.sequence_mask], rows.pin_id)
    row = {"user": rows.user_id[:1], "pin": rows.pin_id[:1], "sequence": others[:1]}
    said = []
    for value in (VECTOR_LIMIT, 3 * VECTOR_LIMIT, VECTOR_LIMIT / 2):
        step = Step(shaken(model()), tables(), CONFIG)
        (step.tables.users if where == "user" else step.tables.pins).put(row[where], np.full((1, DIM), value, np.float32))
        said.append(step.learn(rows).logits.tobytes())
    assert said[0] == said[1] != said[2]


@pytest.mark.parametrize("encoder", ["mean", "transact_v1_1"])
def test_nothing_else_is_touched(encoder: str) -> None:
    ranker = shaken(model(encoder))
    step = Step(ranker, tables(), CONFIG)
    rows = records(80, users=12, pins=30)
    step.learn(rows.take(np.arange(len(rows) // 2)))
    dense = {name: value.clone() for name, value in ranker.state_dict().items()}
    step.tables.users.take_changed(), step.tables.pins.take_changed()
    before = [table.state() for table in (step.tables.users, step.tables.pins)]
    # In its sequence, but no candidate of it.
    batch = rows.take(np.arange(len(rows) - 6, len(rows)))
    batch = replace(batch, kind=np.full(6, Kind.NEGATIVE, np.int8), labels=np.zeros_like(batch.labels))
    done = step.learn(batch)
    assert done.examples == 6
    assert set(batch.users.sequence["pin_id"].tolist()) - set(batch.pin_id.tolist())
    for table, old, ids in zip((step.tables.users, step.tables.pins), before, (batch.user_id, batch.pin_id), strict=True):
        changed, deleted = table.take_changed()
        assert set(changed.tolist()) == set(ids.tolist())
        assert not len(deleted)
        new = table.state()
        same = ~np.isin(new["ids"], ids)
        at = np.searchsorted(old["ids"], new["ids"][same])
        for name in ("ids", "weights", "accumulators", "counts", "last_seen"):
            assert new[name][same].tobytes() == old[name][at].tobytes()
        for name in ("default", "default_accumulator"):
            assert new[name].tobytes() == old[name].tobytes()
        learned = np.flatnonzero(~same)
        assert (new["weights"][learned] != old["weights"][np.searchsorted(old["ids"], new["ids"][learned])]).any(1).all()
    for name, value in ranker.state_dict().items():
        assert torch.equal(value, dense[name]), name
    assert all(parameter.grad is None for parameter in ranker.parameters())


def test_an_unknown_id_moves_nothing_until_it_is_admitted() -> None:
    step = Step(shaken(model()), tables(admit_after=3), CONFIG)
    rows = records(4, users=1, pins=8)
    first = rows.take(np.flatnonzero(rows.kind == Kind.NEGATIVE)[:2])
    assert step.learn(first).admitted == 0
    assert len(step.tables.users) == 0
    assert step.tables.users.default.tolist() == DEFAULTS[0].tolist()
    again = step.learn(first)
    assert again.admitted == 1
    assert step.tables.users.ids.tolist() == [int(first.user_id[0])]


def test_rows_that_stay_away_expire_where_the_records_say_so() -> None:
    rows = records(60, users=12, pins=30)
    rows = rows.take(np.flatnonzero(rows.kind == Kind.NEGATIVE))
    late = replace(
        rows.take(np.arange(3)), impression_time=rows.impression_time[:3] + 40 * DAY_MS, ready_time=rows.ready_time[:3] + 40 * DAY_MS
    )
    step = Step(shaken(model()), tables(), replace(CONFIG, expire_days=30.0))
    assert step.learn(rows).expired == 0
    had = len(step.tables.users) + len(step.tables.pins)
    done = step.learn(late)
    last = int(late.impression_time.max()) - 30 * DAY_MS
    assert done.expired == had
    assert set(step.tables.users.ids.tolist()) == set(late.user_id.tolist())
    assert rows.impression_time.max() < last
    # A record that says that it is of the future counts for no more than when it became known.
    mad = replace(late, impression_time=late.impression_time + 4_000 * DAY_MS)
    assert step.learn(mad).expired == 0


def test_what_is_no_number_is_refused() -> None:
    ranker = shaken(model())
    with torch.no_grad():
        ranker.heads.bias[0] = float("nan")
    with pytest.raises(UnlearnableError, match=r"loss of a micro-batch .* replay learner --skip"):
        Step(ranker, tables(), CONFIG).learn(records(8))


def test_huge_counters_are_learned_from() -> None:
    rows = records(12)
    step = Step(shaken(model()), tables(), CONFIG)
    step.learn(replace(rows, pin_counters=np.full_like(rows.pin_counters, 2**62)))
    assert np.isfinite(step.tables.pins.gather(step.tables.pins.rows_of(step.tables.pins.ids))).all()


def test_fake_negatives_have_the_gradient_of_true_labels() -> None:
    # Of a record with chance q of a positive: (1 − p)(1 + p)·p + q·(1 + p)·(p − 1) is proportional to p − q, and 0 where p = q.
    for q in (0.05, 0.3):
        z = torch.tensor([[float(np.log(q / (1 - q)))]])
        zero, one = (weights_for(z, torch.tensor([[label]], dtype=torch.int8), DelayedLabels.FAKE_NEGATIVE).item() for label in (0, 1))
        # A pin that is liked with chance q gives a negative always, and a positive with chance q.
        assert zero * q + q * one * (q - 1) == pytest.approx(0, abs=1e-6)
    assert zero == pytest.approx((1 - 0.3) * 1.3)
    assert one == pytest.approx(1.3)


@pytest.mark.parametrize("way", list(DelayedLabels))
def test_batches_that_are_made_together_are_those_that_are_made_alone(way: DelayedLabels) -> None:
    rows, ranker = records(30), shaken(model())
    settings = replace(CONFIG, delayed_labels=way)
    whole, n = Picked.of(rows), len(rows)
    # Batches that share requests, one of other stretches, and two of nothing.
    cuts = [np.arange(0, 40), np.arange(0), np.arange(20, n), np.arange(n)[::-1], np.arange(7)]
    batches = [whole.some(cut) for cut in cuts] + [Picked.of(rows.take(np.arange(3, 50))), whole.some(np.flatnonzero(rows.kind > 9))]
    for one, together in zip(batches, prepare(batches, ranker.config, settings), strict=True):
        (alone,) = prepare([one], ranker.config, settings)
        for name, values in vars(alone.features).items():
            other = getattr(together.features, name)
            assert (other.dtype, other.shape) == (values.dtype, values.shape), name
            assert other.tobytes() == values.tobytes(), name
        assert alone.labels.tobytes() == together.labels.tobytes()
        assert (alone.sighted.tolist(), alone.seen_at.tolist(), alone.time) == (
            together.sighted.tolist(),
            together.seen_at.tolist(),
            together.time,
        )


def test_preparing_looks_at_no_table() -> None:
    rows, ranker = records(30), shaken(model())
    step, other = (Step(ranker, tables(), CONFIG) for _ in range(2))
    halves = [rows.take(np.arange(40)), rows.take(np.arange(40, len(rows)))]
    ready = prepare([Picked.of(half) for half in halves], ranker.config, CONFIG)
    for half, batch in zip(halves, ready, strict=True):
        a, b = step.learn(half), other.learn_prepared(batch)
        assert a.logits.tobytes() == b.logits.tobytes()
    assert step.tables.users.digest() == other.tables.users.digest()
    assert step.tables.pins.digest() == other.tables.pins.digest()
