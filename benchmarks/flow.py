"""Events per second of the whole flow, beside what else computes the same features, and beside itself on a stream ten times as large.

`python -m benchmarks.flow [--json] [--quick] [--part all|baselines|sizes] [--events N] [--users M] [--repeats R] [--seed S]`. Contestants (an
idiomatic Bytewax flow, a plain Python loop, its own kernels alone) run in turns, each in a process of its own, on the same simulated stream;
before anything is timed, what they lead to is compared, and the engine with the oracles. `large_vs_small`: see benchmarks/_sizes.py.
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks import _measure, _outcome, _sizes, _stream
from benchmarks._worker import Worker
from flows.settings import Settings

NOTES = {
    "tidemark": "one Bytewax worker, both flows: local log to closed, synced state; start-up and numba's loading not counted",
    "kernels": "the same kernels over decoded columns, state in memory; no log, decoding, RocksDB, outbox, Bytewax",
    "idiomatic": (
        "per-key Bytewax, one Python object per event, with Bytewax's recovery, and a sequence that has changed goes out to be served; in its "
        "favour: decoded events, keys and watermarks given, counters and labels stay inside, no topic statistics, the sink does nothing"
    ),
    "idiomatic_silent": "the same with state in memory only and no feature going out: a crash loses all, nobody can read anything",
    "python_loop": (
        "a plain loop with dicts and lists from the same log to memory: nothing durable, nobody else can read it, no topic statistics; in its "
        "favour: it is told which records are malformed, and the garbage collector is off"
    ),
    "python_loop_decoded": "the same, and all events lie in memory as tuples before the clock starts",
    "python_loop_sequences": "the same loop from the log, sequences alone: no saves, revisits, counters, labels",
    "python_loop_sequences_decoded": "sequences alone, from tuples in memory",
}
# Ratio → whom the engine is measured against.
BASELINES = {
    "vs_idiomatic_bytewax": "idiomatic",
    "vs_idiomatic_bytewax_silent": "idiomatic_silent",
    "vs_python_loop": "python_loop",
    "vs_python_loop_decoded": "python_loop_decoded",
    "vs_python_loop_sequences": "python_loop_sequences",
    "vs_python_loop_sequences_decoded": "python_loop_sequences_decoded",
    "vs_kernels": "kernels",
}
_DECODED = "_decoded"


def measure(events: int, users: int, repeats: int, seed: int, scratch: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The engine and its baselines: check, then time.

    Parameters
    ----------
    events, users, repeats, seed : int
    scratch : Path
        An empty directory.

    Returns
    -------
    results, ratios : dict

    Raises
    ------
    CheckFailedError
        Results are wrong or differ.
    """
    compared = check_against_oracles(scratch / "oracles", seed)
    settings = _stream.make(scratch / "stream", events, users, seed)
    with ExitStack() as stack:
        modules = {name.removesuffix(_DECODED) for name in NOTES}
        workers = {name: stack.enter_context(Worker(f"_{name}", settings, scratch)) for name in NOTES if name in modules}

        def run(name: str) -> dict[str, Any]:
            return workers[name.removesuffix(_DECODED)].run(**{"decoded": True} if name.endswith(_DECODED) else {})

        # What a later run holds of memory depends on what the one before has left.
        first = {name: run(name) for name in NOTES}
        outcome = workers["kernels"].outcome()
        for name in workers.keys() - {"kernels"}:
            wanted = {"sequences": outcome["sequences"]} if name == "python_loop_sequences" else outcome
            _outcome.check_equal(workers[name].outcome(), wanted, f"{name} and kernels")
            compared += _outcome.values(wanted)
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in NOTES}
        for _ in range(repeats):
            for name in NOTES:
                runs[name].append(run(name))
        pieces = workers["tidemark"].run(pieces=True)["pieces"]

    def ratios(rate: str) -> dict[str, dict[str, float]]:
        of = {name: [run[rate] for run in ran] for name, ran in runs.items()}
        suffix = "" if rate == "events_per_s" else "_by_cpu_time"
        return {title + suffix: _measure.ratio(of["tidemark"], of[name]) for title, name in BASELINES.items()}

    results = {
        "users": users,
        "values_compared": compared,
        **{name: _summary(name, first[name], of) for name, of in runs.items()},
        "tidemark_pieces": pieces,
    }
    return results, ratios("events_per_s") | ratios("events_per_cpu_s")


