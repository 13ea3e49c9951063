"""Blocks that are held in memory say what the databases say, however few of them there is room for, and whatever is merged meanwhile."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.kernels.rows import fold_groups, fold_sums
from flows.partition import partition_of
from flows.state import held_blocks, tables
from flows.state.held_blocks import HeldBlocks, Source
from flows.state.store import TaskStore
from tests.state.small import small

TABLE = tables.REVISITS
PARTITIONS = 3
LEAST, GREATEST = -(2**63), 2**63 - 1
ENTITIES = (*range(-3, 12), LEAST, LEAST + 1, GREATEST - 1, GREATEST)

row = st.tuples(st.sampled_from(ENTITIES), st.integers(0, 3), st.integers(0, 1), st.integers(0, 2), st.sampled_from([1, 1, -1]))


def commit(store: TaskStore, rows: np.ndarray) -> None:
    batch = store.batch()
    store.runs.add(batch, TABLE.name, rows)
    store.commit(batch)


def sources(stores: list[TaskStore], names: list[str]) -> list[Source | None]:
    return [Source(name, s.runs, list(s.meta.manifest.get(TABLE.name, []))) for name, s in zip(names, stores, strict=True)]


def by_reader(stores: list[TaskStore], ids: np.ndarray, homes: np.ndarray) -> list[list[int]]:
    parts = [s.runs.rows_of(TABLE, s.meta.manifest.get(TABLE.name, []), np.sort(ids[homes == p])) for p, s in enumerate(stores)]
    whole = np.concatenate(parts)
    return whole[np.lexsort(whole[:, ::-1].T)].tolist()  # type: ignore[no-any-return]


@settings(max_examples=40)
@given(st.lists(st.lists(row, max_size=25), min_size=1, max_size=9), st.integers(4, 30), st.data())
def test_the_same_as_from_the_databases(commits: list[list[tuple[int, ...]]], slots: int, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory, small(), mock.patch.object(held_blocks, "_LEAST_SLOTS", slots):
        stores = [TaskStore(Path(directory) / str(p), "revisits", p, "f", [TABLE]) for p in range(PARTITIONS)]
        names = [f"database {p}" for p in range(PARTITIONS)]
        held = HeldBlocks(TABLE, 0, block_rows=4)
        for some in commits:
            rows = np.array(some, np.int64).reshape(-1, 5)
            homes = partition_of(rows[:, 0], PARTITIONS)
            for p, store in enumerate(stores):
                commit(store, rows[homes == p])
                if data.draw(st.booleans()) and (name := store.runs.due()) is not None:
                    batch = store.batch()
                    store.runs.merge(name, batch)
                    store.commit(batch)
            held.follow(sources(stores, names))
            for _ in range(2):
                ids = np.array(data.draw(st.lists(st.sampled_from(ENTITIES), max_size=20)), np.int64)
                found = held.rows_of(ids, partition_of(ids, PARTITIONS))
                if found is None:
                    assert sum(len(s.runs.index(run)) for s in stores for run in s.meta.manifest[TABLE.name]) > slots, "there was room"
                    continue
                (rows, bounds), folded = found, fold_groups(*found, 4)
                assert bounds.tolist() == sorted(bounds.tolist())
                assert (bounds[0], bounds[-1], len(bounds)) == (0, len(rows), len(ids) + 1)
                for i, one in enumerate(ids.reshape(-1, 1)):
                    got, want = rows[bounds[i] : bounds[i + 1]], by_reader(stores, one, partition_of(one, PARTITIONS))
                    # Rows that a fold adds up are alike but for their weights, whose order is nobody's business.
                    assert got[:, :4].tolist() == [row[:4] for row in want]
                    assert got[np.lexsort(got[:, ::-1].T)].tolist() == want
                    added = folded[0][folded[1][i] : folded[1][i + 1]]
                    assert added.tolist() == fold_sums(np.array(want, np.int64).reshape(-1, 5), 4).tolist()
        for store in stores:
            store.close()


def filled(path: Path, first: int, weight: int) -> TaskStore:
    """100 entities with a row each, in 25 blocks of one run."""
    store = TaskStore(path, "revisits", 0, "f", [TABLE])
    commit(store, np.array([[first + i, 0, 0, 0, weight] for i in range(100)], np.int64))
    return store


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> HeldBlocks:
    monkeypatch.setattr(held_blocks, "_LEAST_SLOTS", 8)
    return HeldBlocks(TABLE, 0, block_rows=4)


def test_what_is_asked_again_is_not_read_again(tmp_path: Path, blocks: HeldBlocks) -> None:
    one, none = np.zeros(1, np.int32), np.empty(0, np.int64)
    with small():
        store = filled(tmp_path / "state", 0, 1)
        blocks.follow([Source("a", store.runs, store.meta.manifest[TABLE.name])])
        read: list[int] = []
        packed = store.runs.packed

        def counting(table: object, run: object, wanted: list[int]) -> list[bytes]:
            read.extend(wanted)
            return packed(table, run, wanted)  # type: ignore[arg-type]

        with mock.patch.object(store.runs, "packed", counting):
            for entity in (5, 6, 5, 90, 6):
                found = blocks.rows_of(np.array([entity]), one)
                assert found is not None
                assert found[0][:, 0].tolist() == [entity]
            assert sorted(read) == [1, 22]
            # The first to go is what was used longest ago.
            for entity in (10, 14, 18, 22, 26, 30, 34):
                blocks.rows_of(np.array([entity]), one)
            read.clear()
            blocks.rows_of(np.array([6]), one)
            blocks.rows_of(np.array([90]), one)
            assert read == [22]
            # More than there is room for is left to whoever asks.
            assert blocks.rows_of(np.arange(0, 40, 4), np.zeros(10, np.int32)) is None
            found = blocks.rows_of(np.arange(0, 32, 4), np.zeros(8, np.int32))
            assert found is not None
            assert found[0][:, 0].tolist() == list(range(0, 32, 4))
            found = blocks.rows_of(none, none.astype(np.int32))
            assert found is not None
            assert found[0].shape == (0, 5)
        store.close()


def test_another_database_in_its_place_has_other_blocks_of_the_same_names(tmp_path: Path, blocks: HeldBlocks) -> None:
    one = np.zeros(1, np.int32)
    with small():
        old, new = filled(tmp_path / "old", 0, 1), filled(tmp_path / "new", 0, 7)
        assert old.meta.manifest == new.meta.manifest
        for name, store, weight in (("old", old, 1), ("new", new, 7), ("old", old, 1)):
            blocks.follow([Source(name, store.runs, store.meta.manifest[TABLE.name])])
            found = blocks.rows_of(np.array([50]), one)
            assert found is not None
            assert found[0][:, 4].tolist() == [weight]
        blocks.follow([None])
        found = blocks.rows_of(np.array([50]), one)
        assert found is not None
        assert not len(found[0])
        old.close()
        new.close()
