"""Runs of a table against a plain list of all rows, with blocks of 4 rows and merges of 2 runs."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.kernels.rows import fold_sums, sort_rows
from flows.state import tables
from flows.state.runs import PREFIX
from flows.state.store import TaskStore
from flows.state.view import TaskView
from tests.state.small import small

TABLE = tables.REVISITS
LEAST, GREATEST = -(2**63), 2**63 - 1
ENTITIES = (0, 1, 2, 3, -1, LEAST, LEAST + 1, GREATEST - 1, GREATEST)

row = st.tuples(st.sampled_from(ENTITIES), st.sampled_from(ENTITIES), st.integers(0, 1), st.integers(0, 2), st.sampled_from([1, 1, -1]))


@settings(max_examples=30)
@given(st.lists(st.lists(row, max_size=14), min_size=1, max_size=12), st.sets(st.sampled_from(ENTITIES)), st.data())
def test_runs_hold_the_folded_rows(commits: list[list[tuple[int, ...]]], asked: set[int], data: st.DataObject) -> None:
    everything = np.array([r for commit in commits for r in commit], np.int64).reshape(-1, 5)
    want = fold_sums(sort_rows(everything, 4), 4)
    with tempfile.TemporaryDirectory() as directory, small():
        store = TaskStore(Path(directory) / "state", "revisits", 0, "f", [TABLE])
        for commit in commits:
            batch = store.batch()
            store.runs.add(batch, TABLE.name, np.array(commit, np.int64).reshape(-1, 5))
            store.commit(batch)
            while data.draw(st.booleans()) and (name := store.runs.due()) is not None:
                batch = store.batch()
                store.runs.merge(name, batch)
                store.commit(batch)
        runs = store.meta.manifest[TABLE.name]
        for slice_rows in (1, 8, 1 << 19):
            slices = list(store.runs.scan(TABLE, runs, slice_rows))
            assert np.concatenate([np.empty((0, 5), np.int64), *slices]).tolist() == want.tolist()
            firsts, lasts = [s[0, 0] for s in slices], [s[-1, 0] for s in slices]
            assert all(last < first for last, first in zip(lasts, firsts[1:], strict=False)), "a slice holds whole entities"
        view = TaskView(store.path)
        ids = np.array(sorted(asked), np.int64)
        for reader in (store.runs, view.runs):
            got = fold_sums(reader.rows_of(TABLE, runs, ids), 4)
            assert got.tolist() == want[np.isin(want[:, 0], ids)].tolist()
        for run in runs:
            rows = store.runs.rows_between(TABLE, run, None, None)
            assert len(rows) == run.rows
            for low in ENTITIES:
                for high in ENTITIES:
                    part = store.runs.rows_between(TABLE, run, low, high)
                    assert part.tolist() == rows[(rows[:, 0] >= low) & (rows[:, 0] < high)].tolist()
        view.close()
        store.close()


def test_levels(tmp_path: Path) -> None:
    """Two runs of a level become one of the next, and nothing is left of them."""
    with small():
        store = TaskStore(tmp_path / "state", "revisits", 0, "f", [TABLE])
        for k in range(11):
            batch = store.batch()
            store.runs.add(batch, TABLE.name, np.array([[k, 0, 0, 0, 1]], np.int64))
            store.commit(batch)
            while (name := store.runs.due()) is not None:
                batch = store.batch()
                store.runs.merge(name, batch)
                store.commit(batch)
        runs = store.meta.manifest[TABLE.name]
        assert sorted((run.level, run.rows) for run in runs) == [(0, 1), (1, 2), (3, 8)]
        assert {int.from_bytes(key[1:9], "big") for key, _ in store.prefixed(PREFIX)} == {run.id for run in runs}
        store.close()


def test_a_merge_leaves_other_levels_alone(tmp_path: Path) -> None:
    with small():
        store = TaskStore(tmp_path / "state", "revisits", 0, "f", [TABLE])

        def add(k: int) -> None:
            batch = store.batch()
            store.runs.add(batch, TABLE.name, np.array([[k, 0, 0, 0, 1]], np.int64))
            store.commit(batch)

        def merge() -> None:
            batch = store.batch()
            store.runs.merge(TABLE.name, batch)
            store.commit(batch)

        for k in range(8):
            add(k)
            if k % 2:
                merge()
            if k == 3:
                merge()
        assert sorted(run.level for run in store.meta.manifest[TABLE.name]) == [1, 1, 2]
        add(8)
        merge()
        assert sorted(run.level for run in store.meta.manifest[TABLE.name]) == [0, 2, 2]
        rows = np.concatenate(list(store.runs.scan(TABLE, store.meta.manifest[TABLE.name])))
        assert rows[:, 0].tolist() == list(range(9))
        store.close()


def test_rows_that_cancel_leave_no_run(tmp_path: Path) -> None:
    with small():
        store = TaskStore(tmp_path / "state", "revisits", 0, "f", [TABLE])
        for weight in (1, -1):
            batch = store.batch()
            store.runs.add(batch, TABLE.name, np.array([[1, 0, 0, 0, weight]], np.int64))
            store.commit(batch)
        batch = store.batch()
        store.runs.merge(TABLE.name, batch)
        store.commit(batch)
        assert store.meta.manifest[TABLE.name] == []
        assert list(store.runs.scan(TABLE, [])) == []
        assert store.runs.due() is None
        store.close()


def test_many_entities_are_read_in_few_blocks(tmp_path: Path) -> None:
    """Real sizes: slices don't cost, and a few entities don't read a run."""
    store = TaskStore(tmp_path / "state", "revisits", 0, "f", [TABLE])
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.integers(0, 30_000, 200_000), rng.integers(0, 2**40, (200_000, 3)), np.ones(200_000, np.int64)])
    batch = store.batch()
    for part in np.array_split(rows, 5):
        store.runs.add(batch, TABLE.name, part)
    store.commit(batch)
    runs = store.meta.manifest[TABLE.name]
    whole = np.concatenate(list(store.runs.scan(TABLE, runs)))
    sliced = list(store.runs.scan(TABLE, runs, 1))
    assert len(sliced) > 30
    assert np.array_equal(np.concatenate(sliced), whole)
    assert np.array_equal(whole, fold_sums(sort_rows(rows, 4), 4))

    read: list[int] = []
    found = store.runs._found
    store.runs._found = lambda keys: read.append(len(keys)) or found(keys)  # type: ignore[method-assign,func-returns-value]
    asked = np.array([5, 17_000, 29_999])
    start = time.perf_counter()
    got = store.runs.rows_of(TABLE, runs, asked)
    assert time.perf_counter() - start < 1
    assert np.array_equal(fold_sums(got, 4), whole[np.isin(whole[:, 0], asked)])
    assert sum(read) <= len(runs) * (1 + 2 * len(asked))
    store.close()
