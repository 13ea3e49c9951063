"""How long a start takes after a SIGKILL, against how much state there is: it should not depend on that.

`python -m benchmarks.recovery [--json] [--quick] [--sizes N,N,…] [--repeats R] [--seed S]`. For each size a run follows a log until so many events
are in its state, is killed in the midst of its work at a moment that the seed decides, and is started again, in turns over all sizes; each
time a fresh directory is started on too, which tells what a start costs without any state.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import _command, _digests, _measure, _stream
from benchmarks._process import Run
from benchmarks._site import Site
from flows.settings import Settings

TIMES = ("first_commit_s", "first_feature_s", "all_committed_s")
NOTE = (
    "`tidemark run --follow`, one worker, from the start of its process, as a reader in another process sees it; log and state lie in the page "
    "cache, as after the death of a process; work waiting at each start: `waiting` records"
)


def measure(sizes: list[int], repeats: int, seed: int, scratch: Path) -> dict[str, Any]:
    """Kill and start in turns; no figure is given unless all sites, killed so often, end in the state of a clean run.

    Parameters
    ----------
    sizes : list of int
        Events applied before the first kill.
    repeats, seed : int
    scratch : Path
        An empty directory.

    Raises
    ------
    CheckFailedError
        State differs from a clean run's.
    """
    rng = np.random.default_rng(seed)
    waiting = max(min(sizes) // 5, 1_000)
    piece = waiting // 8
    # Each turn feeds what waits at the start and up to as much while it is at work.
    longest = max(sizes) + (repeats + 2) * 3 * waiting
    stream = _stream.make(scratch / "stream", longest, longest // 10, seed)
    with ExitStack() as stack:
        sites = {}
        for size in sorted(sizes):
            sites[size] = site = _site(stack, stream, scratch / str(size))
            site.feed(size)
            site.start()
            site.await_all()
            site.kill_at_work(int(rng.integers(piece, waiting)), piece)
        turns: dict[int, list[dict[str, Any]]] = {0: [], **{size: [] for size in sites}}
        for turn in range(repeats):
            for size in turns:
                site = sites[size] if size else _site(stack, stream, scratch / f"empty-{turn}")
                turns[size].append(_recovered(site, waiting, piece, int(rng.integers(piece, waiting))))
        for size, site in sites.items():
            _check(site, scratch / "clean", f"{size} events, killed {repeats + 1} times, and a clean run")
    of = {size: {name: [turn[name] for turn in told] for name in TIMES} for size, told in turns.items()}
    smallest, largest = min(sites), max(sites)
    ratios = {}
    for suffix, name in (("", "first_commit_s"), ("_to_feature", "first_feature_s"), ("_to_all_committed", "all_committed_s")):
        ratios[f"largest_vs_smallest{suffix}"] = _measure.ratio(of[largest][name], of[smallest][name])
        ratios[f"largest_vs_empty{suffix}"] = _measure.ratio(of[largest][name], of[0][name])
    return {
        "benchmark": "recovery",
        "results": {
            "note": NOTE,
            "waiting": waiting,
            "start_up_s": _measure.spread(of[0]["first_commit_s"]),
            "kills": (repeats + 1) * len(sites),
            "mismatches": 0,
            "sizes": [{"events": size, **_summary(told)} for size, told in turns.items()],
        },
        "ratios": ratios,
        "machine": _measure.machine(),
        "seed": seed,
    }


def _site(stack: ExitStack, stream: Settings, data: Path) -> Site:
    site = Site(replace(stream, data=data), stream)
    stack.callback(site.close)
    return site


def _recovered(site: Site, waiting: int, piece: int, records: int) -> dict[str, Any]:
    """One start, and then the kill before the next one."""
    site.feed(waiting)
    told: dict[str, Any] = {
        "state_bytes": _measure.size_of(site.settings.state),
        "replayed": sum(site.to_replay()),
        "unflushed_bytes": site.unflushed_bytes(),
    }
    took = site.recover()
    site.kill_at_work(records, piece)
    return told | took


def _check(site: Site, scratch: Path, names: str) -> None:
    """Finish what the last kill has left, and compare with a run that nothing has happened to."""
    Run(site.settings).finish()
    clean = _stream.fresh(site.settings, scratch)
    Run(clean).finish()
    _digests.check_equal(_digests.digests(site.settings), _digests.digests(clean), names)
    shutil.rmtree(scratch)


def _summary(told: list[dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {name: _measure.spread([turn[name] for turn in told]) for name in TIMES}
    for name in ("state_bytes", "replayed", "unflushed_bytes"):
        out[name] = [turn[name] for turn in told]
    return out


def show(result: dict[str, Any], console: Console) -> None:
    """The figures for a reader."""
    results = result["results"]
    table = Table(
        "events", "first commit, s", "min", "max", "first feature, s", "all, s", "state MB", "replayed", "unflushed MB", title="recovery"
    )
    for of in results["sizes"]:
        commit = of["first_commit_s"]
        seconds = [commit["median"], commit["min"], commit["max"], of["first_feature_s"]["median"], of["all_committed_s"]["median"]]
        state, replayed, unflushed = (max(of[name]) for name in ("state_bytes", "replayed", "unflushed_bytes"))
        shown = [f"{state / 1e6:.1f}", f"{replayed:,}", f"{unflushed / 1e6:.1f}"]
        table.add_row(f"{of['events']:,}", *(f"{s:.3f}" for s in seconds), *shown)
    console.print(table)
    _measure.show_ratios(result, console)
    console.print(results["note"])
    console.print(f"{results['kills']} kills, {results['mismatches']} mismatches; {_measure.where(result)}; seed {result['seed']}")


def _sizes(context: click.Context, option: click.Parameter, text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        sizes = [int(part.replace("_", "")) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter("give whole numbers with commas between, e.g. 100000,1000000") from None
    if len(set(sizes)) < 2 or min(sizes) < 1_000:
        raise click.BadParameter("give at least two different sizes, of 1 000 events or more")
    return sizes


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="20 000 and 400 000 events; ends within a minute.")
@click.option("--sizes", callback=_sizes, help="Default 100000,1000000,4000000,10000000.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True)
def main(as_json: bool, quick: bool, sizes: list[int] | None, repeats: int, seed: int) -> None:
    """Time from a start after a SIGKILL to the first new commit, against the size of the state."""
    sizes = sizes or ([20_000, 400_000] if quick else [100_000, 1_000_000, 4_000_000, 10_000_000])
    _command.run("recovery", lambda scratch: measure(sizes, repeats, seed, scratch), show, as_json)


if __name__ == "__main__":
    main()