def check_against_oracles(scratch: Path, seed: int, events: int = 20_000) -> int:
    """Raise unless the engine's exports of a smaller stream equal tests/oracles; returns how many values were compared."""
    # Here, because an oracle needs pandas and hypothesis' strategies, which what is timed doesn't.
    from tests import agreement, driving
    from tests.oracles.decide import decide

    rates = {"late_rate": 0.02, "out_of_order_rate": 0.2, "duplicate_rate": 0.02, "bad_rate": 0.01}
    settings = _stream.make(scratch / "stream", events, max(events // 40, 1), seed, rates=rates)
    with Worker("_tidemark", settings, scratch) as worker:
        worker.run()
    settings = Settings(data=scratch / "_tidemark" / "data")
    decided = decide(_stream.records(settings))
    newest = int(decided.loc[decided["status"] == "accepted", "event_time"].max())
    compared = 0
    for as_of in (newest - 5 * 86_400_000, newest):
        exports = driving.exported(settings, as_of, scratch / "exports")
        try:
            agreement.check(exports, decided, as_of)
        except AssertionError as error:
            raise _measure.CheckFailedError(f"tidemark and the oracles at as_of {as_of}: {error}") from error
        compared += sum(frame.size for frame in exports.values())
    return compared


def _summary(name: str, first: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {
        "note": NOTES[name],
        "events": first["events"],
        "seconds": [round(run["seconds"], 4) for run in runs],
        "cpu_seconds": [round(run["cpu_seconds"], 4) for run in runs],
        "events_per_s": _measure.spread([run["events_per_s"] for run in runs], 0),
        "events_per_cpu_s": _measure.spread([run["events_per_cpu_s"] for run in runs], 0),
        "peak_rss_mb": round(first["peak_rss_mb"]),
        "rss_before_mb": round(first["rss_before_mb"]),
    }
    if "state_bytes" in first:
        out["state_bytes"] = first["state_bytes"]
    return out


def show(result: dict[str, Any], console: Console) -> None:
    """The figures for a reader."""
    results = result["results"]
    if "tidemark" in results:
        _show_baselines(results, console)
    if "sizes" in results:
        _sizes.show(results["sizes"], console)
    _measure.show_ratios(result, console)
    console.print(f"{_measure.where(result)}; seed {result['seed']}")


def _show_baselines(results: dict[str, Any], console: Console) -> None:
    table = Table("", "events", "events/s", "min", "max", "per CPU s", "peak MiB", "before", "state MB", title="flow")
    for name in NOTES:
        of = results[name]
        rate = of["events_per_s"]
        numbers = [
            of["events"],
            rate["median"],
            rate["min"],
            rate["max"],
            of["events_per_cpu_s"]["median"],
            of["peak_rss_mb"],
            of["rss_before_mb"],
        ]
        state = f"{of['state_bytes'] / 1e6:.1f}" if "state_bytes" in of else ""
        table.add_row(name, *(f"{number:,.0f}" for number in numbers), state)
    console.print(table)
    for name, note in NOTES.items():
        console.print(f"{name}: {note}")
    steps = Table("tidemark by pieces", "seconds", "CPU seconds")
    for name, spent in results["tidemark_pieces"].items():
        steps.add_row(name, f"{spent['seconds']:.3f}", f"{spent['cpu_seconds']:.3f}")
    console.print(steps)
    console.print(f"{results['values_compared']:,} values compared")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="200 000 events, and 20 000 against 200 000; ends within a minute.")
@click.option(
    "--part", type=click.Choice(["all", "baselines", "sizes"]), default="all", show_default=True, help="Beside others, by size, or both."
)
@click.option("--events", type=click.IntRange(1_000), help="Of the part beside others. Default 2 000 000.")
@click.option("--users", type=click.IntRange(10), help="Of the part beside others. Default a tenth of the events.")
@click.option("--large", type=click.IntRange(10_000), help="Events of the larger stream, users a tenth. Default 10 000 000.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True)
def main(as_json: bool, quick: bool, part: str, events: int | None, users: int | None, large: int | None, repeats: int, seed: int) -> None:
    """Events per second of the whole flow, beside what else computes the same features, and on a stream ten times as large."""
    events, large = events or (200_000 if quick else 2_000_000), large or (200_000 if quick else 10_000_000)
    results, ratios = dict[str, Any](), dict[str, Any]()
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-") as scratch:
        try:
            if part != "sizes":
                of_baselines = measure(events, users or events // 10, repeats, seed, Path(scratch) / "baselines")
                results, ratios = of_baselines
            if part != "baselines":
                of_sizes = _sizes.measure(large, repeats, seed, Path(scratch) / "sizes")
                results, ratios = results | {"sizes": of_sizes[0]}, ratios | of_sizes[1]
        except _measure.CheckFailedError as error:
            print(f"benchmarks.flow: {error}", file=sys.stderr)
            sys.exit(1)
    result = {"benchmark": "flow", "results": results, "ratios": ratios, "machine": _measure.machine(), "seed": seed}
    if as_json:
        print(json.dumps(result))
    else:
        show(result, _measure.console())


if __name__ == "__main__":
    main()
