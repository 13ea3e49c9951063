"""How fast a restore is: from nothing, against the flow over the same log; and from checkpoints, against that.

`python -m benchmarks.replay [--json] [--quick] [--events N] [--repeats R] [--seed S]`. Each turn runs the flows over a filled log, and restores
all tasks of one like it from nothing, and from checkpoints that were made on the way; the state must be the same each time.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import _command, _digests, _measure, _process, _stream
from flows.log import LocalLog
from flows.outputs import ACTIONS
from flows.settings import DAY_MS, Settings

_DAYS = 30  # of the simulated stream
SHARE = 0.9
NOTE = (
    "one worker; `flow` is `tidemark run` over a filled log, `from_zero` `tidemark replay restore --all` without a checkpoint, both by the run's own "
    "clock (opening, reading, applying, committing, publishing); `_total_s` with the start of processes, and, of a restore, the reading and writing "
    f"of checkpoints; `start` is a run that has nothing to do, `_beyond_start` leaves that out; checkpoints were made at {SHARE:.0%} of the log"
)


def measure(events: int, users: int, repeats: int, seed: int, scratch: Path) -> dict[str, Any]:
    """In turns; no figure is given unless what is restored is what the flow made.

    Raises
    ------
    CheckFailedError
        It is not.
    """
    stream = _stream.make(scratch / "stream", events, users, seed)
    site = site_with_checkpoints(stream, scratch / "site")
    want = _digests.digests(site)
    with LocalLog.open(stream.logs, ACTIONS, read_only=True) as log:
        total = sum(log.end_positions())
    rates: dict[str, list[float]] = {"flow": [], "from_zero": []}
    totals: dict[str, list[float]] = {"flow": [], "from_zero": [], "from_checkpoint": [], "start": []}
    replayed: list[int] = []
    for _ in range(repeats):
        fresh = _stream.fresh(stream, scratch / "flow")
        began = time.perf_counter()
        ran = _ended("run", settings=fresh)
        totals["flow"].append(time.perf_counter() - began)
        rates["flow"].append(total / ran["seconds"])
        _digests.check_equal(_digests.digests(fresh), want, "a run over the log, and one that was interrupted by checkpoints")
        shutil.rmtree(fresh.data)
        for name, checkpoints in (("from_zero", str(scratch / "none")), ("from_checkpoint", None)):
            began = time.perf_counter()
            told = _ended("replay", "restore", "--all", settings=replace(site, checkpoints=checkpoints))
            totals[name].append(time.perf_counter() - began)
            if name == "from_zero":
                rates[name].append(total / told["ran"]["seconds"])
            else:
                replayed.append(sum(row["to_replay"] for row in told["restored"] if row["task"].startswith(f"{ACTIONS}/")))
            _digests.check_equal(_digests.digests(site), want, f"restored {name.replace('_', ' ')}, and the flow")
        began = time.perf_counter()
        _ended("run", settings=site)
        totals["start"].append(time.perf_counter() - began)
    beyond = {name: [all_of_it - start for all_of_it, start in zip(of, totals["start"], strict=True)] for name, of in totals.items()}
    realtime = [_DAYS * DAY_MS / 1000 / (total / rate) for rate in rates["from_zero"]]
    return {
        "benchmark": "replay",
        "results": {
            "note": NOTE,
            "events": total,
            "users": users,
            **{f"{name}_events_per_s": _measure.spread(of, 0) for name, of in rates.items()},
            **{f"{name}_total_s": _measure.spread(of) for name, of in totals.items()},
            "x_realtime": _measure.spread(realtime, 0),
            "replayed": replayed,
            "mismatches": 0,
        },
        "ratios": {
            "from_zero_vs_flow": _measure.ratio(rates["from_zero"], rates["flow"]),
            "from_zero_vs_from_checkpoint": _measure.ratio(totals["from_zero"], totals["from_checkpoint"]),
            "from_zero_vs_from_checkpoint_beyond_start": _measure.ratio(beyond["from_zero"], beyond["from_checkpoint"]),
            "events_vs_replayed": _measure.ratio([total] * repeats, [max(1, number) for number in replayed]),
        },
        "machine": _measure.machine(),
        "seed": seed,
    }


def site_with_checkpoints(stream: Settings, data: Path) -> Settings:
    """A data directory at the end of the stream, with checkpoints of what it was at a share of it."""
    site = replace(stream, data=data)
    with LocalLog.open(stream.logs, ACTIONS, read_only=True) as whole:
        for share in (SHARE, 1.0):
            with LocalLog.open(site.logs, ACTIONS, whole.partitions, create=True) as log:
                for partition, end in enumerate(whole.end_positions()):
                    at, until = log.end_position(partition), int(end * share)
                    while at < until:
                        batches = whole.read(partition, at, min(stream.batch_records, until - at))
                        log.append([(partition, batch.records) for batch in batches])
                        at = batches[-1].end_offset
            _process.Run(site).finish()
            if share < 1:
                _ended("replay", "checkpoint", settings=site)
    return site


def _ended(*words: str, settings: Settings) -> dict[str, Any]:
    return _process.told(_process.started(settings, *words))


def show(result: dict[str, Any], console: Console) -> None:
    """The figures for a reader."""
    results = result["results"]
    console.print(f"{results['events']:,} events, {results['users']:,} users; from checkpoints {results['replayed']} of them were replayed")
    for name, value in results.items():
        if isinstance(value, dict):
            console.print(f"{name}: {value['median']:,} ({value['min']:,} to {value['max']:,})")
    _measure.show_ratios(result, console)
    console.print(results["note"])
    console.print(f"{_measure.where(result)}; seed {result['seed']}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="400 000 events, one turn.")
@click.option("--events", type=click.IntRange(1_000), help="Default 4 000 000.")
@click.option("--users", type=click.IntRange(1), help="Default a tenth of the events.")
@click.option("--repeats", type=click.IntRange(1), help="Default 3.")
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True)
def main(as_json: bool, quick: bool, events: int | None, users: int | None, repeats: int | None, seed: int) -> None:
    """The rate of a restore from nothing against the flow's, and what checkpoints save of it."""
    events, repeats = events or (400_000 if quick else 4_000_000), repeats or (1 if quick else 3)
    _command.run("replay", lambda scratch: measure(events, users or events // 10, repeats, seed, scratch), show, as_json)


if __name__ == "__main__":
    main()
