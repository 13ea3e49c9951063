"""Two worker processes against one, over the same stream.

`python -m benchmarks.scaling [--json] [--quick] [--events N] [--repeats R] [--seed S]`. `tidemark run` goes over copies of one log in turns: with one
worker, with two, and with one that may use one core only. State must be equal, task by task, whoever made it. What two cores of this machine give
to two processes that share nothing is measured beside it: nothing here can be more.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks import _command, _digests, _hashing, _measure, _stream
from benchmarks._process import Run
from flows.settings import Settings

# Contestant → workers, cores.
CONTESTANTS = {"one": (1, 2), "two": (2, 2), "one_core": (1, 1)}
# Ratio → the rate of whom to that of whom.
RATIOS = {"two_vs_one": ("two", "one"), "two_cores_vs_one": ("two", "one_core"), "one_on_two_cores_vs_one": ("one", "one_core")}
NOTE = (
    "one worker reads, commits and publishes in threads beside the kernels, so it uses more than one core by itself (`cores_used`): two_vs_one is "
    "what a second process adds to that, two_cores_vs_one what a second core gives; work is from the first word of a worker to the end, total with "
    "the start of processes; machine_two_vs_one: processes that only hash, the most that these cores could give"
)


def measure(events: int, repeats: int, seed: int, scratch: Path) -> dict[str, Any]:
    """Compare states, then time.

    Parameters
    ----------
    events, repeats, seed : int
    scratch : Path
        An empty directory.

    Raises
    ------
    CheckFailedError
        There are less than two cores, or states differ.
    """
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise _measure.CheckFailedError("scaling is measured on two cores; this process may use one only")
    stream = _stream.make(scratch / "stream", events, max(events // 10, 1), seed)

    def run(name: str) -> dict[str, Any]:
        workers, used = CONTESTANTS[name]
        settings = _stream.fresh(stream, scratch / name)
        return Run(settings, "--workers", str(workers), cores=cores[:used]).finish()

    first = {name: run(name) for name in CONTESTANTS}
    made = {name: _digests.digests(replace(stream, data=scratch / name)) for name in CONTESTANTS}
    for name in CONTESTANTS:
        _digests.check_equal(made[name], made["one"], f"{name} and one")
        if first[name]["events"] != first["one"]["events"]:
            raise _measure.CheckFailedError(f"{name} applied {first[name]['events']} events, one {first['one']['events']}")
    # A start that finds nothing to do: what of a run's processor time is not work.
    start_cpu = {name: _nothing_to_do(replace(stream, data=scratch / name), name, cores) for name in CONTESTANTS}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
    machine: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeats):
        for name, of in runs.items():
            of.append(run(name))
        for processes, rates in machine.items():
            rates.append(_hashing.rate(cores[:processes]))

    results: dict[str, Any] = {"note": NOTE, "tasks_compared": len(made["one"]) * (len(CONTESTANTS) - 1)}
    for name, of in runs.items():
        workers, used = CONTESTANTS[name]
        results[name] = {
            "workers": workers,
            "cores": used,
            "events": of[0]["events"],
            "seconds": _measure.spread([run["seconds"] for run in of]),
            "total_seconds": _measure.spread([run["wall_seconds"] for run in of]),
            "events_per_s": _measure.spread([run["events"] / run["seconds"] for run in of], 0),
            "cores_used": _measure.spread([(run["cpu_seconds"] - start_cpu[name]) / run["seconds"] for run in of], 2),
        }
    ratios = {}
    for title, (one, another) in RATIOS.items():
        for suffix, seconds in (("", "seconds"), ("_total", "wall_seconds")):
            # Of rates, so the other way round.
            ratios[title + suffix] = _measure.ratio([run[seconds] for run in runs[another]], [run[seconds] for run in runs[one]])
    ratios["machine_two_vs_one"] = _measure.ratio(machine[2], machine[1])
    return {"benchmark": "scaling", "results": results, "ratios": ratios, "machine": _measure.machine(), "seed": seed}


def _nothing_to_do(settings: Settings, name: str, cores: list[int]) -> float:
    workers, used = CONTESTANTS[name]
    return float(Run(settings, "--workers", str(workers), cores=cores[:used]).finish()["cpu_seconds"])


def show(result: dict[str, Any], console: Console) -> None:
    """The figures for a reader."""
    results = result["results"]
    table = Table("", "workers", "cores", "events/s", "min", "max", "work, s", "total, s", "cores used", title="scaling")
    for name in CONTESTANTS:
        of = results[name]
        rate = of["events_per_s"]
        rates = [f"{rate[which]:,.0f}" for which in ("median", "min", "max")]
        seconds = [f"{of[which]['median']:.2f}" for which in ("seconds", "total_seconds", "cores_used")]
        table.add_row(name, str(of["workers"]), str(of["cores"]), *rates, *seconds)
    console.print(table)
    _measure.show_ratios(result, console)
    console.print(results["note"])
    console.print(f"{results['tasks_compared']} digests compared; {_measure.where(result)}; seed {result['seed']}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="200 000 events; ends within a minute.")
@click.option("--events", type=click.IntRange(1_000), help="Default 8 000 000.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True)
def main(as_json: bool, quick: bool, events: int | None, repeats: int, seed: int) -> None:
    """Two worker processes against one, on two cores, and against one worker on one core."""
    events = events or (200_000 if quick else 8_000_000)
    _command.run("scaling", lambda scratch: measure(events, repeats, seed, scratch), show, as_json)


if __name__ == "__main__":
    main()
