"""How long a read of features takes in each store, and how fast each is filled: checked against one another, then timed in turns."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import _measure, _outcome, _process, _stream
from benchmarks._feature_stores import NEED_REDIS, NOTES
from benchmarks._worker import Worker

PINS = 100
# Ratio → whose time, to whose.
RATIOS = {
    "sqlite_vs_ours": ("feast_sqlite", "feast"),
    "ours_vs_floor": ("reader", "floor"),
    "feast_redis_vs_ours": ("feast_redis", "feast_over_redis"),
    "sqlite_vs_reader": ("feast_sqlite", "reader"),
}
_TURN, _CHECKED = 50, 20


def measure(events: int, users: int, reads: int, repeats: int, seed: int, scratch: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fill, compare, and read in turns.

    Parameters
    ----------
    events, users : int
        Of the simulated stream.
    reads : int
        Of each store in each repeat.
    repeats, seed : int
    scratch : Path
        An empty directory.

    Returns
    -------
    results, ratios : dict

    Raises
    ------
    CheckFailedError
        Two stores differ.
    """
    settings = _stream.make(scratch / "stream", events, users, seed, pins=20 * users)
    flow = _process.Run(settings).finish()
    with ExitStack() as stack:
        redis, reason = _redis(stack, scratch)
        names = [name for name in NOTES if redis or name not in NEED_REDIS]
        workers = {name: stack.enter_context(Worker("_feature_stores", settings, scratch / name)) for name in names}
        first = {
            # A Redis of Feast's and one of ours don't meet: databases 0 and 2, and 1 for Feast's own store.
            name: worker.run(store=name, redis=redis.format(2 if name == "feast_over_redis" else 0), **_what(0, _CHECKED, seed), keep=True)
            for name, worker in workers.items()
        }
        outcomes = {name: worker.outcome() for name, worker in workers.items()}
        for name in names:
            _outcome.check_equal(outcomes[name], outcomes["floor"], f"{name} and floor")
        compared = _outcome.values(outcomes["floor"]) * len(names)
        at = _CHECKED
        spent: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in names}
        for _ in range(repeats):
            for name in names:
                spent[name].append({"wall": np.empty(0), "cpu": np.empty(0)})
            for _ in range(reads // _TURN):
                for name, worker in workers.items():
                    told = worker.run(**_what(at, _TURN, seed))
                    for kind, values in spent[name][-1].items():
                        spent[name][-1][kind] = np.concatenate([values, told[f"{kind}_us"]])
                at += _TURN
    results = {
        "users_with_full_sequences": first["floor"]["users"],
        "pins": first["floor"]["pins"],
        "pins_of_a_request": PINS,
        "reads": reads,
        "values_compared": compared,
        "stores": {name: _summary(name, first[name], spent[name]) for name in names},
        "flow_events_per_s": round(flow["events"] / flow["seconds"]),
    }
    if reason:
        results["not_measured"] = dict.fromkeys(NEED_REDIS, reason)
    return results, _ratios(spent)


def _what(first: int, count: int, seed: int) -> dict[str, int]:
    return {"first": first, "count": count, "pins": PINS, "seed": seed}


def _redis(stack: ExitStack, scratch: Path) -> tuple[str, str]:
    """URL of a Redis of our own, with a place for its database; or why there is none."""
    if shutil.which("redis-server") is None:
        return "", "redis-server is not installed"
    from tests.online.redis_server import RedisServer

    (scratch / "redis").mkdir()
    server = RedisServer(scratch / "redis")
    stack.callback(server.stop)
    return server.url.removesuffix("/0") + "/{}", ""


def _summary(name: str, first: dict[str, Any], spent: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    out: dict[str, Any] = {"note": NOTES[name]}
    for kind, suffix in (("wall", "us"), ("cpu", "cpu_us")):
        for percent in (50, 99):
            out[f"p{percent}_{suffix}"] = _measure.spread(_percentiles(spent, kind, percent), 0)
    if first["rows"]:
        out["rows_written"] = first["rows"]
        out["rows_per_s"] = round(first["rows"] / first["fill_seconds"])
    return out


def _percentiles(spent: list[dict[str, np.ndarray]], kind: str, percent: int) -> list[float]:
    return [float(np.percentile(of[kind], percent)) for of in spent]


def _ratios(spent: dict[str, list[dict[str, np.ndarray]]]) -> dict[str, Any]:
    return {
        f"p{percent}_{title}{suffix}": _measure.ratio(_percentiles(spent[of], kind, percent), _percentiles(spent[to], kind, percent))
        for title, (of, to) in RATIOS.items()
        if of in spent and to in spent
        for percent in (99, 50)
        for kind, suffix in (("wall", ""), ("cpu", "_by_cpu_time"))
    }


def show(results: dict[str, Any], console: Console) -> None:
    """The figures for a reader."""
    table = Table("", "p50 µs", "p99 µs", "min", "max", "p50 CPU µs", "p99 CPU µs", "rows/s written", title="a user and 100 pins")
    for name, of in results["stores"].items():
        numbers = [of["p50_us"]["median"], of["p99_us"]["median"], of["p99_us"]["min"], of["p99_us"]["max"]]
        numbers += [of["p50_cpu_us"]["median"], of["p99_cpu_us"]["median"], of.get("rows_per_s")]
        table.add_row(name, *("" if number is None else f"{number:,.0f}" for number in numbers))
    console.print(table)
    for name, of in results["stores"].items():
        console.print(f"{name}: {of['note']}")
    for name, reason in results.get("not_measured", {}).items():
        console.print(f"{name}: not measured, {reason}")
    console.print(
        f"{results['reads']} reads of each store in each repeat; {results['values_compared']:,} values compared; the flow that writes Tidemark's "
        f"state: {results['flow_events_per_s']:,} events/s"
    )
