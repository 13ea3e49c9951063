"""A table's file: the same again, whole or refused, there or not there; never half."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from flows import directories
from flows.errors import CorruptionError, DataDirectoryError, StorageFullError
from online_model.table import EmbeddingTable, Spill, TableConfig, TableError, TableFileError, checkpoint, load, save


def made(seed: int = 0, ids: int = 60, **options: Any) -> EmbeddingTable:
    rng = np.random.default_rng(seed)
    table = EmbeddingTable(TableConfig(4, admit_after=2, candidates=40), rng.normal(size=4).astype(np.float32), **options)
    for time in range(5):
        rows = table.admit(rng.integers(-ids, ids, 100), np.full(100, time))
        table.apply(rows, rng.normal(size=(100, 4)).astype(np.float32), 0.1)
    table.expire(1)
    return table


def go_on(table: EmbeddingTable) -> str:
    rng = np.random.default_rng(9)
    for time in range(5, 9):
        rows = table.admit(rng.integers(-90, 90, 80), np.full(80, time))
        table.apply(rows, rng.normal(size=(80, 4)).astype(np.float32), 0.1)
        table.expire(time - 4)
    return table.digest()


@pytest.mark.parametrize("hot_rows", [None, 3, 1_000])
def test_a_loaded_table_goes_on_as_the_saved_one_does(tmp_path: Path, hot_rows: int | None) -> None:
    table = made()
    save(table, tmp_path / "t.safetensors")
    loaded = load(tmp_path / "t.safetensors", None if hot_rows is None else Spill(tmp_path / "cold", hot_rows))
    assert loaded.digest() == table.digest()
    assert loaded.config == table.config
    assert go_on(loaded) == go_on(table)
    for one, other in zip(loaded.take_changed(), table.take_changed(), strict=True):
        assert one.tolist() == other.tolist()
    loaded.close()


def test_equal_tables_make_equal_files(tmp_path: Path) -> None:
    """Wherever rows lie, and after any number of rounds."""
    table, spilled = made(), made(spill=Spill(tmp_path / "cold", 5))
    save(table, tmp_path / "one")
    save(spilled, tmp_path / "two")
    save(load(tmp_path / "one"), tmp_path / "three")
    files = [(tmp_path / name).read_bytes() for name in ("one", "two", "three")]
    assert files[0] == files[1] == files[2]
    spilled.close()


def test_a_table_of_nothing(tmp_path: Path) -> None:
    table = EmbeddingTable(TableConfig(4))
    save(table, tmp_path / "t")
    assert load(tmp_path / "t").digest() == table.digest()


def test_what_is_yet_to_be_told_is_kept(tmp_path: Path) -> None:
    table = made()
    table.take_changed()
    some = table.ids[[1, 4]]
    table.apply(table.rows_of(some), np.ones((2, 4), np.float32), 0.1)
    table.delete(table.ids[6:8])
    save(table, tmp_path / "t")
    loaded = load(tmp_path / "t")
    assert [part.tolist() for part in loaded.take_changed()] == [some.tolist(), table.deleted.tolist()]
    assert len(table.deleted) == 2


def test_a_byte_changed_anywhere_is_found(tmp_path: Path) -> None:
    path = tmp_path / "t"
    save(made(ids=8), path)
    right = path.read_bytes()
    rng = np.random.default_rng(1)
    for at in np.unique(np.concatenate([np.arange(0, 1_400, 3), rng.integers(0, len(right), 200), [len(right) - 1]])).tolist():
        wrong = bytearray(right)
        wrong[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(wrong)
        with pytest.raises(TableFileError, match="take another copy"):
            load(path)


def test_a_file_cut_off_or_made_longer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t"
    save(made(), path)
    right = path.read_bytes()
    for wrong in (b"", right[:5], right[:100], right[: len(right) // 2], right[:-1], right + b"\0"):
        path.write_bytes(wrong)
        with pytest.raises(TableFileError, match="no whole safetensors file"):
            load(path)
    assert issubclass(TableFileError, CorruptionError)


def edited(path: Path, about: str | None, **changes: Any) -> None:
    """The file with something else in its metadata: a text, or what it said with changes."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    said = json.loads(header["__metadata__"]["table"])
    header["__metadata__"]["table"] = json.dumps(said | changes) if about is None else about
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


