"""The tool's side of a run: builds a pipeline and runs it, in the tool's own environment, so with nothing but Python's library and the tool.

Not to be called by hand: `_peer` starts it. What it measures goes to a file, as the tools write to where they like.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def main(task: dict[str, Any]) -> None:
    """Run what the task says: module, arguments, warm (arguments of a run before, or null), messages (count them), told (where to say it)."""
    spec = importlib.util.spec_from_file_location("pipeline", task["module"])
    pipeline = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules["pipeline"] = pipeline
    spec.loader.exec_module(pipeline)  # type: ignore[union-attr]

    # An endless source is timed from its first message to its last.
    seen: list[float] = []
    spent: list[float] = []

    def on_message(*_: object) -> None:
        if not seen:
            seen.append(time.perf_counter())
            spent.append(_cpu_seconds())
        seen[1:] = [time.perf_counter()]

    more = {"on_message": on_message} if task["messages"] else {}
    if task["warm"]:
        pipeline.build(**task["warm"])()
        sys.stdout.flush()
    # What follows on standard output is of the run that counts.
    printed = os.fstat(1).st_size
    go = pipeline.build(**task["arguments"], **more)
    wall, cpu = time.perf_counter(), _cpu_seconds()
    go()
    seconds, cpu_seconds = time.perf_counter() - wall, _cpu_seconds() - cpu
    if task["messages"]:
        seconds, cpu_seconds = seen[-1] - seen[0], _cpu_seconds() - spent[0]
    told = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": _peak_mb(), "printed": printed}
    Path(task["told"]).write_text(json.dumps(told))


def _family() -> list[int]:
    """This process and all below it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    mine = [os.getpid()]
    for pid in mine:
        mine += [child for child, parent in parents.items() if parent == pid]
    return mine


def _cpu_seconds() -> float:
    """Of the family, and of its members that have ended."""
    total = 0
    for pid in _family():
        try:
            total += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
        except OSError:
            continue
    return total / os.sysconf("SC_CLK_TCK")


def _peak_mb() -> float:
    """The most that each of the family has held, added up."""
    total = 0
    for pid in _family():
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return total / 1024


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
