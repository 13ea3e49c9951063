"""What is freed goes back to the system, in a process of its own: what others hold here would say nothing. And what working sets take is told."""

from __future__ import annotations

import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry

from flows.kernels.actions import WorkingSet
from flows.kernels.examples import JoinSet
from flows.remembered import remembered_bytes, tell_remembered
from tests.processes import ROOT

# Every twentieth piece lives on, so that nothing of the heap is at its end: glibc returns none of it by itself.
_PROCESS = """
import sys, time
from pathlib import Path
from flows.freed_memory import return_freed_memory

def held():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))

pieces = [bytes(64_000) for _ in range(3_000)]
full = held()
kept = pieces[::20]
del pieces
freed = held()
if sys.argv[1] == "returned":
    return_freed_memory(0.05)
    until = time.monotonic() + 60
    while held() > full / 2 and time.monotonic() < until:
        time.sleep(0.05)
print(full, freed, held())
"""


# glibc takes the first piece of a size from the system and gives it back; from then on such pieces lie between others.
_LARGE = """
import sys
from pathlib import Path
from flows.freed_memory import return_freed_memory

def held():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))

if sys.argv[1] == "returned":
    return_freed_memory(1_000)
b"x" * (8 << 20)
pieces, kept = [], []
for _ in range(20):
    pieces.append(b"x" * (8 << 20))
    kept.append(b"x" * 100_000)
full = held()
del pieces
print(full, held())
"""


def _held(process: str, how: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", process, how], cwd=ROOT, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


@pytest.mark.parametrize("process", [_PROCESS, _LARGE], ids=["holes", "large pieces"])
def test_it_goes_back_to_the_system(process: str):
    full, *_, left = _held(process, "returned")
    assert left < full / 2


@pytest.mark.parametrize("process", [_PROCESS, _LARGE], ids=["holes", "large pieces"])
def test_it_would_stay_otherwise(process: str):
    full, *left = _held(process, "kept")
    assert min(left) > full / 2


def test_what_working_sets_take_is_told_as_long_as_they_live():
    before = remembered_bytes()
    registry = CollectorRegistry()
    tell_remembered(registry)
    sets = [WorkingSet(0, 0, 0), JoinSet(0)]
    assert registry.get_sample_value("tidemark_working_set_bytes") == before + sum(one.size for one in sets)
    sets.pop()
    assert remembered_bytes() == before + sets[0].size
    sets.clear()
    assert remembered_bytes() == before


@pytest.mark.parametrize("first", ["import pyarrow", ""], ids=["imported before", "imported after"])
def test_arrow_frees_to_where_it_is_given_back_from(first: str):
    process = f"""
{first}
from flows.freed_memory import return_freed_memory
return_freed_memory(1_000)
import pyarrow, subprocess, sys
print(pyarrow.default_memory_pool().backend_name)
print(subprocess.check_output([sys.executable, "-c", "import pyarrow; print(pyarrow.default_memory_pool().backend_name)"], text=True))
"""
    done = subprocess.run([sys.executable, "-c", process], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["system", "system"], "here, and in what it starts"
