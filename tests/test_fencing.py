"""Two processes never write one task: whoever comes second is refused with a message, whatever started it, and the first goes on undisturbed."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

import flows.state.lock
from tests.processes import (
    Simulated,
    assert_same,
    await_true,
    end_all,
    ended,
    front_door,
    kill,
    outcome,
    settings_of,
    start,
    start_bytewax,
    tidemark,
    watching,
    workers_of,
)


def await_position(data: Path, position: int, process: subprocess.Popen[str]) -> None:
    with watching(settings_of(data)) as watch:
        await_true(lambda: watch.position() >= position or process.poll() is not None, f"{position} are committed")


def refused_bytewax(data: Path, *arguments: str) -> str:
    """Start bytewax, which must fail; what it says."""
    process = start_bytewax(*(arguments or ("flows.all:flow",)), data=data)
    try:
        _, err = process.communicate(timeout=120)
    finally:
        end_all(process)
    assert process.returncode != 0
    return err


def check(data: Path, simulated: Simulated, tmp_path: Path) -> None:
    tidemark("run", data=data)
    assert_same(outcome(settings_of(data), tmp_path / "exports"), simulated.clean)


def test_nobody_beside_a_bare_bytewax(simulated: Simulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = simulated.copy(tmp_path / "data")
    first = start_bytewax("flows.all:flow(follow=True)", data=data)
    try:
        await_position(data, simulated.records, first)
        assert f"is in use by another run (process {first.pid})" in front_door("run", data=data, monkeypatch=monkeypatch, code=None).err
        # It may be of the same cluster, so what refuses it is the lock of the task.
        assert "is in use by another process; stop that run first" in refused_bytewax(data)
        assert first.poll() is None
        first.send_signal(signal.SIGTERM)
        assert ended(first).code == 0
    finally:
        end_all(first)
    check(data, simulated, tmp_path)


def test_no_bare_bytewax_beside_a_run_not_even_beside_what_is_left_of_it(
    simulated: Simulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was halted for long still has its tasks, though the run that started it has gone."""
    data = simulated.copy(tmp_path / "data")
    run = start("run", "--follow", "--workers", 2, data=data, batch_records=50)
    orphans: list[int] = []
    try:
        await_position(data, 100, run)
        assert f"is in use by another run (process {run.pid})" in refused_bytewax(data)
        orphans = workers_of(run)
        kill(orphans[0], signal.SIGSTOP)
        kill(run.pid)
        ended(run)
        # Not for the run below, which waits for the worker to end.
        with monkeypatch.context() as impatient:
            impatient.setattr(flows.state.lock, "GRACE_SECONDS", 0.5)
            said = front_door("run", data=data, monkeypatch=impatient, code=None)
        assert (said.code > 0, f"whose first (process {run.pid}) has gone" in said.err) == (True, True), said
    finally:
        for orphan in orphans:
            kill(orphan, signal.SIGCONT)
        end_all(run)
    # It goes by itself: a new run waits for it.
    check(data, simulated, tmp_path)
