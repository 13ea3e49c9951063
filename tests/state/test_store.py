"""A task's RocksDB: commits are whole or not there, and what isn't understood is refused."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from rocksdict import Rdict

from flows.errors import CorruptionError, DataDirectoryError, LockedError, StateError, StorageFullError, TidemarkError
from flows.state import copy, database, tables
from flows.state.copy import write_state
from flows.state.meta import FORMAT, Meta
from flows.state.runs import PREFIX
from flows.state.store import TaskStore
from flows.state.view import TaskView, check_files
from tests.sparing import first
from tests.state.small import small

TABLES = (tables.REVISITS,)


def opened(path: Path, fingerprint: str = "f") -> TaskStore:
    return TaskStore(path, "revisits", 3, fingerprint, TABLES)


def commit(store: TaskStore, k: int) -> None:
    """Commit number k: adds a row of weight 1, and says so."""
    batch = store.batch()
    store.runs.add(batch, "revisits", np.array([[k % 7, 0, 0, k, 1]], np.int64))
    batch.put(b"said", str(k).encode())
    store.meta.position = k + 1
    store.commit(batch)


def merge(store: TaskStore) -> None:
    while (name := store.runs.due()) is not None:
        batch = store.batch()
        store.runs.merge(name, batch)
        store.commit(batch)


def total(store: TaskStore | TaskView) -> int:
    runs = store.meta.manifest.get("revisits", []) if store.meta else []
    return sum(int(rows[:, 4].sum()) for rows in store.runs.scan(tables.REVISITS, runs))


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    with small():
        yield tmp_path / "state"


def test_a_commit_is_there_after_a_crash_and_what_was_not_committed_is_not(path: Path) -> None:
    store = opened(path)
    for k in range(5):
        commit(store, k)
        merge(store)
    batch = store.batch()
    store.runs.add(batch, "revisits", np.array([[1, 2, 3, 4, 5]], np.int64))
    batch.put(b"said", b"never")
    store.meta.position = 99
    store.close()

    store = opened(path)
    assert (store.meta.position, store.get(b"said"), total(store)) == (5, b"4", 5)
    assert (store.meta.flow, store.meta.partition, store.meta.fingerprint) == ("revisits", 3, "f")
    commit(store, 5)
    store.close()
    store = opened(path)
    assert (store.meta.position, total(store)) == (6, 6)
    store.close()


def test_a_merge_that_was_not_committed_changes_nothing(path: Path) -> None:
    store = opened(path)
    for k in range(2):
        commit(store, k)
    store.runs.merge("revisits", store.batch())
    store.close()
    store = opened(path)
    assert [run.level for run in store.meta.manifest["revisits"]] == [0, 0]
    assert total(store) == 2
    store.close()


def test_one_writer_at_a_time(path: Path) -> None:
    store = opened(path)
    with pytest.raises(LockedError, match="in use by another process"):
        opened(path)
    store.close()
    opened(path).close()


def test_another_fingerprint_is_refused_and_lets_go(path: Path) -> None:
    store = opened(path)
    commit(store, 0)
    store.close()
    for _ in range(2):
        with pytest.raises(DataDirectoryError, match=r"other features or settings \(fingerprint f, now g\).*run again"):
            opened(path, "g")
    opened(path).close()


def test_another_format_is_refused_and_lets_go(path: Path) -> None:
    store = opened(path)
    store.meta.format = 99
    store.commit(store.batch())
    store.close()
    for _ in range(2):
        with pytest.raises(DataDirectoryError, match=f"has format 99; this Tidemark reads format {FORMAT}"):
            opened(path)
    with pytest.raises(DataDirectoryError, match="has format 99"):
        TaskView(path)


@pytest.mark.parametrize("record", [b"", b"\xff", b"[]", b"7", b'{"format":2}', b'{"format":2,"manifest":{"a":[[1]]},"applied":{}}'])
def test_a_meta_record_that_makes_no_sense(path: Path, record: bytes) -> None:
    with pytest.raises(CorruptionError, match=r"meta record can't be read .*put the task back"):
        Meta.from_json(record, path)


def test_a_meta_record_comes_back_as_it_was(path: Path) -> None:
    store = opened(path)
    commit(store, 0)
    store.meta.applied = {0: 5, 11: -1}
    store.meta.sequences = {"late": [1, 2]}
    store.meta.watermark = -(2**62)
    assert Meta.from_json(store.meta.to_json(), path) == store.meta
    store.close()


@pytest.mark.parametrize("lost", [0, 0xFFFFFFFF])
def test_a_missing_block_or_index_is_found(path: Path, lost: int) -> None:
    store = opened(path)
    commit(store, 0)
    store._db.delete(PREFIX + bytes(8) + lost.to_bytes(4, "big"))
    store.runs.forget_except(set())
    for read in (lambda: total(store), lambda: store.runs.rows_of(tables.REVISITS, store.meta.manifest["revisits"], np.array([0]))):
        with pytest.raises(CorruptionError, match=r"missing.*put the task back"):
            read()
    store.close()


def test_a_damaged_block_is_found(path: Path) -> None:
    """RocksDB's own checksum tells; the message must not speak of a lock, though RocksDB speaks of a block."""
    store = opened(path)
    rows = np.random.default_rng(0).integers(0, 2**60, (2_000, 5))
    batch = store.batch()
    store.runs.add(batch, "revisits", rows)
    store.commit(batch)
    store._db.flush()
    store.close()
    largest = max(path.glob("*.sst"), key=lambda file: file.stat().st_size)
    data = bytearray(largest.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 9] = b"\x00damage\x00\x00"
    largest.write_bytes(data)
    view = TaskView(path)
    with pytest.raises(CorruptionError, match=r"put the task back"):
        total(view)
    view.close()


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_what_goes_through_a_damaged_block_does_not_end_there(at: float, path: Path) -> None:
    """The bindings' iterators end there without a word: a checkpoint of such a state would lack the rest, and a check find nothing."""
    rng = np.random.default_rng(2)
    write_state(path, ((b"k%06d" % i, rng.bytes(1_000)) for i in range(300)))
    [table] = path.glob("*.sst")
    data = bytearray(table.read_bytes())
    data[int(at * len(data))] ^= 1
    table.write_bytes(data)
    view = TaskView(path)
    for read in (lambda: list(view.items()), lambda: view.prefixed(b"k"), lambda: check_files(path, lambda size: None)):
        with pytest.raises(CorruptionError, match="checksum"):
            read()
    view.close()


