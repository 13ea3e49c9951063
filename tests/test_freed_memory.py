"""What is freed goes back to the system, in a process of its own: what others hold here would say nothing."""

from __future__ import annotations

import subprocess
import sys

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


def _held(how: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", _PROCESS, how], cwd=ROOT, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_holes_between_what_lives_go_back_to_the_system():
    full, _, left = _held("returned")
    assert left < full / 2


def test_they_would_stay_otherwise():
    full, freed, left = _held("kept")
    assert min(freed, left) > full / 2
