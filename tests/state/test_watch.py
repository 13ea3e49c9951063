"""Whatever is written in a directory that is watched is told at the next call, in which way soever; what isn't told is looked for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from flows.outputs import ACTIONS
from flows.reading import FeatureReader
from flows.state import view, watch
from flows.state.watch import Watch
from tests.state.house import House
from tests.strategies import random_stream


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "above" / "task"
    made.mkdir(parents=True)
    (made / "000004.log").write_bytes(b"")
    return made


@pytest.fixture
def watched(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Nothing is looked at for time's sake."""
    monkeypatch.setattr(watch, "_LOOK_S", 1e9)
    # Wherever the tests' directory lies, it is this machine alone that writes there.
    monkeypatch.setattr(Watch, "_is_local", lambda self, path: True)
    made = Watch()
    made.add("task", directory)
    assert made._keys
    assert made.changed() == set()
    yield made
    made.close()


def test_each_way_in_which_something_changes(watched: Watch, directory: Path) -> None:
    with (directory / "000004.log").open("ab", buffering=0) as log:
        for _ in range(3):
            log.write(b"x")
            assert watched.changed() == {"task"}
            assert watched.changed() == set()
        log.truncate(1)
        assert watched.changed() == {"task"}
    (directory / "CURRENT.new").write_bytes(b"")
    assert watched.changed() == {"task"}
    (directory / "CURRENT.new").replace(directory / "CURRENT")
    assert watched.changed() == {"task"}
    (directory / "CURRENT").unlink()
    assert watched.changed() == {"task"}
    subprocess.run([sys.executable, "-c", f"open({str(directory / '000004.log')!r}, 'ab').write(b'x')"], check=True)
    assert watched.changed() == {"task"}
    (directory / "000004.log").read_bytes()
    assert watched.changed() == set()


@pytest.mark.parametrize("way", ["moved", "deleted"])
def test_another_directory_under_the_name(watched: Watch, directory: Path, way: str) -> None:
    if way == "moved":
        directory.rename(directory.with_name("old"))
    else:
        shutil.rmtree(directory)
    assert watched.changed() == {"task"}
    # While there is none, nothing tells of it.
    assert watched.changed() == {"task"}
    directory.mkdir()
    watched.add("task", directory)
    watched.changed()
    (directory / "000005.log").write_bytes(b"x")
    assert watched.changed() == {"task"}
    assert watched.changed() == set()
    if way == "moved":
        (directory.with_name("old") / "000004.log").write_bytes(b"x")
        assert watched.changed() == set()


def test_more_than_the_system_remembers(watched: Watch, directory: Path) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    other = directory.with_name("other")
    other.mkdir()
    watched.add("other", other)
    watched.changed()
    names = [directory / "a", directory / "b"]
    for _ in range(most // 4 + 100):
        for name in names:
            os.close(os.open(name, os.O_CREAT))
            os.unlink(name)
    assert watched.changed() == {"task", "other"}
    assert watched.changed() == set()


def test_what_is_not_told_may_always_have_changed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_LOCAL", set())
    foreign = Watch()
    foreign.add("task", directory)
    assert foreign.changed() == foreign.changed() == {"task"}
    foreign.close()
    monkeypatch.undo()
    monkeypatch.setattr(watch, "_EVENTS", 0)  # the system refuses
    refused = Watch()
    refused.add("task", directory)
    assert refused.changed() == refused.changed() == {"task"}
    refused.close()


def test_each_is_looked_at_once_in_a_while(directory: Path) -> None:
    with mock.patch.object(watch.time, "monotonic", return_value=100.0) as clock:
        made = Watch()
        for name in ("a", "b", "c", "d"):
            (directory / name).mkdir()
            made.add(name, directory / name)
        assert made.changed() == set()
        seen = []
        for step in range(1, 9):
            clock.return_value = 100.0 + step * 0.2501
            seen.append(made.changed())
        assert all(len(found) <= 1 for found in seen)
        assert set().union(*seen) == {"a", "b", "c", "d"}
        clock.return_value += 50
        assert made.changed() == {"a", "b", "c", "d"}
        assert made.changed() == set()
        made.close()


def test_a_reader_looks_at_the_files_of_what_was_written_alone(tmp_path: Path) -> None:
    events = random_stream(3, 400, partitions=2, users=40, pins=40, days=10)
    made = House(tmp_path / "data", events, partitions=2)
    with mock.patch.object(watch, "_LOOK_S", 1e9), FeatureReader(made.settings) as reader:
        assert reader.default_as_of() is None
        task = made.open()
        for size in (1, 50, 100):
            task.apply(made.logs[ACTIONS].read(0, task.position, size))
            reader.refresh()
            assert reader.positions()[ACTIONS][0] == task.position
            reader.refresh()
            with mock.patch.object(view, "_sizes", side_effect=AssertionError("looked at files")):
                reader.refresh()
        task.close()
        made.finish([100])
        reader.refresh()
        assert reader.positions()[ACTIONS] == [made.logs[ACTIONS].end_position(p) for p in range(2)]
    made.close()
