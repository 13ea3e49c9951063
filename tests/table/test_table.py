"""The table against a dict that is read naively: any sequence of calls, wherever rows lie and batches are cut, saved and loaded at any point."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_model.table import EmbeddingTable, GradientError, Spill, TableConfig, TableError, load, save
from online_model.table.kernels import updates
from tests.oracles.embedding_table import NaiveTable

LEAST, GREATEST = -(2**63), 2**63 - 1
IDS = [LEAST, LEAST + 1, GREATEST, -1, 0, 1, 2, 3, *range(10, 30)]
DIMENSION = 9  # whole groups of eight, and a rest
NONE = np.empty(0, np.int64)

ids = st.lists(st.sampled_from(IDS), max_size=40)
rates = st.sampled_from([0.01, 0.5])
calls = st.one_of(
    st.tuples(st.just("batch"), ids, st.integers(0, 2**32 - 1), rates, st.booleans()),
    st.tuples(st.just("batch"), ids, st.integers(0, 2**32 - 1), rates, st.booleans()),
    st.tuples(st.just("expire"), st.integers(-10, 110)),
    st.tuples(st.just("decay"), st.sampled_from([0.25, 1.0])),
    st.tuples(st.just("put"), st.sets(st.sampled_from(IDS), max_size=8), st.integers(0, 2**32 - 1)),
    st.tuples(st.just("delete"), ids),
    st.tuples(st.just("take")),
    st.tuples(st.just("reload")),
)


def column(values: Any) -> np.ndarray:
    return np.array(list(values), np.int64)


class Variant:
    """A table that is asked in one way of several that must come to the same."""

    def __init__(self, config: TableConfig, default: np.ndarray, directory: Path, hot_rows: int | None, one_by_one: bool) -> None:
        self.spill = None if hot_rows is None else Spill(directory / f"cold-{hot_rows}", hot_rows)
        self.path, self.one_by_one = directory / "table.safetensors", one_by_one
        self.table = EmbeddingTable(config, default, self.spill)

    @classmethod
    def of(cls, table: EmbeddingTable) -> Variant:
        """One that is there."""
        variant = cls.__new__(cls)
        variant.table, variant.one_by_one = table, False
        return variant

    def see(self, identities: np.ndarray, times: np.ndarray) -> np.ndarray:
        if not self.one_by_one:
            return self.table.admit(identities, times)
        parts = [self.table.admit(identities[i : i + 1], times[i : i + 1]) for i in range(len(identities))]
        return np.concatenate([NONE, *parts])

    def reload(self) -> None:
        save(self.table, self.path)
        self.table.close()
        self.table = load(self.path, self.spill)


@given(st.lists(calls, max_size=14), st.integers(1, 3), st.integers(2, 12), st.integers(2, 6))
def test_any_sequence_of_calls_is_what_a_dict_says(steps: list[tuple[Any, ...]], admit_after: int, candidates: int, hot_rows: int) -> None:
    config = TableConfig(DIMENSION, admit_after, candidates, 0.1)
    default = np.linspace(-1, 1, DIMENSION, dtype=np.float32)
    naive = NaiveTable(DIMENSION, admit_after, candidates, 0.1, config.epsilon, default)
    with tempfile.TemporaryDirectory() as directory:
        ways = [(None, False), (None, True), (hot_rows, False)]
        variants = [Variant(config, default, Path(directory), hot, one_by_one) for hot, one_by_one in ways]
        for step in steps:
            take_step(step, naive, variants)
            for variant in variants:
                check(variant.table, naive)
            assert len({variant.table.digest() for variant in variants}) == 1
        for variant in variants:
            variant.table.close()


def take_step(step: tuple[Any, ...], naive: NaiveTable, variants: list[Variant]) -> None:
    kind = step[0]
    if kind == "batch":
        _, seen, seed, rate, learn_default = step
        rng = np.random.default_rng(seed)
        times, gradients = rng.integers(0, 100, len(seen)), rng.normal(size=(len(seen), DIMENSION)).astype(np.float32)
        has = [naive.see(identity, int(time)) for identity, time in zip(seen, times, strict=True)]
        naive.apply([identity if row else None for identity, row in zip(seen, has, strict=True)], gradients, rate, learn_default)
        for variant in variants:
            rows = variant.see(column(seen), times)
            assert (rows > 0).tolist() == has
            variant.table.apply(rows, gradients, rate, learn_default=learn_default)
    elif kind == "expire":
        gone = naive.expire(step[1])
        assert [variant.table.expire(step[1]).tolist() for variant in variants] == [gone] * len(variants)
    elif kind == "decay":
        naive.decay(step[1])
        for variant in variants:
            variant.table.decay_accumulators(step[1])
    elif kind == "put":
        put = sorted(step[1])
        weights = np.random.default_rng(step[2]).normal(size=(len(put), DIMENSION)).astype(np.float32)
        for identity, vector in zip(put, weights, strict=True):
            naive.put(identity, vector)
        for variant in variants:
            variant.table.put(column(put), weights)
    elif kind == "delete":
        naive.delete(step[1])
        for variant in variants:
            variant.table.delete(column(step[1]))
    elif kind == "take":
        told = naive.take_changed()
        for variant in variants:
            changed, deleted = variant.table.take_changed()
            assert (changed.tolist(), deleted.tolist()) == told
    else:
        for variant in variants:
            variant.reload()


def check(table: EmbeddingTable, naive: NaiveTable) -> None:
    rows = table.rows_of(column(IDS))
    assert (rows > 0).tolist() == [identity in naive.rows for identity in IDS]
    assert len(np.unique(rows[rows > 0])) == len(table) == len(naive.rows)
    want = np.array([naive.vector(identity) for identity in IDS])
    np.testing.assert_allclose(table.gather(rows), want, rtol=2e-4, atol=2e-4)
    state = table.state()
    live = sorted(naive.rows)
    assert state["ids"].tolist() == table.ids.tolist() == live
    assert state["counts"].tolist() == [naive.rows[identity].count for identity in live]
    assert state["last_seen"].tolist() == [naive.rows[identity].last_seen for identity in live]
    np.testing.assert_allclose(state["accumulators"], [naive.rows[identity].accumulator for identity in live], rtol=1e-4)
    np.testing.assert_allclose(state["default"], naive.default.vector, rtol=2e-4, atol=2e-4)
    for name, counted in (("newer", naive.newer), ("older", naive.older)):
        assert dict(zip(state[f"{name}_ids"].tolist(), state[f"{name}_counts"].tolist(), strict=True)) == counted


def some(n: int = 100, dimension: int = 4, **options: Any) -> EmbeddingTable:
    table = EmbeddingTable(TableConfig(dimension, admit_after=1), np.ones(dimension, np.float32), **options)
    rows = table.admit(np.arange(n), np.arange(n))
    table.apply(rows, np.random.default_rng(0).normal(size=(n, dimension)).astype(np.float32), 0.1)
    return table


def test_an_update_changes_no_other_row_and_never_the_default_row() -> None:
    table = some()
    before = table.state()
    batch = np.array([7, 7, 1_000, 20])
    table.apply(table.rows_of(batch), np.ones((4, 4), np.float32), 0.1)
    after = table.state()
    moved = (before["weights"] != after["weights"]).any(axis=1)
    assert after["ids"][moved].tolist() == [7, 20]
    assert (before["accumulators"] != after["accumulators"]).tolist() == moved.tolist()
    for name in ("default", "default_accumulator", "counts", "last_seen"):
        np.testing.assert_array_equal(before[name], after[name])


def test_an_id_that_comes_back_is_changed_and_not_deleted() -> None:
    table = some(4)
    table.take_changed()
    table.delete(column([1, 2]))
    table.admit(column([2, 50]), column([9, 9]))
    table.delete(column([50]))
    assert [part.tolist() for part in table.take_changed()] == [[2], [1, 50]]
    assert [part.tolist() for part in table.take_changed()] == [[], []]


def test_a_new_row_is_a_copy_of_the_default_row_as_it_is_then() -> None:
    table = EmbeddingTable(TableConfig(3, admit_after=1), np.array([1, 2, 3], np.float32))
    early = table.admit(column([5]), column([0]))
    table.apply(np.zeros(1, np.int64), np.ones((1, 3), np.float32), 0.5, learn_default=True)
    late = table.admit(column([6]), column([0]))
    assert table.gather(early).tolist() == [[1, 2, 3]]
    assert table.gather(late).tolist() == [table.default.tolist()]
    assert (table.default < [1, 2, 3]).all()


def test_unknown_ids_read_as_the_default_row() -> None:
    table = some()
    unknown = column([LEAST, GREATEST, -1, 100])
    assert table.rows_of(unknown).tolist() == [0] * 4
    assert table.gather(table.rows_of(unknown)).tolist() == [[1, 1, 1, 1]] * 4


@pytest.mark.parametrize("spilled", [False, True])
def test_vectors_beyond_a_limit_are_told_while_they_are_gathered(spilled: bool, tmp_path: Path) -> None:
    table = some(**{"spill": Spill(tmp_path / "cold", 10)} if spilled else {})
    values = np.array([2, -2, 2.0001, -2.0001], np.float32)
    weights = np.zeros((len(values), 4), np.float32)
    weights[np.arange(len(values)), np.arange(len(values))] = values
    table.put(np.arange(100, 104), weights)
    for wanted in ([], [100, 101], [100, 102], [103, 100], [5] * 40 + [103], range(80), [*range(80), 102]):
        rows = table.rows_of(column(list(wanted)))
        found, within = table.gather_within(rows, 2)
        assert found.tobytes() == table.gather(rows).tobytes()
        assert within == all(abs(value) <= 2 for value in found.ravel().tolist())
    with pytest.raises(TableError, match="no row 105"):
        table.gather_within(column([105]), 2)


def test_what_is_no_number_is_beyond_any_limit() -> None:
    weights, out = np.array([[1, np.nan], [np.inf, 1], [1, 1]], np.float32), np.empty((1, 2), np.float32)
    assert [updates.gather_within(weights, column([row]), out, np.float32(3e38)) for row in range(3)] == [1, 1, 0]


def test_batches_of_nothing() -> None:
    table = some()
    before = table.digest()
    assert table.admit(NONE, NONE).shape == (0,)
    assert table.gather(NONE).shape == (0, 4)
    table.apply(NONE, np.empty((0, 4), np.float32), 0.1)
    table.apply(NONE, np.empty((0, 4), np.float32), 0.1, learn_default=True)
    table.put(NONE, np.empty((0, 4), np.float32))
    table.delete(NONE)
    assert table.expire(LEAST).shape == (0,)
    assert table.digest() == before
    empty = EmbeddingTable(TableConfig(4))
    assert [part.tolist() for part in empty.take_changed()] == [[], []]
    assert len(empty.state()["weights"]) == len(empty) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2e12])
def test_a_gradient_that_is_no_number_is_refused_and_nothing_of_its_batch_is_applied(value: float) -> None:
    table = some()
    table.take_changed()
    before = table.digest()
    gradients = np.zeros((3, 4), np.float32)
    gradients[1, 3] = value
    with pytest.raises(GradientError, match="at place 1 of its batch, of ID 5,"):
        table.apply(table.rows_of(column([4, 5, 6])), gradients, 0.1)
    with pytest.raises(GradientError, match="of the default row"):
        table.apply(np.zeros(3, np.int64), gradients, 0.1)
    assert table.digest() == before
    assert len(table.take_changed()[0]) == 0


def test_the_largest_gradients_leave_numbers() -> None:
    table = some(3)
    rows = np.tile(table.rows_of(column([0, 1])), 50_000)
    for _ in range(20):
        table.apply(rows, np.full((len(rows), 4), 1e12, np.float32), 0.1)
    assert np.isfinite(table.state()["weights"]).all()
    assert np.isfinite(table.state()["accumulators"]).all()


def test_a_row_whose_id_has_expired_is_refused_and_other_rows_of_the_batch_are_not_touched() -> None:
    table = some()
    rows = table.rows_of(column([98, 50]))
    table.expire(60)
    table.take_changed()
    before = table.digest()
    with pytest.raises(TableError, match="has no ID any more"):
        table.apply(rows, np.ones((2, 4), np.float32), 0.1)
    assert table.digest() == before
    assert len(table.take_changed()[0]) == 0
    table.apply(rows[:1], np.ones((1, 4), np.float32), 0.1)
    assert table.take_changed()[0].tolist() == [98]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.rows_of(np.array([1.0])), "IDs are float64"),
        (lambda t: t.rows_of(np.array([2**63], np.uint64)), "IDs are uint64"),
        (lambda t: t.rows_of(np.array([[1]])), "give int64"),
        (lambda t: t.rows_of(np.array([True])), "IDs are bool"),
        (lambda t: t.admit(column([1, 2]), column([1])), "IDs and times are 2 and 1"),
        (lambda t: t.gather(column([101])), "no row 101"),
        (lambda t: t.gather(column([1, -1])), r"no row -1 \(place 1"),
        (lambda t: t.apply(column([1]), np.ones((1, 5), np.float32), 0.1), r"give float32\[1, 4\]"),
        (lambda t: t.apply(column([1]), np.ones((1, 4)), 0.1), "gradients are float64"),
        (lambda t: t.apply(column([1]), np.ones((1, 4), np.float32), 0.0), "learning_rate is 0.0"),
        (lambda t: t.apply(column([1]), np.ones((1, 4), np.float32), float("nan")), "learning_rate is nan"),
        (lambda t: t.apply(column([999]), np.ones((1, 4), np.float32), 0.1), "no row 999"),
        (lambda t: t.put(column([1, 1]), np.ones((2, 4), np.float32)), "comes more than once"),
        (lambda t: t.put(column([1]), np.full((1, 4), np.nan, np.float32)), "not finite"),
        (lambda t: t.decay_accumulators(0), "factor is 0"),
        (lambda t: t.decay_accumulators(1.5), "factor is 1.5"),
        (lambda t: TableConfig(0), "dimension is 0"),
        (lambda t: TableConfig(4, admit_after=0), "admit_after is 0"),
        (lambda t: TableConfig(4, candidates=1), "candidates is 1"),
        (lambda t: TableConfig(4, epsilon=float("nan")), "epsilon is nan"),
        (lambda t: EmbeddingTable(TableConfig(4), np.ones(3, np.float32)), "default row"),
        (lambda t: EmbeddingTable(TableConfig(4), np.full(4, np.inf, np.float32)), "default row hold"),
        (lambda t: Spill(Path("x"), 1), "keep at least 2"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_changes(call: Callable[[EmbeddingTable], Any], message: str) -> None:
    table = some()
    before = table.digest()
    with pytest.raises(TableError, match=message):
        call(table)
    assert table.digest() == before


def test_narrower_integers_are_ids_as_well() -> None:
    table = some()
    assert table.rows_of(np.array([3, 4], np.int32)).tolist() == table.rows_of(column([3, 4])).tolist()


def test_other_histories_of_the_same_content_have_one_digest() -> None:
    """Other insertion orders, rows, table sizes and detours."""
    rng = np.random.default_rng(3)
    order = rng.permutation(3_000)
    weights = rng.normal(size=(3_000, 4)).astype(np.float32)
    config = TableConfig(4, admit_after=1)
    one, other = EmbeddingTable(config), EmbeddingTable(config)
    one.put(np.arange(3_000), weights)
    other.admit(np.arange(10_000, 15_000), np.zeros(5_000, np.int64))
    other.expire(1)
    for part in np.array_split(order, 7):
        other.put(part, weights[part])
    assert one.digest() == other.digest()
    assert one.rows_of(np.arange(3_000)).tolist() != other.rows_of(np.arange(3_000)).tolist()
    weights[17, 2] = np.nextafter(weights[17, 2], np.float32(9))
    other.put(column([17]), weights[17:18])
    assert one.digest() != other.digest()


def test_every_part_of_the_content_is_in_the_digest() -> None:
    table = EmbeddingTable(TableConfig(4, admit_after=2), np.ones(4, np.float32))
    table.admit(column([1, 1, 2, 3, 3]), column([5, 6, 7, 8, 9]))
    state = table.state()
    right = table.digest()
    assert EmbeddingTable.from_state(table.config, state).digest() == right
    for name in ("weights", "accumulators", "counts", "last_seen", "default", "default_accumulator", "newer_counts", "ids"):
        wrong = {key: value.copy() for key, value in state.items()}
        wrong[name].flat[-1] += 1
        assert EmbeddingTable.from_state(table.config, wrong).digest() != right, name
    other = TableConfig(4, admit_after=2, epsilon=1e-6)
    assert EmbeddingTable.from_state(other, state).digest() != right


@pytest.mark.parametrize("put", [11, 12, 13, 14])
def test_a_candidate_that_gets_a_row_otherwise_makes_room_in_its_generation(put: int) -> None:
    """11 and 12 are in the older generation of two, 13 and 14 in the newer: whichever is put leaves the one that it was in, and that alone."""
    table, naive = EmbeddingTable(TableConfig(DIMENSION, 3, 4)), NaiveTable(DIMENSION, 3, 4, 0.1, 1e-8, np.zeros(DIMENSION))
    take_step(("batch", [11, 12, 13, 14], 0, 0.1, False), naive, [seen := Variant.of(table)])
    take_step(("put", {put}, 0), naive, [seen])
    for identity in (20, 21, 22, 13, 12, 11):
        take_step(("batch", [identity], 0, 0.1, False), naive, [seen])
        check(table, naive)


def test_duplicates_are_summed_in_their_order() -> None:
    """Sums of floats tell orders apart: 1e8 + 1 − 1e8 is 0 in single precision, and 1e8 − 1e8 + 1 is 1."""
    moved = []
    for gradients in ([1e8, 1, -1e8], [1e8, -1e8, 1]):
        table = some(1, 1)
        before = table.gather(column([1]))
        table.apply(column([1, 1, 1]), np.array(gradients, np.float32)[:, None], 0.1)
        moved.append(float((table.gather(column([1])) - before)[0, 0]))
    assert moved[0] == 0
    assert moved[1] < 0


def test_growth_and_churn_at_the_size_of_batches() -> None:
    rng = np.random.default_rng(5)
    table = EmbeddingTable(TableConfig(2, admit_after=2, candidates=1 << 16))
    naive = NaiveTable(2, 2, 1 << 16, 0.1, 1e-8, np.zeros(2))
    names = rng.integers(LEAST, GREATEST, 9_000)
    for round_ in range(8):
        seen = names[rng.zipf(1.3, 6_000) % 9_000]
        times = np.full(len(seen), round_)
        has = [naive.see(int(identity), round_) for identity in seen]
        assert (table.admit(seen, times) > 0).tolist() == has
        assert table.expire(round_ - 2).tolist() == naive.expire(round_ - 2)
    assert table.ids.tolist() == sorted(naive.rows)
    assert len(table) > 1_024


LEARN = """
import numpy as np
from online_model.table import EmbeddingTable, TableConfig

rng = np.random.default_rng(1)
table = EmbeddingTable(TableConfig(37, admit_after=2))
for moment in range(20):
    rows = table.admit(rng.integers(0, 60, 200), np.full(200, moment))
    table.apply(rows, rng.normal(size=(200, 37)).astype(np.float32), 0.1, learn_default=True)
print(table.digest())
"""


@pytest.mark.slow
def test_every_bit_is_the_same_however_wide_a_machine_computes() -> None:
    """Compiled for any processor of this kind, and for this very one."""
    root = Path(__file__).parent.parent.parent
    found = {
        subprocess.run([sys.executable, "-c", LEARN], env=os.environ | env, cwd=root, capture_output=True, check=True, text=True).stdout
        for env in ({}, {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""})
    }
    assert len(found) == 1
