"""Rows of every table: sorted, merged and folded in any grouping and order they come to the same."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.kernels.reads import counters, group_bounds
from flows.kernels.rows import CUT, HOUR_MS, OFFSET_SHIFT, SEQUENCE_CODES, fold_sequences, fold_sums, merge_rows, sort_rows, unexpired
from flows.state import tables
from flows.state.runs import Table

LEAST, GREATEST = -(2**63), 2**63 - 1
DAY = 24 * HOUR_MS
KEPT = 3
ENTITIES = (0, 1, -1, LEAST, GREATEST)
SHORT_SEQUENCES = Table("sequences", 6, SEQUENCE_CODES + 1, partial(fold_sequences, kept=KEPT))

Runs = list[np.ndarray]


def sequence_rows(drawn: list[tuple[int, int, int]]) -> np.ndarray:
    """Rows of (entity, time, event ID), in the order of their offsets."""
    rows = np.zeros((len(drawn), 6), np.int64)
    for offset, (entity, time, event) in enumerate(drawn):
        rows[offset] = ENTITIES[entity], time, event, offset << OFFSET_SHIFT, offset, 0
    return rows


def revisit_rows(drawn: list[tuple[int, int, int, int, int]]) -> np.ndarray:
    rows = np.zeros((len(drawn), 5), np.int64)
    for i, (entity, other, kind, time, weight) in enumerate(drawn):
        rows[i] = ENTITIES[entity], ENTITIES[other], kind, time, weight
    return rows


def tile_rows(drawn: list[tuple[int, int, int, int, int]]) -> np.ndarray:
    return np.delete(revisit_rows(drawn), 1, axis=1)


def label_rows(drawn: list[tuple[int, int, int, int, int]]) -> np.ndarray:
    rows = revisit_rows(drawn)
    return np.column_stack([rows, rows[:, :3]])


small = st.integers(0, 4)
sequences = st.lists(st.tuples(small, small, st.integers(-2, 2)), max_size=40).map(sequence_rows)
weighted = st.lists(st.tuples(small, small, st.integers(0, 3), small, st.sampled_from([1, 1, -1])), max_size=40)
DRAWN = [
    pytest.param(SHORT_SEQUENCES, sequences, id="sequences"),
    pytest.param(tables.REVISITS, weighted.map(revisit_rows), id="revisits"),
    pytest.param(tables.TILES, weighted.map(tile_rows), id="tiles"),
    pytest.param(tables.LABELS, weighted.map(label_rows), id="labels"),
]


def folded(table: Table, rows: np.ndarray) -> np.ndarray:
    return table.fold(rows) if table.fold is not None else rows


def check_merging_is_free(table: Table, rows: np.ndarray, data: st.DataObject) -> None:
    """The law that state stands on: folds of sorted parts, merged two by two in any order, are the fold of all."""
    whole = folded(table, sort_rows(rows, table.keys))
    assert folded(table, whole).tolist() == whole.tolist(), "a fold is idempotent"
    part = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows))), np.int64)
    runs: Runs = [folded(table, sort_rows(rows[part == i], table.keys)) for i in range(4)]
    flat = folded(table, merge_rows(runs, table.keys))
    assert flat.tolist() == whole.tolist()
    while len(runs) > 1:
        taken = data.draw(st.lists(st.integers(0, len(runs) - 1), min_size=2, max_size=3, unique=True))
        merged = folded(table, merge_rows([runs[i] for i in taken], table.keys))
        runs = [merged] + [run for i, run in enumerate(runs) if i not in taken]
    assert runs[0].tolist() == whole.tolist()


@pytest.mark.parametrize(("table", "rows"), DRAWN)
def test_merging_in_any_grouping_and_order_folds_to_the_same(table: Table, rows: st.SearchStrategy[np.ndarray]) -> None:
    @given(rows, st.data())
    def check(drawn: np.ndarray, data: st.DataObject) -> None:
        check_merging_is_free(table, drawn, data)

    check()


@given(st.lists(st.tuples(*[st.sampled_from(ENTITIES)] * 4), max_size=60), st.integers(1, 4))
def test_sorting(drawn: list[tuple[int, ...]], keys: int) -> None:
    rows = np.array(drawn, np.int64).reshape(-1, 4)
    got = sort_rows(rows, keys)
    assert [row[:keys] for row in got.tolist()] == sorted(row[:keys] for row in rows.tolist())
    assert sorted(got.tolist()) == sorted(rows.tolist()) == sorted(map(list, drawn))


@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 1000])
def test_sorting_one_large_entity(n: int) -> None:
    rows = np.random.default_rng(n).integers(-3, 3, (n, 4))
    rows[:, 0] = 5
    assert sort_rows(rows, 4).tolist() == sorted(rows.tolist())


def test_merging_nothing() -> None:
    empty = np.empty((0, 5), np.int64)
    assert merge_rows([empty, empty], 4).shape == (0, 5)
    assert fold_sums(empty, 4).shape == (0, 5)
    assert unexpired(empty, 3, 1, 0).shape == (0, 5)


@given(weighted.map(revisit_rows))
def test_a_fold_of_sums_adds_up(rows: np.ndarray) -> None:
    want: dict[tuple[int, ...], int] = {}
    for *key, weight in rows.tolist():
        want[tuple(key)] = want.get(tuple(key), 0) + weight
    got = fold_sums(sort_rows(rows, 4), 4)
    assert {tuple(key): weight for *key, weight in got.tolist()} == {key: weight for key, weight in want.items() if weight}


@given(sequences)
def test_a_fold_of_sequences_keeps_the_newest_and_marks_a_cut(rows: np.ndarray) -> None:
    got = fold_sequences(sort_rows(rows, SEQUENCE_CODES + 1), KEPT)
    for entity in ENTITIES:
        of = sorted(rows[rows[:, 0] == entity].tolist(), key=lambda row: row[1:4])
        kept = got[got[:, 0] == entity]
        assert (kept & ~np.array([0, 0, 0, CUT, 0, 0])).tolist() == of[-KEPT:]
        marks = (kept[:, SEQUENCE_CODES] & CUT) != 0
        assert marks.tolist() == [len(of) > KEPT and i == 0 for i in range(len(kept))]


# Expiry ----------------------------------------------------------------------------------------------------------------------------------


@given(weighted.map(revisit_rows), st.integers(-1, 6))
def test_unexpired_rows_and_one_marker_for_each_entity(rows: np.ndarray, before: int) -> None:
    rows[:, 3] *= HOUR_MS // 2
    rows = fold_sums(sort_rows(rows, 4), 4)
    before *= HOUR_MS
    got = unexpired(rows, 3, 1, before)
    ends = (rows[:, 3] // HOUR_MS + 1) * HOUR_MS
    for entity in ENTITIES:
        of = rows[:, 0] == entity
        kept = got[got[:, 0] == entity].tolist()
        needed = rows[of & (ends > before)].tolist()
        gone = [row for row in rows[of & (ends <= before)].tolist() if row[4] > 0]
        assert [row for row in kept if row in needed] == needed
        marker = [row for row in kept if row not in needed]
        assert len(marker) == min(1, len(gone))
        assert not marker or (marker[0] in gone and marker[0][3] == max(row[3] for row in gone))


@given(
    st.lists(
        st.tuples(st.integers(0, 2), small, st.integers(0, 400), st.lists(st.integers(0, 3), min_size=1, max_size=4)),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, 300),
    st.data(),
)
def test_what_expires_in_any_run_is_missed_by_no_later_read(
    credits: list[tuple[int, int, int, list[int]]], before: int, data: st.DataObject
) -> None:
    """A revisit changes hands a few times: −1 of the old kind and +1 of the new. Some runs have dropped what expired, others not yet."""
    commits: list[list[tuple[int, int, int, int, int]]] = []
    for entity, other, time, kinds in credits:
        at = time * DAY // 2
        commits.append([(entity, other, kinds[0], at, 1)])
        commits += [[(entity, other, old, at, -1), (entity, other, new, at, 1)] for old, new in pairwise(kinds)]
    rows = [revisit_rows(commit) for commit in commits]
    full = fold_sums(sort_rows(np.concatenate(rows), 4), 4)
    place = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    dropped = data.draw(st.sets(st.integers(0, 3)))
    runs = []
    for i in range(4):
        parts = [row for row, at in zip(rows, place, strict=True) if at == i]
        run = fold_sums(sort_rows(np.concatenate([np.empty((0, 5), np.int64), *parts]), 4), 4)
        runs.append(unexpired(run, 3, 1, before * DAY) if i in dropped else run)
    left = fold_sums(merge_rows(runs, 4), 4)
    for as_of in (before * DAY + 90 * DAY, before * DAY + 91 * DAY, 600 * DAY):
        want, want_any = counters(full, group_bounds(full[:, 0]), as_of)
        got, got_any = counters(left, group_bounds(left[:, 0]), as_of)
        entities = full[group_bounds(full[:, 0])[:-1], 0]
        assert left[group_bounds(left[:, 0])[:-1], 0].tolist() == entities.tolist()
        assert got.tolist() == want.tolist()
        assert got_any.tolist() == want_any.tolist()
