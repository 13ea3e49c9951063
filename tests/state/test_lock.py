"""The lock of a data directory: a mere look at it refuses nobody, and a run that lives refuses everybody."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from flows.errors import LockedError
from flows.state import lock
from flows.state.lock import run_is_on, run_lock
from flows.state.task_lock import lock_file


def test_a_look_refuses_no_start_though_the_last_run_lives(tmp_path: Path) -> None:
    """As where a command that was a run looks: it has signed, and has the lock no more."""
    with run_lock(tmp_path):
        assert run_is_on(tmp_path)
    assert not run_is_on(tmp_path)
    looking = lock_file(tmp_path / "LOCK")
    fcntl.flock(looking, fcntl.LOCK_EX | fcntl.LOCK_NB)
    timer = threading.Timer(0.1, os.close, [looking])
    timer.start()
    with run_lock(tmp_path):
        pass
    timer.join()


def test_a_run_that_lives_refuses_a_second_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "GRACE_S", 0.1)
    with run_lock(tmp_path), pytest.raises(LockedError, match=rf"in use by another run \(process {os.getpid()}\)"), run_lock(tmp_path):
        pass
