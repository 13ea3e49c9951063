"""The engine on a stream ten times as large, of ten times as many users: what of its rate is left, and what memory it takes.

Three streams of 30 days. ``small`` and ``large`` have a tenth as many users as events; ``wide`` has the events of small and the users of large, so
that what grows with users shows apart from what grows with the rate of events. Small and large run in turns, each in a process of its own.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import _kernels, _measure, _outcome, _stream
from benchmarks._worker import Worker
from flows.settings import Settings

TIMES = 10
NOTE = (
    "what grows: IDs within the dedup horizon, saves within 7 d and the allowed lateness (both with events per day), indexes of runs (8 bytes "
    "per 1 024 rows of state); what settings and partitions bound: stretches read, judged and not committed, memory tables of RocksDB"
)


def measure(events: int, repeats: int, seed: int, scratch: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check each stream's results against the kernels alone, then time small and large in turns.

    Parameters
    ----------
    events : int
        Of the large stream.
    repeats, seed : int
    scratch : Path

    Returns
    -------
    results, ratios : dict

    Raises
    ------
    CheckFailedError
        Engine and kernels differ.
    """
    shapes = {"small": (events // TIMES, events // TIMES // 10), "wide": (events // TIMES, events // 10), "large": (events, events // 10)}
    streams = {name: _stream.make(scratch / name, of, users, seed) for name, (of, users) in shapes.items()}
    compared = 0
    first: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name, settings in streams.items():
            workers[name] = stack.enter_context(Worker("_tidemark", settings, scratch / f"{name}-runs"))
            first[name] = workers[name].run()
            compared += _check(workers[name], settings, name)
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ("small", "large")}
        for _ in range(repeats):
            for name, of in runs.items():
                of.append(workers[name].run())
    results: dict[str, Any] = {"note": NOTE, "values_compared": compared}
    for name, told in first.items():
        results[name] = {
            "events": told["events"],
            "users": shapes[name][1],
            "peak_rss_mb": round(told["peak_rss_mb"]),
            "rss_before_mb": round(told["rss_before_mb"]),
            "state_bytes": told["state_bytes"],
        }
        if name in runs:
            results[name]["seconds"] = [round(run["seconds"], 4) for run in runs[name]]
            results[name]["events_per_s"] = _measure.spread([run["events_per_s"] for run in runs[name]], 0)
    ratios = {
        f"large_vs_small{suffix}": _measure.ratio([run[rate] for run in runs["large"]], [run[rate] for run in runs["small"]])
        for suffix, rate in (("", "events_per_s"), ("_by_cpu_time", "events_per_cpu_s"))
    }
    return results, ratios


def _check(worker: Worker, settings: Settings, name: str) -> int:
    kernels = _kernels.Contestant(settings, settings.data)
    kernels.run()
    outcome = kernels.outcome()
    _outcome.check_equal(worker.outcome(), outcome, f"tidemark and kernels on the {name} stream")
    return _outcome.values(outcome)


def show(results: dict[str, Any], console: Console) -> None:
    """The figures for a reader."""
    table = Table("", "events", "users", "events/s", "min", "max", "peak MiB", "before", "state MB", title="by size")
    for name in ("small", "wide", "large"):
        of = results[name]
        rate = of.get("events_per_s", {})
        numbers = [of["events"], of["users"], rate.get("median"), rate.get("min"), rate.get("max"), of["peak_rss_mb"], of["rss_before_mb"]]
        table.add_row(name, *("" if n is None else f"{n:,.0f}" for n in numbers), f"{of['state_bytes'] / 1e6:.1f}")
    console.print(table)
    console.print(results["note"])
    console.print(f"{results['values_compared']:,} values compared")
