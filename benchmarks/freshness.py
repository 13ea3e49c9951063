"""How long after its append an event shows in a feature that another process reads, at several rates.

`python -m benchmarks.freshness [--json] [--quick] [--rates 5000,20000] [--seconds S] [--repeats R] [--seed N]`. Three processes: a producer that
appends each 5 ms what has come into being, `tidemark run --follow` with one worker, and a reader with a fresh view at each look. Which events are
looked for is drawn beforehand by their index; each counts with all its delay, and one that never shows fails the benchmark.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import _command, _live, _measure, _process
from benchmarks._live import Appended, Features, Records, Seen, Stretch
from benchmarks._live_events import LiveEvents
from flows.log import LocalLog
from flows.outputs import ACTIONS, REVISITS
from flows.reading import FeatureReader
from flows.settings import Settings

HEADLINE = 20_000
USERS = 100_000
SAMPLES_A_SECOND = 200
# For the processes to open what they read and write.
_LEAD_NS = 1_000_000_000
_PATIENCE_S = 120.0

NOTES = {
    "handed": "from the call of the append that holds the event",
    "acknowledged": "from the return of that append, from when on the event is durable; a reader may be quicker",
    "created": "from the moment that the event came into being: with the producer's linger and its wait for the append before",
    "floor": "the same appends and the same samples on a bare log that another process reads: what would be left if features cost nothing",
    "looks": "time from the end of one look of the reader to the end of the next: delays are too long by as much at most",
}


class Live:
    """The processes, and one stream cut into stretches.

    Parameters
    ----------
    settings : Settings
        Of an empty data directory.
    scratch : Path
    seed : int
    """

    def __init__(self, settings: Settings, scratch: Path, seed: int) -> None:
        self.settings = settings
        self.appended = 0
        self._floor = Settings(data=scratch / "floor", partitions=settings.partitions)
        self._seed = seed
        self._next_id = 1
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for settings in (self._floor, self.settings):
            LocalLog.open(settings.logs, ACTIONS, settings.partitions, create=True).close()
        # Started once: no stretch measures the start of a process.
        self._producer, self._reader = (
            self._stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn"))) for _ in range(2)
        )
        self._run = self._stack.enter_context(_following(self.settings))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def peak(self, seconds: float) -> float:
        """Records applied a second while a producer keeps a backlog, on the same cores."""
        rate, appended = self._producer.submit(_live.feed, self.settings, self._events(1 << 30), seconds).result()
        self.appended += appended
        return rate

    def stretch(self, rate: float, seconds: float, floor: bool = False) -> dict[str, Any]:
        """Append at a rate and look for what was sampled; returns delays and how it went."""
        number = max(int(rate * seconds), 8_192)
        stretch = Stretch(self._events(number), number, rate, _live.now() + _LEAD_NS, max(int(rate / SAMPLES_A_SECOND), 64), self._seed)
        settings, place = (self._floor, Records) if floor else (self.settings, Features)
        before = self.cpu(), _live.now()
        watching = self._reader.submit(_live.watch, settings, place, stretch)
        appended = self._producer.submit(_live.produce, settings, ACTIONS, stretch).result()
        seen = watching.result()
        after = self.cpu(), _live.now()
        self.appended += 0 if floor else number
        return _told(stretch, appended, seen) | {"worker_cores": round((after[0] - before[0]) * 1e9 / (after[1] - before[1]), 3)}

    def idle(self, seconds: float) -> float:
        """Share of a core that the worker uses while nothing comes."""
        before = self.cpu()
        time.sleep(seconds)
        return (self.cpu() - before) / seconds

    def cpu(self) -> float:
        """CPU seconds of the worker so far."""
        [worker] = Path(f"/proc/{self._run}/task/{self._run}/children").read_text().split()
        fields = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def check(self) -> None:
        """Raise unless every record that was appended was accepted, once, and what it caused is applied."""
        deadline = time.monotonic() + _PATIENCE_S
        with FeatureReader(self.settings) as reader, LocalLog.open(self.settings.logs, REVISITS, read_only=True) as revisits:
            while True:
                reader.refresh()
                counts, applied = reader.counts(), reader.positions()
                if sum(applied[ACTIONS]) == self.appended and applied[REVISITS] == revisits.end_positions():
                    break
                if time.monotonic() > deadline:
                    raise _measure.CheckFailedError(
                        f"of {self.appended} records {sum(applied[ACTIONS])} were applied within {_PATIENCE_S:.0f} s"
                    )
                time.sleep(0.05)
        if counts["accepted"] != self.appended:
            raise _measure.CheckFailedError(f"of {self.appended} records {counts['accepted']} were accepted: {counts}")

    def _events(self, number: int) -> LiveEvents:
        events = LiveEvents(self._next_id, USERS)
        self._next_id += number
        return events


@contextmanager
def _following(settings: Settings) -> Iterator[int]:
    """`tidemark run --follow` with one worker that has begun to work; gives its process."""
    run = subprocess.Popen(
        [sys.executable, "-m", "tidemark", "run", "--follow", "--json"],
        env=_process.environment(settings),
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + _PATIENCE_S
        while len(list(settings.state.glob("*/*/CURRENT"))) < 2 * settings.partitions:
            if run.poll() is not None or time.monotonic() > deadline:
                raise _measure.CheckFailedError("`tidemark run --follow` has not opened its tasks; its last words stand above")
            time.sleep(0.05)
        yield run.pid
    finally:
        run.terminate()
        run.wait(_PATIENCE_S)


def _told(stretch: Stretch, appended: Appended, seen: Seen) -> dict[str, Any]:
    """What a stretch showed, in ms."""
    out: dict[str, Any] = {"rate": round(stretch.rate), "events": stretch.number, "seconds": round(stretch.number / stretch.rate, 1)}
    for feature, index, at in (("sequence", seen.closeups, seen.closeups_at), ("counter", seen.clicks, seen.clicks_at)):
        if not at.all():
            raise _measure.CheckFailedError(
                f"{(at == 0).sum()} of {len(at)} sampled events of a {feature} never showed, at {stretch.rate:.0f} events/s"
            )
        which = appended.of(index)
        since = {"handed": appended.handed[which], "acknowledged": appended.acknowledged[which], "created": stretch.created(index)}
        out[feature] = {"samples": len(at)} | {name: _spread(at - moment) for name, moment in since.items()}
    out["append"] = _spread(appended.acknowledged - appended.handed)
    out["events_of_an_append"] = round(stretch.number / len(appended.ends))
    out["looks"] = _spread(seen.looks)
    return out


def _spread(nanoseconds: np.ndarray) -> dict[str, float]:
    values = nanoseconds / 1e6
    return {"p50": _rounded(np.percentile(values, 50)), "p99": _rounded(np.percentile(values, 99)), "max": _rounded(values.max())}


def _rounded(value: float) -> float:
    return round(float(value), 2)


def measure(rates: tuple[int, ...], seconds: float, repeats: int, seed: int, scratch: Path) -> dict[str, Any]:
    """Run all stretches.

    Parameters
    ----------
    rates : tuple of int
        Events a second; HEADLINE comes always.
    seconds : float
        Of each stretch.
    repeats : int
        Turns of the headline rate and its floor.
    seed : int
    scratch : Path
        An empty directory.

    Raises
    ------
    CheckFailedError
        An event did not show, or was not applied exactly once.
    """
    with Live(Settings(data=scratch / "data"), scratch, seed) as live:
        live.stretch(HEADLINE, 1)
        turns = [(live.stretch(HEADLINE, seconds, floor=True), live.stretch(HEADLINE, seconds)) for _ in range(repeats)]
        others = [live.stretch(rate, seconds) for rate in rates if rate != HEADLINE]
        peak = live.peak(seconds)
        others.append(live.stretch(0.8 * peak, seconds) | {"of_peak": 0.8})
        live.check()
        idle = live.idle(seconds)
    floors, ours = ([turn[i] for turn in turns] for i in range(2))

    def of(turns: list[dict[str, Any]], feature: str, percentile: str) -> list[float]:
        return [turn[feature]["handed"][percentile] for turn in turns]

    return {
        "benchmark": "freshness",
        "results": {
            "p50_ms_at_20k": _measure.spread(of(ours, "sequence", "p50"))["median"],
            "p99_ms_at_20k": _measure.spread(of(ours, "sequence", "p99"))["median"],
            "p99_ms_at_20k_of_counters": _measure.spread(of(ours, "counter", "p99"))["median"],
            "peak_events_per_s": round(peak),
            "idle_worker_cores": round(idle, 3),
            "stretches": [*ours, *others],
            "floors": floors,
            "notes": NOTES,
        },
        "ratios": {
            "vs_log_floor": _measure.ratio(of(ours, "sequence", "p99"), of(floors, "sequence", "p99")),
            "vs_log_floor_p50": _measure.ratio(of(ours, "sequence", "p50"), of(floors, "sequence", "p50")),
        },
        "machine": _measure.machine(),
        "seed": seed,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """The figures for a reader."""
    results = result["results"]
    table = Table(
        "events/s", "", "ms from", "p50", "p99", "max", "append p50", "p99", "looks p50", "p99", "worker cores", title="freshness"
    )
    for name, stretches in (("", results["stretches"]), ("floor", results["floors"])):
        for of in stretches:
            for feature in ("sequence",) if name else ("sequence", "counter"):
                for moment in ("handed", "acknowledged", "created"):
                    numbers = [*of[feature][moment].values(), *(of[k][p] for k in ("append", "looks") for p in ("p50", "p99"))]
                    table.add_row(f"{of['rate']:,}", name or feature, moment, *(f"{n:,.1f}" for n in numbers), f"{of['worker_cores']:.2f}")
    console.print(table)
    console.print(f"p99_ms_at_20k: {results['p99_ms_at_20k']:.1f}; of counters: {results['p99_ms_at_20k_of_counters']:.1f}")
    console.print(f"peak: {results['peak_events_per_s']:,} events/s; idle worker: {results['idle_worker_cores']:.3f} of a core")
    _measure.show_ratios(result, console)
    for name, note in NOTES.items():
        console.print(f"{name}: {note}")
    console.print(f"{_measure.where(result)}; seed {result['seed']}")


def _rates(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        rates = tuple(int(part) for part in value.split(","))
    except ValueError:
        rates = ()
    if not rates or min(rates) < 100:
        raise click.BadParameter(f"'{value}' is no list of whole numbers from 100 on, as 5000,20000")
    return rates


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="Stretches of 2 s, one turn; ends within a minute.")
@click.option("--rates", default="5000,20000,50000", show_default=True, callback=_rates, help="Events a second; 20000 is measured always.")
@click.option("--seconds", type=click.FloatRange(0.1), help="Of each stretch; default 10.")
@click.option("--repeats", type=click.IntRange(1), help="Turns of 20 000 events/s and its floor; default 3.")
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True)
def main(as_json: bool, quick: bool, rates: tuple[int, ...], seconds: float | None, repeats: int | None, seed: int) -> None:
    """How long after its append an event shows in a feature that another process reads."""
    seconds, repeats = seconds or (2 if quick else 10), repeats or (1 if quick else 3)
    _command.run("freshness", lambda scratch: measure(rates, seconds, repeats, seed, scratch), show, as_json)


if __name__ == "__main__":
    main()
