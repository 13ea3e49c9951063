"""The saved working set of a task: a file that a commit names. What is altered is found, and nobody meets a state without its file."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from flows.errors import CorruptionError, DataDirectoryError, StateError, StorageFullError
from flows.outputs import ACTIONS
from flows.state import anchor, tables
from flows.state.actions_task import state_fingerprint
from flows.state.anchor import ANCHOR, SEAL_BYTES
from flows.state.copy import write_state
from flows.state.store import TaskStore
from flows.state.task import task_path
from flows.state.view import TaskView, check_files
from tests.state.house import House
from tests.strategies import adversarial

TaskStore_sync = TaskStore.sync


def opened(path: Path) -> TaskStore:
    return TaskStore(path, "revisits", 3, "f", (tables.REVISITS,))


def content(k: int) -> bytes:
    """What is saved at position k: of another length each time, and long enough to be written in pieces."""
    return k.to_bytes(8, "little") * (1 + 997 * (k % 7))


def saved(store: TaskStore, k: int) -> None:
    """Save a working set at position k, and commit it."""
    store.meta.position = store.meta.anchor = k
    batch = store.batch()
    data = content(k)
    store.save(batch, [data[:8], data[8:]])
    store.commit(batch)


def files(path: Path) -> list[Path]:
    return sorted(path.glob("anchor-*"))


def test_what_is_saved_is_read_by_the_writer_by_readers_and_in_copies(tmp_path: Path) -> None:
    path = tmp_path / "state"
    store = opened(path)
    assert store.saved() is None
    for k in range(1, 30):
        saved(store, k)
        view = TaskView(path)
        assert store.saved() == view.saved() == content(k)
        write_state(tmp_path / f"copy {k}", view.items())
        copied = TaskView(tmp_path / f"copy {k}")
        assert copied.saved() == content(k)
        assert list(copied.items()) == list(view.items())
        assert len(files(path)) <= 2
        assert len(files(tmp_path / f"copy {k}")) == 1
        copied.close()
        view.close()
    store.close()


def test_what_is_saved_never_goes_through_the_database(tmp_path: Path) -> None:
    """It would be in the memory of everyone who follows the task."""
    store = opened(tmp_path / "state")
    large = np.random.default_rng(0).bytes(3_000_000)
    for k in range(1, 4):
        store.meta.position = store.meta.anchor = k
        batch = store.batch()
        store.save(batch, [large])
        store.commit(batch)
    store.close()
    assert sum(file.stat().st_size for file in (tmp_path / "state").glob("*.log")) < 100_000


def test_a_reader_reads_what_it_stands_on_however_far_the_writer_has_gone(tmp_path: Path) -> None:
    store = opened(tmp_path / "state")
    saved(store, 1)
    view = TaskView(tmp_path / "state")
    for k in range(2, 9):
        saved(store, k)
    assert view.meta is not None
    assert view.meta.position == 1
    assert view.saved() == content(1)
    assert dict(view.items())[ANCHOR][SEAL_BYTES:] == content(1)
    view.refresh()
    assert view.saved() == content(8)
    view.close()
    store.close()


def test_readers_beside_a_writer_always_find_what_their_commit_names(tmp_path: Path) -> None:
    path, ends, wrong = tmp_path / "state", threading.Event(), list[object]()
    store = opened(path)
    saved(store, 1)
    seen = set[int]()

    def follow() -> None:
        view = TaskView(path)
        while not ends.is_set():
            view.refresh()
            meta, data = view.meta, view.saved()
            if meta is None or data is None or data != content(meta.position):
                wrong.append((meta, data and bytes(data[:8])))
                return
            seen.add(meta.position)
            fresh = TaskView(path)
            if fresh.saved() is None:
                wrong.append(fresh.meta)
            fresh.close()
        view.close()

    readers = [threading.Thread(target=follow) for _ in range(2)]
    for reader in readers:
        reader.start()
    for k in range(2, 400):
        saved(store, k)
    ends.set()
    for reader in readers:
        reader.join()
    store.close()
    assert not wrong
    assert len(seen) > 3


def test_a_check_of_all_files_beside_a_writer_that_saves_meanwhile(tmp_path: Path) -> None:
    """Of however long a pass: none is made again."""
    store = opened(tmp_path / "state")
    saved(store, 1)
    left = iter(range(2, 9))

    def advance(size: int) -> None:
        if (k := next(left, None)) is not None:
            saved(store, k)

    with mock.patch("flows.state.view._PATIENCE_S", 0):
        check_files(tmp_path / "state", advance)
    assert next(left) > 3, "it has saved meanwhile"
    store.close()


def test_a_reader_finds_the_file_of_a_state_that_was_put_in_the_place_of_its_own(tmp_path: Path) -> None:
    """One of the same position has one of the same name."""
    path, moved = tmp_path / "state", tmp_path / "moved"
    store = opened(path)
    saved(store, 6)
    store.close()
    reader = TaskView(path)
    write_state(tmp_path / "copy", reader.items())
    [file] = files(path)
    altered(0)(file, store)
    assert reader.saved() is None
    path.rename(moved)
    (tmp_path / "copy").rename(path)
    reader.refresh()
    assert reader.saved() == content(6)
    reader.close()


def test_a_file_that_can_not_be_opened_for_a_moment(tmp_path: Path) -> None:
    """A reader never says one commit's position with another one's values."""
    store = opened(tmp_path / "state")
    saved(store, 1)
    reader = TaskView(tmp_path / "state")
    saved(store, 2)
    none = mock.patch("flows.state.anchor.os.open", side_effect=OSError(24, "Too many open files"))
    with none, pytest.raises(DataDirectoryError, match="Too many open files") as caught:
        reader.refresh()
    assert not isinstance(caught.value, StateError), "no state is damaged"
    reader.refresh()
    assert reader.meta is not None
    assert (reader.meta.position, reader.saved()) == (2, content(2))
    reader.close()
    store.close()


def test_a_reader_that_is_closed_holds_no_file(tmp_path: Path) -> None:
    store = opened(tmp_path / "state")
    saved(store, 1)
    reader = TaskView(tmp_path / "state")

    def held() -> int:
        return sum(os.readlink(link).startswith(f"{tmp_path}/state/anchor-") for link in Path("/proc/self/fd").iterdir() if link.exists())

    assert held() == 1
    reader.close()
    assert held() == 0
    store.close()


def test_the_file_is_durable_before_the_commit_that_names_it_and_goes_after_the_one_that_does_not(tmp_path: Path) -> None:
    path, done = tmp_path / "state", list[str]()
    store = opened(path)
    saved(store, 1)
    saved(store, 2)

    def told(name: str, of: Callable[..., object]) -> Callable[..., object]:
        def does(*given: object, **named: object) -> object:
            done.append(name)
            return of(*given, **named)

        return does

    with (
        mock.patch("flows.state.anchor.os.fsync", told("file", os.fsync)),
        mock.patch("flows.state.anchor.sync", told("name", anchor.sync)),
        mock.patch.object(TaskStore, "sync", told("commits", TaskStore.sync)),
        mock.patch("flows.state.anchor.delete_except", told("delete", anchor.delete_except)),
        mock.patch.object(TaskStore, "write", told("write", TaskStore.write)),
    ):
        saved(store, 3)
    store.close()
    # The second one is that of the directory, which has the name.
    assert done == ["file", "name", "file", "commits", "delete", "write", "commits"]


def test_a_kill_between_the_file_and_the_commit_leaves_the_state_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "state"
    store = opened(path)
    saved(store, 1)
    store.meta.position = store.meta.anchor = 2
    store.save(store.batch(), [content(2)])
    (path / "anchor-draft").write_bytes(b"half")
    store.close()
    assert len(files(path)) == 3
    again = opened(path)
    assert (again.meta.position, again.saved()) == (1, content(1))
    assert len(files(path)) == 1, "what nothing names is deleted"
    again.close()


def test_a_full_disk_is_said_and_the_state_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "state"
    store = opened(path)
    saved(store, 1)
    with mock.patch("flows.state.anchor.os.fsync", side_effect=OSError(28, "No space left on device")), pytest.raises(StorageFullError):
        saved(store, 2)
    assert [file.name for file in files(path)] == [f"anchor-{store._mark().hex()}"], "what could not be written takes no room"
    store.close()
    again = opened(path)
    assert (again.meta.position, again.saved()) == (1, content(1))
    again.close()


def test_what_a_kill_left_is_deleted_before_the_database_needs_room(tmp_path: Path) -> None:
    path = tmp_path / "state"
    store = opened(path)
    saved(store, 1)
    store.close()
    (path / "anchor-draft").write_bytes(bytes(1_000))
    full = Exception("IO error: No space left on device: While appending to file")
    with mock.patch("flows.state.store.Rdict", side_effect=full), pytest.raises(StorageFullError):
        opened(path)
    assert not (path / "anchor-draft").exists()


def test_a_position_counts_when_its_commit_is_durable(tmp_path: Path) -> None:
    """What tells it to others, as for lag, may look at any moment: a working set takes a while to be written."""
    house = House(tmp_path / "house", adversarial(3, 40, partitions=1), anchor_records=10)
    task, told = house.open(), list[int]()
    save = anchor.save
    with (
        mock.patch("flows.state.anchor.save", lambda *given: (told.append(task.position), save(*given))),
        mock.patch.object(TaskStore, "sync", lambda store: (told.append(task.position), TaskStore_sync(store))),
    ):
        task.apply(house.logs[ACTIONS].read(0, 0, 15))
    assert task.position == 15
    assert len(told) >= 3
    assert set(told) == {0}
    task.close()
    house.close()


def test_the_same_once_more(tmp_path: Path) -> None:
    """A task that comes by the same position again saves the same: the file is replaced as a whole, and stays."""
    store = opened(tmp_path / "state")
    for _ in range(3):
        saved(store, 5)
        assert store.saved() == content(5)
        assert len(files(tmp_path / "state")) == 1
    store.close()


def test_what_older_versions_saved_in_the_database(tmp_path: Path) -> None:
    path = tmp_path / "state"
    store = opened(path)
    store.meta.position = store.meta.anchor = 4
    batch = store.batch()
    batch.put(ANCHOR, anchor.seal(store.meta, [content(4)]) + content(4))
    store.commit(batch)
    assert store.saved() == content(4)
    view = TaskView(path)
    assert view.saved() == content(4)
    pairs = list(view.items())
    check_files(path, lambda size: None)
    write_state(tmp_path / "copy", pairs)
    copied = TaskView(tmp_path / "copy")
    assert list(copied.items()) == pairs
    assert len(files(tmp_path / "copy")) == 1
    saved(store, 5)
    view.refresh()
    assert view.saved() == content(5)
    view.close()
    copied.close()
    store.close()


# Damage ---------------------------------------------------------------------------------------------------------------------------------


def altered(at: int) -> Callable[[Path, TaskStore], None]:
    def alter(file: Path, store: TaskStore) -> None:
        data = bytearray(file.read_bytes())
        data[at] ^= 1
        file.write_bytes(data)

    return alter


def cut(file: Path, store: TaskStore) -> None:
    os.truncate(file, file.stat().st_size - 8)


def longer(file: Path, store: TaskStore) -> None:
    file.write_bytes(file.read_bytes() + bytes(8))


def gone(file: Path, store: TaskStore) -> None:
    file.unlink()


def of_another(file: Path, store: TaskStore) -> None:
    """The state names a file that is there, whole, and of another position."""
    store.meta.anchor -= 1
    store.commit(store.batch())


def unnamed(file: Path, store: TaskStore) -> None:
    batch = store.batch()
    batch.delete(ANCHOR)
    store.commit(batch)


@pytest.mark.parametrize("harm", [*map(altered, (0, 8, 70, 100, -1)), cut, longer, gone, of_another, unnamed])
def test_what_was_altered_is_found(harm: Callable[[Path, TaskStore], None], tmp_path: Path) -> None:
    house = House(tmp_path / "house", adversarial(3, 40, partitions=1), anchor_records=10)
    house.feed(house.open(), [7]).abandon()
    path = task_path(house.settings, ACTIONS, 0)
    mark = state_fingerprint(house.settings, house.vocabulary)
    check_files(path, lambda size: None)
    # A kill leaves the one before as well; an opening deletes it.
    store = TaskStore(path, ACTIONS, 0, mark, tables.ACTIONS_TABLES)
    [file] = files(path)
    harm(file, store)
    store.close()
    view = TaskView(path)
    assert view.saved() is None
    for read in (lambda: list(view.items()), lambda: check_files(path, lambda size: None)):
        # Where nothing names it, only who needs it can know.
        if harm is not unnamed:
            with pytest.raises(CorruptionError, match=r"working set is not what was written; put the task back"):
                read()
    view.close()
    with pytest.raises(CorruptionError, match=r"working set saved at position \d+ is not what was written; put the task back"):
        house.open()
    house.close()


def test_a_file_that_the_disk_does_not_give_is_damage_of_its_task_alone(tmp_path: Path) -> None:
    store = opened(tmp_path / "state")
    saved(store, 1)
    view = TaskView(tmp_path / "state")
    with mock.patch("flows.state.anchor.os.pread", side_effect=OSError(5, "Input/output error")):
        for read in (store.saved, view.saved, lambda: list(view.items()), lambda: check_files(tmp_path / "state", lambda size: None)):
            with pytest.raises(StateError, match=r"Input/output error.*put the task back"):
                read()
    view.close()
    store.close()