@pytest.mark.parametrize("bit", range(8))
def test_a_file_of_options_that_would_crash_who_opens_it_is_refused(bit: int, path: Path) -> None:
    store = opened(path)
    commit(store, 0)
    store.close()
    file = max(path.glob("OPTIONS-*"))
    data = bytearray(file.read_bytes())
    data[data.index(b"/BlockBasedTable") + 1 + bit] ^= 1 << bit
    file.write_bytes(data)
    for read in (lambda: opened(path), lambda: TaskView(path), lambda: check_files(path, lambda size: None)):
        with pytest.raises(StateError, match=r"OPTIONS-\d+ is damaged; put the task back"):
            read()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("IO error: While lock file: /data/LOCK: Resource temporarily unavailable", LockedError),
        ("IO error: lock hold by current process, acquire time 1: /data/LOCK: No locks available", LockedError),
        ("Corruption: block checksum mismatch: stored = 1", StateError),
        ("IO error: No such file or directory: While open a file for random read: /state/4.sst", StateError),
        ("IO error: No space left on device: While appending to file: /blocks/LOCK.log", StorageFullError),
        ("IO error: While open a file for random read: /clock/4.sst: Too many open files", DataDirectoryError),
    ],
)
def test_what_rocksdb_says_in_our_words(text: str, kind: type[TidemarkError]) -> None:
    with pytest.raises(TidemarkError) as caught, database.state_errors(Path("state")):
        raise Exception(text)
    assert type(caught.value) is kind


def test_no_directory_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataDirectoryError, match="can't make"):
        opened(tmp_path / "file" / "state" / "0000")


# The reader's side -----------------------------------------------------------------------------------------------------------------------


def test_a_view_stands_still_between_refreshes(path: Path) -> None:
    store = opened(path)
    commit(store, 0)
    view = TaskView(path)
    commit(store, 1)
    merge(store)
    assert (view.meta.position, view.get(b"said"), total(view)) == (1, b"0", 1)
    view.refresh()
    assert (view.meta.position, view.get(b"said"), total(view)) == (2, b"1", 2)
    assert set(view.runs._indexes) == {run.id for run in view.meta.manifest["revisits"]}, "nothing is remembered of runs that are no more"
    assert view.prefixed(b"sa") == [(b"said", b"1")]
    assert view.prefixed(b"sb") == []
    view.close()
    store.close()


