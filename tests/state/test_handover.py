"""A task's own lock, and the asking for it: one has the task at a time, whatever becomes of its directory, and nobody keeps it beyond his end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flows.errors import DataDirectoryError, LockedError
from flows.settings import Settings
from flows.state import task_lock
from flows.state.handover import task_taken
from flows.state.task_lock import LOCK, WANTED, TaskLock, beside, is_wanted, last_held
from tests.processes import ROOT
from tests.state.house import House
from tests.strategies import adversarial

TAKING = """
import sys
from pathlib import Path
from flows.settings import Settings
from flows.state.handover import task_taken
with task_taken(Settings(data=Path(sys.argv[1])), "actions", int(sys.argv[2])):
    print("taken", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "house", adversarial(3, 100, partitions=1))


def taking(data: Path, partition: int = 0) -> subprocess.Popen[str]:
    """A process that has taken a task of the actions flow and waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", TAKING, str(data), str(partition)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n"
    return process


def test_a_task_that_is_taken_is_not_opened_not_even_where_its_directory_has_gone(house: House) -> None:
    house.open().close()
    with task_taken(house.settings, "actions", 0) as path:
        path.rename(path.with_name("elsewhere"))
        with pytest.raises(LockedError, match=rf"actions/0000 is being replaced by another command \(process {os.getpid()}\); wait"):
            house.open()
        assert not path.exists(), "no empty database was made"
        path.with_name("elsewhere").rename(path)
    house.open().close()


def test_an_open_task_is_waited_for_but_not_for_ever(house: House) -> None:
    task = house.open()
    with (
        pytest.raises(LockedError, match=rf"task actions/0 was not let go of within 0 s by process {os.getpid()}"),
        task_taken(house.settings, "actions", 0, patience_s=0.1),
    ):
        pass
    assert not is_wanted(task.store.path), "who gives up asks no more"
    timer = threading.Timer(0.2, task.close)
    timer.start()
    with task_taken(house.settings, "actions", 0):
        assert "_db" not in task.store.__dict__
    timer.join()
    house.open().close()


def test_who_comes_second_is_told_so(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    with task_taken(house.settings, "actions", 0) as path:
        with (
            pytest.raises(LockedError, match=rf"task actions/0 is being replaced by another command \(process {os.getpid()}\); wait"),
            task_taken(house.settings, "actions", 0),
        ):
            pass
        # He has neither taken nor spoilt what the first has.
        assert is_wanted(path)
        with pytest.raises(LockedError):
            TaskLock(path, 0.0)
        with task_taken(house.settings, "actions", 1), task_taken(house.settings, "revisits", 0):
            pass
    assert not is_wanted(path)
    TaskLock(path, 0.0).release()


def test_a_look_at_the_lock_keeps_nobody_off(house: House) -> None:
    """A run that looks holds it for a moment."""
    path = house.settings.state / "actions" / "0000"
    stop = threading.Event()

    def look() -> None:
        # A run looks once a second. Without a pause these would leave the command no time between them.
        while not stop.wait(0.001):
            is_wanted(path)

    looking = [threading.Thread(target=look) for _ in range(3)]
    for thread in looking:
        thread.start()
    try:
        for _ in range(100):
            with task_taken(house.settings, "actions", 0):
                assert is_wanted(path)
    finally:
        stop.set()
        for thread in looking:
            thread.join()
    assert not beside(path, WANTED).exists()


def test_who_is_killed_has_let_go(house: House) -> None:
    house.open().close()
    path = house.settings.state / "actions" / "0000"
    operator = taking(house.settings.data)
    before = last_held(path)
    try:
        assert is_wanted(path)
        with pytest.raises(LockedError, match=f"process {operator.pid}"):
            house.open()
        operator.send_signal(signal.SIGKILL)
        operator.wait()
        assert beside(path, WANTED).exists()
        assert not is_wanted(path)
        house.open().close()
        assert last_held(path) > before
        # What a killed one has left behind is no lock, and is taken away by the next.
        with task_taken(house.settings, "actions", 0):
            assert is_wanted(path)
        assert not beside(path, WANTED).exists()
    finally:
        operator.kill()
        operator.communicate()


def test_nobody_inherits_it(tmp_path: Path) -> None:
    path = tmp_path / "task"
    lock = TaskLock(path)
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, close_fds=False)
    try:
        lock.release()
        TaskLock(path).release()
    finally:
        child.communicate()


def test_a_file_that_was_taken_away_meanwhile_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that had opened the same file, whose first owner has removed it: only one may have the lock of what lies there then."""
    path = tmp_path / "task"
    opened = task_lock.lock_file
    first = task_lock.locked(beside(path, WANTED), 0.0)
    assert first is not None

    def removed(file: Path) -> int:
        descriptor = opened(file)
        monkeypatch.setattr(task_lock, "lock_file", opened)
        file.unlink()
        os.close(first)
        return descriptor

    monkeypatch.setattr(task_lock, "lock_file", removed)
    second = task_lock.locked(beside(path, WANTED), 1.0)
    assert second is not None
    assert is_wanted(path)
    os.close(second)


def test_no_place_for_a_lock(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataDirectoryError, match="can't make"), task_taken(Settings(data=tmp_path / "file"), "actions", 0):
        pass


def test_the_lock_lies_beside_the_directory(house: House) -> None:
    task = house.open()
    assert beside(task.store.path, LOCK) == house.settings.state / "actions" / "0000.lock"
    assert beside(task.store.path, LOCK).read_text() == f"{os.getpid()}\n"
    task.close()
