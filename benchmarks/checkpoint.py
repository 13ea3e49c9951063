"""What checkpoints cost a run that goes on, and what they save a restore.

`python -m benchmarks.checkpoint [--json] [--quick] [--events N] [--repeats R] [--seed S]`. A run follows a log with half of the stream in its state;
the rest arrives steadily, with a checkpoint beside it in every other turn, while a reader watches how long nothing is committed. At the end
all tasks are restored from those checkpoints, and in the other turn from nothing, and the state must be the same.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from benchmarks import _command, _digests, _measure, _process, _stream
from benchmarks._site import Site
from flows.settings import Settings

_TURN_S = 6.0
_PAUSE_S = 0.002
NOTE = (
    "one worker follows 20 000 events/s; `longest_pause_s`: the longest time for which a reader in another process sees no new commit; "
    "`restore_s` and `from_zero_s`: `tidemark replay restore --all`, and `tidemark run` over the whole log, with the start of processes"
)
_RATE = 20_000


def measure(events: int, repeats: int, seed: int, scratch: Path) -> dict[str, Any]:
    """In turns; no figure is given unless what is restored is the state of a clean run.

    Raises
    ------
    CheckFailedError
        It is not.
    """
    stream = _stream.make(scratch / "stream", events, events // 10, seed)
    site = Site(replace(stream, data=scratch / "site"), stream)
    try:
        site.feed(events - repeats * _fed_most())
        site.start()
        site.await_all()
        whole = _checkpoint(site.settings)
        calm, beside, made = [], [], []
        for _ in range(repeats):
            calm.append(_longest_pause(site, None))
            process = _process.started(site.settings, "replay", "checkpoint")
            beside.append(_longest_pause(site, process))
            made.append(_process.told(process))
        site.await_all()
    finally:
        site.close()
    _process.Run(site.settings).finish()
    want = _digests.digests(site.settings)
    restored, zero, replayed = [], [], []
    for _ in range(repeats):
        began = time.perf_counter()
        told = _process.told(_process.started(site.settings, "replay", "restore", "--all"))
        restored.append(time.perf_counter() - began)
        replayed.append(sum(row["to_replay"] for row in told["restored"] if row["task"].startswith("actions/")))
        _digests.check_equal(_digests.digests(site.settings), want, "restored from checkpoints, and the run that they were made beside")
        # A log that was written to before is as long; what its readers have seen before they leave out.
        anew = _stream.fresh(site.settings, scratch / "anew")
        for name in ("revisits", "late", "deadletters"):
            (anew.logs / f"{name}.db").unlink(missing_ok=True)
        began = time.perf_counter()
        _process.Run(anew).finish()
        zero.append(time.perf_counter() - began)
        _digests.check_equal(_digests.digests(anew), want, "made anew from the log, and the run beside the checkpoints")
        shutil.rmtree(anew.data)
    total = site.fed()
    return {
        "benchmark": "checkpoint",
        "results": {
            "note": NOTE,
            "events": total,
            "users": events // 10,
            "state_mb": round(sum(row["bytes"] for row in whole["tasks"]) / 1e6, 1),
            "whole": _told(whole),
            "beside": [_told(each) for each in made],
            "longest_pause_s": {"calm": _measure.spread(calm), "beside_a_checkpoint": _measure.spread(beside)},
            "restore_s": _measure.spread(restored),
            "from_zero_s": _measure.spread(zero),
            "replayed": replayed,
            "mismatches": 0,
        },
        "ratios": {
            "pause_beside_vs_calm": _measure.ratio(beside, calm),
            "from_zero_vs_restore": _measure.ratio(zero, restored),
            "events_vs_replayed": _measure.ratio([total] * repeats, [max(1, number) for number in replayed]),
        },
        "machine": _measure.machine(),
        "seed": seed,
    }


def _fed_most() -> int:
    """By a turn without a checkpoint and one with it."""
    return int(3 * _TURN_S * _RATE) + 10_000


def _longest_pause(site: Site, until: subprocess.Popen[bytes] | None) -> float:
    """Feed at the rate for a while, and until a process has ended; the longest time without a new commit."""
    piece = _RATE // 50
    began = last = time.perf_counter()
    fed, longest, seen = 0, 0.0, int(site.committed().sum())
    while (now := time.perf_counter()) - began < _TURN_S or (until is not None and until.poll() is None):
        while fed < min(now - began, _TURN_S if until is None else 2 * _TURN_S) * _RATE:
            site.feed(piece)
            fed += piece
        at = int(np.sum(site.committed()))
        if at > seen:
            moved = time.perf_counter()
            longest, last, seen = max(longest, moved - last), moved, at
        time.sleep(_PAUSE_S)
    site.await_all()
    return max(longest, time.perf_counter() - last if seen < site.fed() else 0.0)


def _checkpoint(settings: Settings) -> dict[str, Any]:
    return _process.told(_process.started(settings, "replay", "checkpoint"))


def _told(made: dict[str, Any]) -> dict[str, float]:
    rows = made["tasks"]
    return {
        "seconds": round(sum(row["seconds"] for row in rows), 3),
        "written_mb": round(sum(row["written_bytes"] for row in rows) / 1e6, 2),
        "pieces": sum(row["written_pieces"] for row in rows),
    }


def show(result: dict[str, Any], console: Console) -> None:
    """The figures for a reader."""
    results = result["results"]
    console.print(f"{results['events']:,} events, {results['users']:,} users, {results['state_mb']:,} MB of state")
    console.print(f"whole checkpoint: {results['whole']}; beside the run: {results['beside']}")
    for name in ("restore_s", "from_zero_s"):
        console.print(f"{name}: {results[name]}")
    for name, pause in results["longest_pause_s"].items():
        console.print(f"longest pause, {name}: {pause}")
    _measure.show_ratios(result, console)
    console.print(results["note"])
    console.print(f"{_measure.where(result)}; seed {result['seed']}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="800 000 events, one turn of each.")
@click.option("--events", type=click.IntRange(1), help="Default 10 000 000; a tenth as many users.")
@click.option("--repeats", type=click.IntRange(1), help="Default 3.")
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True)
def main(as_json: bool, quick: bool, events: int | None, repeats: int | None, seed: int) -> None:
    """How long a checkpoint makes a run pause, and how much sooner a restore is done than a replay from zero."""
    events = events or (800_000 if quick else 10_000_000)
    repeats = repeats or (1 if quick else 3)
    if events < 2 * repeats * _fed_most():
        raise click.UsageError(f"{repeats} repeats append {repeats * _fed_most():,} events; give at least twice as many --events")
    _command.run("checkpoint", lambda scratch: measure(events, repeats, seed, scratch), show, as_json)


if __name__ == "__main__":
    main()
