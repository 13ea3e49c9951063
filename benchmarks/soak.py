"""The whole stack at a steady rate, with faults, for as long as is asked: what is lost, doubled or wrong then, how slow it was, whether memory grows.

`python -m benchmarks.soak [--minutes M] [--rate N | --share S] [--faults N] [--seed N] [--json] [--quick]`. Kafka, Redis and every command of
docker-compose.yml run as processes on this machine. Events are appended at the rate, visitors have pins ranked and act on them, probes look for
single events in what is served. Without --rate, it is a share of the greatest at which the stack keeps up and of which so many minutes fit into
memory, looked for first. Exit status 1 if anything is lost, doubled or differs, or if a process has ended by itself.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from benchmarks import _measure
from benchmarks._soak_checks import Verdict, check_again, check_commands, check_deltas, check_served, check_shown
from benchmarks._soak_faults import Fault, drawn, strike
from benchmarks._soak_load import Asked, Probes, Producer, Visitors
from benchmarks._soak_memory import slope
from benchmarks._soak_stack import DEDUP_MS, Site
from flows.run.warm_up import warm_up

# The peak is looked for from the least rate on, by doubling, then in between: for so long each, and then all must be applied so soon.
_LEAST, _BETWEEN = 1_000.0, (2**0.5, 2**0.25)
_STEP_S, _BEHIND_S, _ABOUT = 20.0, 5.0, 0.9
# Longer than freed memory stays with a process.
_GIVEN_BACK_S = 40.0
_PROBE_EACH_S, _QUICK_RATE = 0.5, 1_000
# After a fault and its end, for so long requests still count as disturbed.
_AFTER_S = 5.0
_SETTLE_S = 60.0
_FLAT, _JUDGED_MINUTES = 0.1, 10
_LOAD = "load"
_ENTITIES = 500
_NOTES = {
    "fits": "greatest rate, events a second, of which as many minutes fit into memory: what is held grows by each open save for a week. Looked for "
    "where no --rate is given, which is then --share of the lesser of peak and this",
    "peak": "greatest steady rate, events a second, at which what was appended was in features, joined and in Redis within 5 s, with visitors",
    "ranking": "from when a request was due to its answer, of those answered with 200; undisturbed: due when no fault was there or had just been",
    "freshness": "from when an event came into being to when it was seen in what is served over HTTP: producer, Kafka, flows, Redis, server, look",
    "memory": "anonymous and shared pages of a service with its children, less its working sets (working_sets_mib, at the end; of Redis, its rows "
    "and what lies free between them), which grow by each open save for a week; the slope is of the least in each 150 s, one for all lives, without "
    "each first minute and what H spans",
    "unkept": "answers of a server that was killed before it had kept them: in no log, so in no example (docs/serving.md); no events are lost",
}
Say = Callable[[str], None]


def measure(
    minutes: float, rate: int | None, share: float, faults: int, visits: float, seed: int, directory: Path, say: Say
) -> dict[str, Any]:
    """Run it all, and look at everything.

    Parameters
    ----------
    minutes : float
        Of load.
    rate : int or None
        Events a second; None: `share` of the peak.
    faults : int
    visits : float
        Ranked requests a second.
    directory : Path
        Empty; the data stay there.
    say : callable
        Is told what is going on.

    Returns
    -------
    dict
        The object that is printed.

    Raises
    ------
    CheckFailedError
        Something that must come did not come, so that there is nothing to judge.
    """
    begun, seconds = time.monotonic(), 60 * minutes
    warm_up(lambda _: None)
    say("starting Kafka, Redis and the stack")
    with Site(directory, say) as site:
        site.start(seed)
        peak, fits, free, producer = None, None, _measure.available(), Producer(site.settings, rate or 0.0)
        visitors, probes = Visitors(producer, site.port, visits, seed), Probes(producer, site.port, _PROBE_EACH_S)
        for thread in (producer, visitors, probes):
            thread.start()
        if rate is None:
            peak = _peak(site, producer, say)
            say("waiting until what that needed is given back")
            time.sleep(_GIVEN_BACK_S)
            fits = _fitting(free, _measure.available(), producer.sent.events, seconds)
            rate = max(1, round(share * min(peak, fits)))
        producer.set_rate(rate)
        site.began = loaded = time.monotonic()
        for memory in site.memory.values():
            memory.lives = [[]]
        visitors.asked, probes.asked = Asked(), Asked()
        done = _disturbed(site, producer, drawn(faults, seconds, seed), loaded, seconds, rate, say)
        say("waiting until all that was sent is applied")
        visitors.end()
        probes.end(patience_s=120)
        producer.end()
        site.await_applied("all that was sent is applied")
        site.await_true(site.settled, "pins have all of it too")
        verdict = Verdict()
        verdict.lost += len(probes.waiting)
        verdict.differences += [f"{len(probes.waiting)} events of probes never showed"] * bool(probes.waiting)
        say("comparing what is served with what was sent")
        check_served(verdict, producer.sent, site.port, site.settings.partitions)
        for name, number in site.found().items():
            if number:
                verdict.differ(f"{name} has found {number:,.0f} differences while it ran", int(number))
        deltas = site.total("learner", "tidemark_learner_lag_records")
        # Nobody appends heartbeats from here on.
        site.stop(["serving"])
        site.await_true(site.settled, "flows have nothing before them")
        site.stop_watching()
        site.stop(list(site.services))
        say("audit, skew, archive, checkpoints")
        check_commands(verdict, site.settings, seed, _ENTITIES)
        check_deltas(verdict, site.settings)
        unkept = check_shown(verdict, site.settings, visitors.shown)
        check_again(verdict, site.settings, site.broker, producer.sent, directory, say)
        for one in site.ended:
            verdict.differ(f"a process ended by itself: {one}")
    sent = producer.sent
    return {
        "benchmark": "soak",
        "results": {
            "minutes": minutes,
            "rate": rate,
            "peak": round(peak) if peak is not None else None,
            "fits": round(fits) if fits is not None else None,
            "faults": done,
            "restarts": dict(sorted(site.restarts.items())),
            "events": sent.events,
            "records": {"doubled": sent.doubled, "late": sent.late, "malformed": sent.malformed, "producer_retries": producer.retries},
            "lost": verdict.lost,
            "doubled": verdict.doubled,
            "mismatched": verdict.mismatched,
            "differences": verdict.differences,
            "checked": verdict.checked,
            "ranking": _latencies(visitors.asked, done),
            "freshness": _latencies(probes.asked, done),
            "unkept_answers": unkept,
            "learner_lag_records": deltas,
            "memory": _memory(site, seconds),
            "seconds": round(time.monotonic() - begun, 1),
            "notes": _NOTES,
        },
        "ratios": {},
        "machine": _measure.machine(),
        "seed": seed,
    }


def _peak(site: Site, producer: Producer, say: Say) -> float:
    """The greatest rate that is found at which the stack keeps up; it stands idle afterwards.

    What is called sustainable throughput (Karimov et al., Benchmarking Distributed Stream Data Processing Systems, ICDE 2018, 3.4): a burst may go
    through in large pieces at a rate under which, if it lasted, features would grow old.
    """

    def sustained(wanted: float) -> float:
        """The rate there was, if all kept up with it and it was about what was wanted, else 0: who sends shares the cores, too."""
        say(f"measuring what it takes at most: {wanted:,.0f} events a second")
        producer.set_rate(wanted)
        began, before = time.monotonic(), producer.sent.events
        time.sleep(_STEP_S)
        rate = (producer.sent.events - before) / (time.monotonic() - began)
        kept = site.await_applied(f"{wanted:,.0f} events a second are applied") <= _BEHIND_S and rate >= _ABOUT * wanted
        if not kept:
            producer.set_rate(0.0)
            site.await_applied("what was too much is applied")
        return rate if kept else 0.0

    best, wanted = 0.0, _LEAST
    # The first time what is loaded when it is first needed is loaded.
    sustained(wanted)
    while found := sustained(wanted):
        best, wanted = found, 2 * wanted
    low = wanted / 2
    for step in _BETWEEN:
        if found := sustained(low * step):
            best, low = found, low * step
    producer.set_rate(0.0)
    site.await_applied("all of it is applied")
    return best


def _fitting(free: int, left: int, events: int, seconds: float) -> float:
    """The rate, events a second, at which what a soak comes to hold takes all of the memory that is left.

    Parameters
    ----------
    free, left : int
        Bytes that were free before so many events, and after them.
    """
    return left / max(1.0, (free - left) / max(1, events)) / seconds


def _disturbed(
    site: Site, producer: Producer, faults: list[Fault], began: float, seconds: float, rate: float, say: Say
) -> list[dict[str, Any]]:
    """Let the load go on for so long, with faults; returns each with when it struck and when all was well again, seconds of the load."""
    done: list[dict[str, Any]] = []
    for fault in faults:
        while (left := began + fault.at - time.monotonic()) > 0:
            say(f"{_LOAD}, {(time.monotonic() - began) / 60:.1f} of {seconds / 60:g} minutes, {len(done)} of {len(faults)} faults")
            time.sleep(min(left, 1.0))
        say(f"fault {len(done) + 1} of {len(faults)}: {fault.kind}")
        struck = time.monotonic()
        strike(fault, site, producer, rate)
        # All that was appended until then: what comes meanwhile is not waited for.
        site.await_applied(f"all is applied again after '{fault.kind}'")
        done.append({"kind": fault.kind, "at": round(struck - began, 1), "well_after": round(time.monotonic() - struck, 1)})
    while (left := began + seconds - time.monotonic()) > 0:
        say(f"{_LOAD}, {(time.monotonic() - began) / 60:.1f} of {seconds / 60:g} minutes, all faults done")
        time.sleep(min(left, 1.0))
    return done


def _latencies(asked: Asked, faults: list[dict[str, Any]]) -> dict[str, Any]:
    """Percentiles of all requests, and of those that no fault disturbed, ms."""
    if not asked.due:
        return {"answered": 0, "failed": len(asked.failed)}
    due, took = np.array(asked.due), 1000 * np.array(asked.took)
    first = min([*asked.due[:1], *asked.failed[:1]])
    calm = np.ones(len(due), np.bool_)
    for fault in faults:
        begins, ends = first + fault["at"] - 1, first + fault["at"] + fault["well_after"] + _AFTER_S
        calm &= (due + took / 1000 < begins) | (due > ends)
    out: dict[str, Any] = {"answered": len(due), "failed": len(asked.failed), "all": _percentiles(took)}
    if calm.any():
        out["undisturbed"] = _percentiles(took[calm]) | {"requests": int(calm.sum())}
    return out


def _percentiles(values: np.ndarray) -> dict[str, float]:
    p50, p99 = np.percentile(values, [50, 99]).tolist()
    return {"p50_ms": round(p50, 1), "p99_ms": round(p99, 1), "max_ms": round(float(values.max()), 1)}


def _memory(site: Site, seconds: float) -> dict[str, Any]:
    """Of each service. Within H what a task remembers of the stream grows, so that is left out, or a third of the soak if that is less."""
    begin, settle = min(DEDUP_MS / 1000 + 30, seconds / 3), min(_SETTLE_S, seconds / 3)
    out: dict[str, Any] = {}
    for name, memory in site.memory.items():
        found = slope(memory, settle, begin)
        if found is not None:
            # What is young still fills what it will keep: nothing is said of it.
            flat = (found.growth <= _FLAT or found.mib_an_hour <= 2 * found.error) if found.minutes >= _JUDGED_MINUTES else None
            out[name] = {key: round(value, 3) for key, value in asdict(found).items()} | {
                "working_sets_mib": round(memory.working_sets / 2**20, 1),
                "flat": flat,
            }
    return out


def show(result: dict[str, Any]) -> None:
    """The figures for a reader."""
    of = result["results"]
    peak = ""
    if of["peak"]:
        most = min(of["peak"], of["fits"])
        peak = f", {100 * of['rate'] / most:.0f} % of the most that cores ({of['peak']:,}) and memory for so long ({of['fits']:,}) take"
    print(f"soak: {of['minutes']:g} minutes at {of['rate']:,} events a second{peak}; {len(of['faults'])} faults; seed {result['seed']}")
    for fault in of["faults"]:
        print(f"  {fault['at']:7.1f} s  {fault['kind']}: all applied again after {fault['well_after']:.1f} s")
    print(f"{of['events']:,} events: {of['lost']} lost, {of['doubled']} doubled, {of['mismatched']} mismatched")
    print("checked: " + ", ".join(f"{name} {number:,}" for name, number in of["checked"].items()))
    for name in ("ranking", "freshness"):
        told = of[name]
        parts = [f"{part} p50 {told[part]['p50_ms']} ms, p99 {told[part]['p99_ms']} ms" for part in ("undisturbed", "all") if part in told]
        print(f"{name}: {told['answered']:,} answered, {told['failed']} not; " + "; ".join(parts))
    for name, memory in of["memory"].items():
        beside = f" and {memory['working_sets_mib']:.0f} of working sets" if memory["working_sets_mib"] else ""
        print(
            f"memory of {name}: {memory['mean_mib']:.0f} MiB{beside}, {memory['mib_an_hour']:+.1f} ± {memory['error']:.1f} MiB an hour over "
            f"{memory['minutes']:.1f} minutes{'  GROWS' if memory['flat'] is False else ''}"
        )
    for difference in of["differences"][:40]:
        print(f"  {difference}")
    print(_measure.where(result))


@contextmanager
def _progress(quiet: bool) -> Iterator[Say]:
    """Where what is going on is told: one line that changes, or, where nobody looks, a line for each thing that begins."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda what: None if quiet or what.startswith(_LOAD) else console.print(f"soak: {what}", highlight=False)
        return
    with console.status("") as status:
        yield status.update


