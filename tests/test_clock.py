"""The wall clock may be set to and fro while the flows run: nothing waits for it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks._chaos_clock import WallClock
from flows.dataflow import pace
from tests.processes import (
    ROOT,
    Simulated,
    assert_same,
    await_true,
    end_all,
    ended,
    environment,
    outcome,
    settings_of,
    tidemark,
    watching,
)


@pytest.mark.cc
def test_a_run_that_follows_goes_on_where_the_clock_is_set_back(simulated: Simulated, tmp_path: Path) -> None:
    clock = WallClock(tmp_path)
    assert clock.path is None, "set off by the library, not by a fallback"
    settings = settings_of(tmp_path / "data")
    first, *others = simulated.files
    tidemark("ingest", first, data=settings.data)
    process = subprocess.Popen(
        [sys.executable, "-m", "tidemark", "run", "--follow", "--workers", "2"],
        env=environment() | settings.environment() | clock.environment,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        with watching(settings) as watch:
            await_true(lambda: watch.position() > 0, "the run is at work")
            seen = [watch.position()]
            # Not to before 1970: to days ago, to the future, and back.
            for seconds, files in ((-3 * 86_400, others[:2]), (5 * 86_400, others[2:4]), (0, others[4:])):
                clock.set(seconds)
                tidemark("ingest", *files, data=settings.data)
                await_true(lambda: watch.position() > seen[-1], "what came after the jump is applied")
                seen.append(watch.position())
            await_true(lambda: watch.position() == simulated.records and watch.lag() == 0, "all is applied, by pins too")
        clock.set(-86_400)
        process.send_signal(signal.SIGTERM)
        assert ended(process).code == 0
    finally:
        end_all(process)
    assert_same(outcome(settings, tmp_path / "exports"), simulated.clean)


def test_who_waits_is_asked_again_when_it_is_time_not_before() -> None:
    wait = pace.Wait()
    assert wait.over()
    for _ in range(3):
        # At the next of all moments that are so far apart, so that those who wait alike wake together.
        due = (time.monotonic() // 0.05 + 1) * 0.05
        wait.begin(0.05)
        while not wait.over():
            pass
        assert time.monotonic() >= due


def test_nobody_sleeps_while_another_of_its_thread_has_work(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(pace.time, "sleep", slept.append)
    one, another = pace.Wait(), pace.Wait()
    one.begin(1_000)
    another.begin(2_000)
    for _ in range(3):
        assert not one.over()
        pace.worked()
        assert not another.over()
        pace.worked()
    assert slept == []
    for _ in range(2):
        assert not one.over()
        assert not another.over()
    # Both have come a second time: until the first of them is due.
    assert len(slept) == 1
    due = (time.monotonic() // 1_000 + 1) * 1_000 - time.monotonic()
    assert due <= slept[0] <= due + 60
