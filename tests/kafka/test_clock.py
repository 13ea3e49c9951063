"""The wall clock of a producer against the broker's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks._chaos_clock import WallClock
from flows.settings import Settings
from tests.kafka.conftest import options
from tests.processes import ROOT, Simulated, environment, tidemark
from tests.sparing import first

pytestmark = pytest.mark.kafka


@pytest.mark.cc
@pytest.mark.parametrize("days", first(1, [-2, 2]))
def test_a_clock_that_is_days_off_is_taken(on_kafka: Settings, simulated: Simulated, days: int, tmp_path: Path) -> None:
    """A broker refuses records whose time lies an hour ahead of its own."""
    clock = WallClock(tmp_path)
    assert clock.path is None, "set off by the library, not by a fallback"
    clock.set(days * 86_400)
    # Not the lines without a time, which arrive when their producer says that it is.
    files = simulated.files[:-1]
    for command in (("ingest", *map(str, files)), ("run",)):
        environ = environment() | on_kafka.environment() | clock.environment
        done = subprocess.run(
            [sys.executable, "-m", "tidemark", *command], env=environ, cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
    said = tidemark("status", "--json", data=on_kafka.data, **options(on_kafka)).json()
    assert sum(task["lag"] for task in said["tasks"]) == 0
    assert said["counts"]["records"] == sum(pq.read_metadata(path).num_rows for path in files)
