"""Folders of views: one that a killed reader left goes with the next reader, one of a reader that lives never does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from flows.state import scratch
from tests.processes import ROOT, environment
from tests.state.house import House
from tests.strategies import random_stream

READER = """
import sys
from pathlib import Path
from flows.reading import FeatureReader
from flows.settings import Settings

with FeatureReader(Settings(data=Path(sys.argv[1]), partitions=2)) as reader:
    print(reader.counts()["records"], flush=True)
    for line in sys.stdin:
        reader.refresh()
        print(reader.counts()["records"], flush=True)
"""


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(tmp_path / "data", random_stream(1, 200, partitions=2, users=20, pins=20), partitions=2)
    house.finish()
    house.close()
    return house


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Where readers' folders lie."""
    (tmp_path / "tmp").mkdir()
    return tmp_path / "tmp"


def reader(house: House, temporary: Path) -> subprocess.Popen[str]:
    """A process that has its views open."""
    process = subprocess.Popen(
        [sys.executable, "-c", READER, str(house.settings.data)],
        cwd=ROOT,
        env={**environment(), "TMPDIR": str(temporary)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert int(process.stdout.readline()) >= 200
    return process


def folders(temporary: Path) -> set[Path]:
    return {path for path in temporary.iterdir() if path.name.startswith("tidemark-views-")}


def test_what_a_killed_reader_left_goes_and_what_a_live_one_has_stays(house: House, temporary: Path) -> None:
    live = reader(house, temporary)
    [kept] = folders(temporary)
    inside = sorted(kept.rglob("*"))
    assert inside
    killed = reader(house, temporary)
    [left] = folders(temporary) - {kept}
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert any(left.iterdir()), "nobody has removed it yet"
    # The next one removes it, and its own at its end.
    following = reader(house, temporary)
    now = folders(temporary)
    assert left not in now
    assert len(now) == 2
    following.communicate()
    assert following.returncode == 0
    assert folders(temporary) == {kept}
    assert sorted(kept.rglob("*")) == inside
    out, _ = live.communicate("again\n")
    assert live.returncode == 0
    assert int(out) >= 200
    assert folders(temporary) == set()


def test_a_folder_that_is_taken_away_before_it_is_locked_is_made_again(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(scratch, "_folders", {})
    make, lost = tempfile.mkdtemp, []

    def made(*arguments: str, **named: str) -> str:
        path = make(*arguments, **named)
        if named.get("prefix") and len(lost) < 2:
            lost.append(path)
            scratch.clear()
        return path

    monkeypatch.setattr(tempfile, "mkdtemp", made)
    path = Path(scratch.take())
    assert len(lost) == 2
    assert path.is_dir()
    assert folders(temporary) == {path.parent}
    # Those who clear leave it be, as long as it is locked.
    scratch.clear()
    assert path.is_dir()
    os.close(scratch._folders[os.getpid()][1])
    scratch.clear()
    assert folders(temporary) == set()


def test_what_only_has_the_name_is_left_alone(temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_bytes(np.random.default_rng(0).bytes(10))
    (temporary / "tidemark-views-link").symlink_to(other)
    (temporary / "tidemark-views-file").write_text("x")
    (temporary / "tidemark-view-older").mkdir()
    scratch.clear()
    assert (other / "file").exists()
    assert len(list(temporary.iterdir())) == 3
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    scratch.clear()


def test_a_fork_has_a_folder_of_its_own(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(scratch, "_folders", {})
    ours = Path(scratch.take())
    child = os.fork()
    if not child:
        taken = Path(scratch.take())
        scratch._end(os.getpid())
        os._exit(int(taken.parent == ours.parent or taken.exists()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ours.is_dir()
    scratch._end(os.getpid())
    assert folders(temporary) == set()


def test_a_folder_that_somebody_removed_is_made_anew(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(scratch, "_folders", {})
    shutil.rmtree(Path(scratch.take()).parent)
    taken = Path(scratch.take())
    assert taken.is_dir()
    scratch.clear()
    assert taken.is_dir(), "it is locked"
    scratch._end(os.getpid())
    assert folders(temporary) == set()