@click.command()
@click.option("--minutes", type=click.FloatRange(0.1), help="Of load. Default 30, with --quick 1.")
@click.option("--rate", type=click.IntRange(1), help=f"Events a second. Default: a share of the peak; with --quick {_QUICK_RATE}.")
@click.option(
    "--share",
    type=click.FloatRange(0.01, 1),
    default=0.5,
    show_default=True,
    help="Of the peak, which is measured first, or of what fits into memory for so long, if that is less.",
)
@click.option("--faults", type=click.IntRange(0), help="Default 20, with --quick 4.")
@click.option("--visits", type=click.FloatRange(0.1), default=5.0, show_default=True, help="Ranked requests a second.")
@click.option(
    "--seed", type=click.IntRange(0), default=7, show_default=True, help="Of the faults, their order and their moments, and of visits."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="A minute of load and a few faults; some four minutes in all.")
@click.option("--keep", is_flag=True, help="Leave the data and what all processes said.")
def main(
    minutes: float | None,
    rate: int | None,
    share: float,
    faults: int | None,
    visits: float,
    seed: int,
    as_json: bool,
    quick: bool,
    keep: bool,
) -> None:
    """The whole stack at a steady rate, with faults: what is lost, doubled or wrong, how slow it was, whether memory grows."""
    minutes = minutes or (1.0 if quick else 30.0)
    faults = (4 if quick else 20) if faults is None else faults
    rate = rate or (_QUICK_RATE if quick else None)
    directory = Path(tempfile.mkdtemp(prefix="tidemark-soak-"))
    # Whoever asks this to end asks all that it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("benchmarks.soak: asked to stop"))
    failed = True
    try:
        with _progress(as_json) as say:
            result = measure(minutes, rate, share, faults, visits, seed, directory, say)
        of = result["results"]
        failed = bool(of["lost"] or of["doubled"] or of["mismatched"])
        if as_json:
            print(json.dumps(result))
        else:
            show(result)
    except _measure.CheckFailedError as error:
        print(f"benchmarks.soak: {error}", file=sys.stderr)
    finally:
        if failed or keep:
            print(f"benchmarks.soak: the data, and what all processes said, lie in {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory)
    sys.exit(failed)


if __name__ == "__main__":
    main()
