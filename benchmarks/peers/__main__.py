"""Two tasks of Tidemark in other streaming tools: how fast, in how much memory, how exact, in how many lines.

`python -m benchmarks.peers [--json] [--quick] [--peer NAME] [--events N] [--users M] [--repeats R] [--seed S]`, after
`python -m benchmarks.peers --install`. They take turns, each run in a process of its own, on the same simulated stream.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks import _measure
from benchmarks._worker import Worker
from benchmarks.peers import _environments, _input, _kafka, _lines, _results
from benchmarks.peers._exactness import TASKS, Expected, Verdict, expected, judge
from benchmarks.peers._peer import PEERS, Peer, RunFailedError, Source, missing, run
from flows.features import PIN_COUNTERS
from flows.outputs import ACTIONS
from flows.settings import Settings

_WARM_UP_EVENTS = 20_000
_DURABLE = "RocksDB, committed and synced with the position in the log, exactly once"
_TIDEMARK = {
    "tidemark_local": {"reads": "its embedded log (SQLite), JSON, 8 partitions", "durability": _DURABLE},
    "tidemark_kafka": {"reads": "Kafka, JSON, 8 partitions", "durability": _DURABLE},
}
_KERNELS = _environments.ROOT / "flows" / "kernels"


def measure(peers: Sequence[Peer], events: int, users: int, repeats: int, seed: int, scratch: Path) -> dict[str, Any]:
    """Run everyone in turns, and judge what they say.

    Raises
    ------
    CheckFailedError
        Tidemark's own results are wrong.
    """
    reasons = {peer.name: missing(peer) for peer in peers}
    rows, made = _input.records(scratch / "stream", events, users, seed)
    want = expected(rows)
    source = Source(scratch / "input" / "events.jsonl", scratch / "input" / "warm-up.jsonl")
    _input.write_lines(rows, source.lines)
    _input.write_lines(rows[:_WARM_UP_EVENTS], source.warm_up_lines)
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    verdicts: dict[str, Verdict] = {}
    with ExitStack() as stack:
        local = stack.enter_context(Worker("_tidemark", _input.fill_log(rows, scratch / "log", made), scratch))
        on_kafka = None
        if any(peer.on_kafka and not reasons[peer.name] for peer in peers):
            try:
                broker = _kafka.start(scratch / "kafka")
            except RuntimeError as error:
                reasons |= {peer.name: f"no Kafka: {error}".splitlines()[0] for peer in peers if peer.on_kafka}
            else:
                stack.callback(broker.stop)
                source = Source(source.lines, source.warm_up_lines, broker.servers, "turn0." + ACTIONS)
                kafka = Settings(data=scratch / "none", partitions=made.partitions, kafka=source.servers)
                on_kafka = stack.enter_context(Worker("_kafka_flow", kafka, scratch))
        for turn in range(repeats):
            runs["tidemark_local"].append(local.run())
            if on_kafka is not None:
                prefix = f"turn{turn}."
                _kafka.make(replace(kafka, kafka_prefix=prefix))
                _kafka.fill(source.servers, prefix + ACTIONS, rows)
                runs["tidemark_kafka"].append(on_kafka.run(prefix=prefix))
                if runs["tidemark_kafka"][-1]["events"] != len(rows):
                    raise _measure.CheckFailedError(f"Kafka holds {runs['tidemark_kafka'][-1]['events']} of {len(rows)} records")
            for worker, name in ((local, "tidemark_local"), (on_kafka, "tidemark_kafka")):
                if turn == 0 and worker is not None:
                    verdicts |= _check(worker, made, want, name)
            for peer in peers:
                for task in TASKS:
                    name = f"{peer.name}_{task}"
                    if reasons.get(peer.name) or reasons.get(name):
                        continue
                    try:
                        measured, got = run(peer, task, source, want.as_of, scratch / f"{name}-{turn}")
                    except RunFailedError as error:
                        reasons[name] = str(error)
                        continue
                    rates = {"events_per_s": len(rows) / measured["seconds"], "events_per_cpu_s": len(rows) / measured["cpu_seconds"]}
                    runs[name].append(measured | rates | {"events": len(rows)})
                    verdict = judge(got, want, task)
                    # The worst of all runs: a tool's result may hang on how its threads ran.
                    if name not in verdicts or verdict.differing > verdicts[name].differing:
                        verdicts[name] = verdict

    results: dict[str, Any] = {"users": users, "as_of": want.as_of, "entities": {task: len(want.exact[task]) for task in TASKS}}
    for name, about in _TIDEMARK.items():
        if name in runs:
            exact = {task: verdicts[f"{name}_{task}"].as_dict() for task in TASKS}
            inside = _lines.lines_of_files(sorted(_KERNELS.glob("*.py")))
            results[name] = about | _figures(runs[name]) | {"exactness": exact, "lines_of_code": 0, "lines_of_kernels": inside}
    for peer in peers:
        for task in TASKS:
            name = f"{peer.name}_{task}"
            results[name] = _described(peer, task)
            reason = reasons.get(peer.name) or reasons.get(name)
            results[name] |= {"not_measured": reason} if reason else _figures(runs[name]) | {"exactness": verdicts[name].as_dict()}
    return {
        "benchmark": "peers",
        "results": results,
        "ratios": _ratios(peers, runs, {name for name in runs if "not_measured" not in results[name]}),
        "machine": _measure.machine(),
        "seed": seed,
    }


def _check(worker: Worker, settings: Settings, want: Expected, name: str) -> dict[str, Verdict]:
    vocabulary = settings.load_vocabulary()
    got = _results.of_tidemark(worker.outcome(), vocabulary.action_names(), vocabulary.surface_names(), PIN_COUNTERS)
    verdicts = {f"{name}_{task}": judge(got[task], want, task) for task in TASKS}
    for of_task, verdict in verdicts.items():
        if verdict.differing:
            raise _measure.CheckFailedError(f"{of_task}: {verdict.differing} entities differ from the oracles, {verdict.example}")
    return verdicts


def _described(peer: Peer, task: str) -> dict[str, Any]:
    about = {"tool": peer.title, "version": _environments.version(peer.name), "reads": peer.reads, "durability": peer.durability}
    return about | {"goes_out": peer.goes_out, "lines_of_code": _lines.lines_of_files(peer.files(task))}


def _figures(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "events": runs[0]["events"],
        "seconds": [round(run["seconds"], 3) for run in runs],
        "cpu_seconds": [round(run["cpu_seconds"], 3) for run in runs],
        "events_per_s": _measure.spread([run["events_per_s"] for run in runs], 0),
        "events_per_s_per_core": _measure.spread([run["events_per_cpu_s"] for run in runs], 0),
        "peak_mb": round(max(run.get("peak_mb") or run["peak_rss_mb"] for run in runs)),
    }


def _ratios(peers: Sequence[Peer], runs: dict[str, list[dict[str, Any]]], measured: set[str]) -> dict[str, dict[str, float]]:
    found = {}
    for peer in peers:
        ours = runs["tidemark_kafka" if peer.on_kafka else "tidemark_local"]
        for name in (f"{peer.name}_{task}" for task in TASKS):
            if name in measured:
                for rate, suffix in (("events_per_s", ""), ("events_per_cpu_s", "_per_core")):
                    found[f"vs_{name}{suffix}"] = _measure.ratio([run[rate] for run in ours], [run[rate] for run in runs[name]])
    return found


def show(result: dict[str, Any], console: Console) -> None:
    """The figures for a reader."""
    results = result["results"]
    table = Table(
        "", "events", "events/s", "min", "max", "/s/core", "peak MiB", "wrong sequences", "wrong counters", "lines", title="peers"
    )
    rows = {name: row for name, row in results.items() if isinstance(row, dict) and "lines_of_code" in row}
    for name, row in rows.items():
        if "not_measured" in row:
            table.add_row(name, "not measured", *[""] * 7, str(row["lines_of_code"]))
            continue
        rate = row["events_per_s"]
        numbers = [row["events"], rate["median"], rate["min"], rate["max"], row["events_per_s_per_core"]["median"], row["peak_mb"]]
        exact = row["exactness"] if name in _TIDEMARK else {task: row["exactness"] for task in TASKS if name.endswith(task)}
        wrong = [f"{exact[task]['differing']:,} of {exact[task]['entities']:,}" if task in exact else "" for task in TASKS]
        table.add_row(name, *(f"{number:,.0f}" for number in numbers), *wrong, str(row["lines_of_code"]))
    console.print(table)
    _measure.show_ratios(result, console)
    for name, row in rows.items():
        if "not_measured" in row:
            console.print(f"{name}: not measured: {row['not_measured']}")
        elif name not in _TIDEMARK:
            of = row["exactness"]
            console.print(f"{name}: {row['version']}; {row['reads']}; {row['durability']}; {row['goes_out']}")
            if of["differing"]:
                console.print(
                    f"  {of['differing_by_lateness']} of the {of['differing']} wrong ones would be right if nothing were ever late"
                )
        else:
            console.print(f"{name}: both tasks and all other features at once; {row['reads']}; {row['durability']}")
    console.print(f"{_measure.where(result)}; {results['users']:,} users; seed {result['seed']}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="20 000 events, one run of each.")
@click.option("--install", is_flag=True, help="Make the tools' environments, .peers/NAME, and end.")
@click.option("--peer", "names", type=click.Choice([peer.name for peer in PEERS]), multiple=True, help="Only this one; by default all.")
@click.option("--events", type=click.IntRange(1_000), help="Default 500 000.")
@click.option("--users", type=click.IntRange(10), help="Default a tenth of the events.")
@click.option("--repeats", type=click.IntRange(1), help="Default 3.")
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True)
def main(
    as_json: bool, quick: bool, install: bool, names: tuple[str, ...], events: int | None, users: int | None, repeats: int | None, seed: int
) -> None:
    """Two tasks of Tidemark in other streaming tools: how fast, in how much memory, how exact, in how many lines."""
    peers = [peer for peer in PEERS if not names or peer.name in names]
    events = events or (20_000 if quick else 500_000)
    try:
        if install:
            for peer in peers:
                _environments.install(peer.name)
                print(f"benchmarks.peers: {_environments.version(peer.name)} is installed", file=sys.stderr)
            return
        with tempfile.TemporaryDirectory(prefix="tidemark-peers-") as scratch:
            result = measure(peers, events, users or events // 10, repeats or (1 if quick else 3), seed, Path(scratch))
    except (_measure.CheckFailedError, _environments.NotInstalledError) as error:
        print(f"benchmarks.peers: {error}", file=sys.stderr)
        sys.exit(1)
    if as_json:
        print(json.dumps(result))
    else:
        show(result, _measure.console())


if __name__ == "__main__":
    main()