def test_a_view_of_a_task_before_its_first_commit(path: Path) -> None:
    store = opened(path)
    view = TaskView(path)
    assert view.meta is None
    commit(store, 0)
    view.refresh()
    assert view.meta.position == 1
    view.close()
    store.close()


def test_a_view_whose_directory_has_gone(path: Path) -> None:
    store = opened(path)
    commit(store, 0)
    view = TaskView(path)
    store.close()
    path.rename(path.with_name("moved"))
    with pytest.raises(DataDirectoryError):
        view.refresh()
    view.close()
    with pytest.raises(TidemarkError):
        TaskView(path)


@pytest.mark.parametrize("reopened", [False, True], ids=["", "opened again and again"])
@pytest.mark.parametrize("buffer", first(1, [64 << 10, 16 << 20]), ids=["flushed all the time", "in memory"])
def test_a_view_sees_whole_commits_only_while_a_writer_writes(path: Path, buffer: int, reopened: bool) -> None:
    """Whatever is read equals the state at the position that is read with it."""
    with mock.patch.object(database, "WRITE_BUFFER_BYTES", buffer):
        store = opened(path)
        commit(store, 0)
        done = threading.Event()
        failures: list[BaseException] = []

        def write() -> None:
            nonlocal store
            try:
                for k in range(1, 400):
                    commit(store, k)
                    merge(store)
                    if buffer < 1 << 20 and k % 20 == 0:
                        store._db.flush(False)
                    if reopened and k % 4 == 0:
                        store.close()
                        store = opened(path)
            except BaseException as error:
                failures.append(error)
            finally:
                done.set()

        writer = threading.Thread(target=write)
        writer.start()
        view, seen = TaskView(path), set[int]()
        while True:
            last = done.is_set()
            view.refresh()
            position = view.meta.position
            seen.add(position)
            assert (view.get(b"said"), total(view)) == (str(position - 1).encode(), position)
            if last:
                break
        writer.join()
        assert not failures
        assert view.meta.position == 400
        assert len(seen) > 2
        view.close()
        store.close()


def test_opening_and_closing_leaves_no_lock_behind(path: Path) -> None:
    opened(path).close()
    Rdict(str(path), database.task_options()).close()


@pytest.mark.parametrize("order", ["ascending", "descending", "mixed", "none"])
def test_a_database_is_made_of_pairs_in_any_order(order: str, path: Path) -> None:
    """Those in order go into tables, several of them; the others as ever: all are there, and a writer takes it."""
    rng = np.random.default_rng(1)
    pairs = [(b"k%06d" % i, rng.bytes(int(rng.integers(0, 4_000)))) for i in range(0 if order == "none" else 300)]
    if order == "descending":
        pairs.reverse()
    elif order == "mixed":
        pairs = [pairs[i] for i in np.argsort(np.arange(300) + rng.integers(0, 40, 300), kind="stable")]
    with mock.patch.object(copy, "_TABLE_BYTES", 100_000):
        write_state(path, iter(pairs))
    db = Rdict(str(path))
    assert dict(db.items()) == dict(pairs)
    db[b"k000000"] = b"later"
    assert db[b"k000000"] == b"later"
    db.close()
    tables_of_it = len(list(path.glob("*.sst")))
    assert (tables_of_it > 3) == (order in ("ascending", "mixed"))
    assert not list(path.glob("made-*"))


def test_a_view_tells_one_database_from_another_in_its_place(path: Path, tmp_path: Path) -> None:
    """A copy that is put back may go on with the same IDs of runs, and other rows."""
    store = opened(path)
    commit(store, 0)
    view = TaskView(path)
    names = [view.database]
    store.close()
    copy = Path(shutil.copytree(path, tmp_path / "copy"))
    opened(path).close()
    view.refresh()
    assert view.database == names[0], "the same one, that a writer has opened again"
    for again in range(2):
        path.rename(tmp_path / f"old{again}")
        shutil.copytree(copy, path)
        view.refresh()
        names.append(view.database)
    (path / "IDENTITY").unlink()
    opened(path).close()
    view.refresh()
    names.append(view.database)
    assert len(set(names)) == 4
    view.close()
