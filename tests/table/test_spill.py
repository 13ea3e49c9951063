"""Rows that lie in RocksDB: memory stays within its bound, and nobody can tell where a row was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flows.errors import CorruptionError
from online_model.table import EmbeddingTable, Spill, TableConfig, TableError

DIMENSION = 16
CONFIG = TableConfig(DIMENSION, admit_after=1)


def filled(table: EmbeddingTable, n: int = 5_000, seed: int = 0) -> EmbeddingTable:
    rng = np.random.default_rng(seed)
    for begin in range(0, n, 500):
        rows = table.admit(np.arange(begin, begin + 500) * 7 - n, np.full(500, begin))
        table.apply(rows, rng.normal(size=(500, DIMENSION)).astype(np.float32), 0.1)
    return table


def test_memory_stays_within_its_bound(tmp_path: Path) -> None:
    whole = filled(EmbeddingTable(CONFIG), 40_000)
    small = filled(EmbeddingTable(CONFIG, spill=Spill(tmp_path / "cold", 1_000)), 40_000)
    vectors = small._vectors
    assert vectors.weights.shape == (1_001, DIMENSION)
    assert len(vectors.accumulators) == 1_001
    row_bytes = 4 * (DIMENSION + 1)
    # What is beside the vectors is the same, but for a number of 4 bytes to each row.
    assert whole.memory_bytes() - small.memory_bytes() > 35_000 * (row_bytes - 8) - 2 * (8 << 20)
    # And one batch may be of more rows than there is room for.
    everyone = np.arange(0, 40_000) * 7 - 40_000
    np.testing.assert_array_equal(small.gather(small.rows_of(everyone)), whole.gather(whole.rows_of(everyone)))
    assert vectors.weights.shape == (1_001, DIMENSION)
    small.close()
    assert not (tmp_path / "cold").exists()


def test_looking_moves_nothing_that_counts(tmp_path: Path) -> None:
    """Two tables of the same batches, one of which is read a lot in between: other rows are cold, and all else is equal."""
    calm, read = (EmbeddingTable(CONFIG, spill=Spill(tmp_path / name, 100)) for name in ("calm", "read"))
    rng = np.random.default_rng(2)
    for seed in range(3):
        filled(calm, seed=seed)
        filled(read, seed=seed)
        for _ in range(5):
            read.gather(read.rows_of(rng.integers(0, 700, 50) * 7 - 5_000))
        assert calm.digest() == read.digest()
    for table in (calm, read):
        table.close()


def test_the_least_recently_used_leave(tmp_path: Path) -> None:
    table = filled(EmbeddingTable(CONFIG, spill=Spill(tmp_path / "cold", 100)), 500)
    rows = table.rows_of(np.arange(60) * 7 - 500)
    table.gather(rows)
    others = table.rows_of(np.arange(100, 130) * 7 - 500)
    table.gather(others)
    slots = table._vectors._slot_of  # type: ignore[attr-defined]
    assert (slots[others] > 0).all()
    assert (slots[rows] > 0).all()
    table.close()


def test_a_batch_that_fills_memory_keeps_its_own_rows(tmp_path: Path) -> None:
    """Room is made an eighth at a time, which here is more than all others hold."""
    whole = filled(EmbeddingTable(CONFIG), 500)
    table = filled(EmbeddingTable(CONFIG, spill=Spill(tmp_path / "cold", 100)), 500)
    ids = np.arange(200) * 7 - 500
    for batch in (ids[:100], np.concatenate([ids[:95], ids[150:155]])):
        gradients = np.random.default_rng(1).normal(size=(100, DIMENSION)).astype(np.float32)
        for each in (table, whole):
            each.apply(each.rows_of(batch), gradients, 0.1)
        np.testing.assert_array_equal(table.gather(table.rows_of(batch)), whole.gather(whole.rows_of(batch)))
    assert table.digest() == whole.digest()
    table.close()


def test_accumulators_decay_wherever_they_lie(tmp_path: Path) -> None:
    """Cold ones, hot ones that RocksDB has an older record of, and hot ones that it has none of."""
    whole = filled(EmbeddingTable(CONFIG), 500)
    table = filled(EmbeddingTable(CONFIG, spill=Spill(tmp_path / "cold", 100)), 500)
    table.gather(table.rows_of(np.arange(60) * 7 - 500))
    for each in (table, whole):
        each.decay_accumulators(0.5)
    assert table.digest() == whole.digest()
    # What was decayed in memory goes out and comes back.
    table.gather(table.rows_of(np.arange(500) * 7 - 500))
    assert table.digest() == whole.digest()
    table.close()


def test_rows_that_expire_while_they_are_cold_do_not_come_back(tmp_path: Path) -> None:
    table = filled(EmbeddingTable(CONFIG, np.full(DIMENSION, 3, np.float32), Spill(tmp_path / "cold", 50)), 1_000)
    gone = table.expire(500)
    assert len(gone) == 500
    assert (table.gather(table.rows_of(gone)) == 3).all()
    rows = table.admit(gone, np.full(500, 2_000))
    assert (table.gather(rows) == 3).all()
    assert set(np.unique(table.state()["accumulators"][np.isin(table.ids, gone)])) == {np.float32(0.1)}
    table.close()


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("mine")
    with pytest.raises(TableError, match="holds something else"):
        EmbeddingTable(CONFIG, spill=Spill(tmp_path, 10))
    assert (tmp_path / "letter").read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(TableError, match="give another directory"):
        EmbeddingTable(CONFIG, spill=Spill(tmp_path / "file", 10))


def test_a_directory_in_use_is_refused_and_one_left_behind_is_emptied(tmp_path: Path) -> None:
    first = filled(EmbeddingTable(CONFIG, spill=Spill(tmp_path / "cold", 10)), 500)
    digest = first.digest()
    with pytest.raises(TableError, match="give another directory"):
        EmbeddingTable(CONFIG, spill=Spill(tmp_path / "cold", 10))
    assert first.digest() == digest
    first._vectors._db.close()  # type: ignore[attr-defined]
    second = filled(EmbeddingTable(CONFIG, spill=Spill(tmp_path / "cold", 10)), 500)
    assert second.digest() == digest
    second.close()


def test_a_cold_row_that_is_lost_is_an_error_and_never_the_default_row(tmp_path: Path) -> None:
    table = filled(EmbeddingTable(CONFIG, spill=Spill(tmp_path / "cold", 10)), 500)
    rows = table.rows_of(np.arange(5) * 7 - 500)
    database = table._vectors._db  # type: ignore[attr-defined]
    database.delete(int(rows[2]).to_bytes(8, "big"))
    with pytest.raises(CorruptionError, match="load the table again"):
        table.gather(rows)
    database.put(int(rows[2]).to_bytes(8, "big"), b"short")
    with pytest.raises(CorruptionError, match="load the table again"):
        table.gather(rows)
    table.close()


def test_a_damaged_file_of_cold_rows_is_an_error_of_one_line(tmp_path: Path) -> None:
    table = filled(EmbeddingTable(CONFIG, spill=Spill(tmp_path / "cold", 10)), 500)
    table._vectors._db.flush()  # type: ignore[attr-defined]
    for file in (tmp_path / "cold").glob("*.sst"):
        data = bytearray(file.read_bytes())
        data[len(data) // 4] ^= 0xFF
        file.write_bytes(data)
    with pytest.raises(CorruptionError, match="load the table again") as raised:
        table.digest()
    assert "\n" not in str(raised.value)
    table.close()