@pytest.mark.parametrize(
    ("about", "changes", "message"),
    [
        ("{", {}, "does not say that it is one"),
        ("[]", {}, "does not say that it is one"),
        (None, {"format": "tidemark embedding table 2"}, "has format 'tidemark embedding table 2'"),
        (None, {"config": None}, "can't be read"),
        (None, {"config": {"dimension": 4, "colour": 1}}, "can't be read"),
        (None, {"config": {"dimension": 0}}, "dimension is 0"),
        (None, {"config": {"dimension": 4, "admit_after": 2, "candidates": 44}}, "checksum differs"),
    ],
)
def test_another_format_or_config_is_refused(tmp_path: Path, about: str | None, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "t"
    save(made(), path)
    edited(path, None)
    load(path)
    edited(path, about, **changes)
    with pytest.raises(TableFileError, match=message):
        load(path)


@pytest.mark.parametrize(
    ("name", "array"),
    [("weights", np.float32(1)), ("counts", np.ones(3, np.int32)), ("deleted", np.int64(4)), ("weights", np.ones((2, 4), np.float16))],
)
def test_a_file_of_other_arrays_is_refused_whatever_it_says_of_itself(tmp_path: Path, name: str, array: Any) -> None:
    table, path = made(), tmp_path / "t"
    save(table, path)
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    save_file({**table.state(), name: np.asarray(array)}, path, metadata)
    with pytest.raises(TableFileError, match="take another copy"):
        load(path)
    save_file({"a": np.ones(3)}, path, metadata)
    with pytest.raises(TableFileError, match="holds other arrays"):
        load(path)


def test_a_file_that_is_not_there_or_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataDirectoryError, match="No such file"):
        load(tmp_path / "none")
    with pytest.raises(DataDirectoryError, match="directory"):
        load(tmp_path)
    with pytest.raises(DataDirectoryError, match="No such file"):
        save(made(), tmp_path / "none" / "t")


@pytest.mark.parametrize("step", ["save_file", "sync", "replace"])
def test_a_save_that_dies_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Died before it, or having done half of it."""
    path = tmp_path / "t"
    old, new = made(0), made(1)
    save(old, path)

    class Death(BaseException):
        pass

    def die(*arguments: Any) -> None:
        if step == "save_file":
            Path(arguments[1]).write_bytes(b"half")
        raise Death

    with monkeypatch.context() as patched:
        patched.setattr(os if step == "replace" else checkpoint, step, die)
        # Nobody cleans up after a process that is killed.
        patched.setattr(shutil, "rmtree", lambda *arguments, **options: None)
        with pytest.raises(Death):
            save(new, path)
    assert load(path).digest() == old.digest()
    assert (tmp_path / ".t.draft").exists()
    save(new, path)
    assert load(path).digest() == new.digest()
    assert [file.name for file in tmp_path.iterdir()] == ["t"]


def test_the_draft_is_synced_before_it_is_moved_and_the_name_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, replace = directories.sync, os.replace

    def synced(path: Path) -> None:
        done.append(f"sync {path.name}")
        sync(path)

    def moved(one: Path, other: Path) -> None:
        done.append(f"move {one.name} {other.name}")
        replace(one, other)

    monkeypatch.setattr(checkpoint, "sync", synced)
    monkeypatch.setattr(os, "replace", moved)
    save(made(), tmp_path / "t")
    assert done == ["sync t", "move t t", f"sync {tmp_path.name}"]


def test_a_file_is_readable_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o026)
    try:
        save(made(), tmp_path / "t")
    finally:
        os.umask(before)
    assert (tmp_path / "t").stat().st_mode & 0o777 == 0o640


def test_a_disk_that_is_full_leaves_the_old_file_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(made(0), tmp_path / "t")
    for raised, error in ((OSError(errno.ENOSPC, "full"), StorageFullError), (SafetensorError("I/O error"), DataDirectoryError)):
        with monkeypatch.context() as patched:
            patched.setattr(checkpoint, "save_file", Mock(side_effect=raised))
            with pytest.raises(error):
                save(made(1), tmp_path / "t")
    assert load(tmp_path / "t").digest() == made(0).digest()
    assert [file.name for file in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("counts"), "missing or too many: counts"),
        (lambda s: s.update(counts=s["counts"][1:]), "counts are int32"),
        (lambda s: s.update(weights=s["weights"].astype(np.float64)), "weights are float64"),
        (lambda s: s.update(ids=s["ids"][::-1].copy()), "ids do not ascend"),
        (lambda s: s["counts"].__setitem__(0, 0), "counts are not all above 0"),
        (lambda s: s["accumulators"].__setitem__(0, np.nan), "accumulators are not all finite"),
        (lambda s: s["weights"].__setitem__((1, 2), np.inf), "weights hold a value that is not finite"),
        (lambda s: s["default"].__setitem__(1, np.nan), "default row hold"),
        (lambda s: s.update(newer_ids=np.arange(100), newer_counts=np.ones(100, np.int32)), "candidates are too many"),
        (lambda s: s.update(newer_ids=s["ids"][:2].copy(), newer_counts=np.ones(2, np.int32)), "some have a row"),
    ],
)
def test_arrays_that_are_no_table_are_refused(change: Any, message: str) -> None:
    table = made()
    state = {name: array.copy() for name, array in table.state().items()}
    change(state)
    with pytest.raises(TableError, match=message):
        EmbeddingTable.from_state(table.config, state)
