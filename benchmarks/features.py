"""Reads of features in Tidemark's stores and Feast's own, and training sets at points in time.

`python -m benchmarks.features [--json] [--quick] [--part all|stores|history] [--events N] [--reads N] [--log N] [--rows N] [--repeats R]
[--seed S]`, after `--install`, which makes an environment for Feast's duckdb store. A read is one user's sequence
of 100 actions and counters, and the counters of 100 pins; all stores hold the same, each in a process of its own, and take turns of 50 reads. What
they answer is compared, and the engine with the oracles, before anything is timed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import _command, _feature_history, _feature_reads, _measure
from benchmarks.flow import check_against_oracles


def show(result: dict[str, Any], console: Console) -> None:
    """The figures for a reader."""
    if "stores" in result["results"]:
        _feature_reads.show(result["results"]["stores"], console)
    if "history" in result["results"]:
        _feature_history.show(result["results"]["history"], console)
    _measure.show_ratios(result, console)
    console.print(f"{_measure.where(result)}; seed {result['seed']}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="100 000 events and 100 reads a repeat; a training set of 1 000 rows over 200 000 events.")
@click.option("--part", type=click.Choice(["all", "stores", "history"]), default="all", show_default=True, help="Which part.")
@click.option("--events", type=click.IntRange(20_000), help="Of the stream whose features are read. Default 1 000 000.")
@click.option("--reads", type=click.IntRange(50), help="Of each store in each repeat. Default 1 000.")
@click.option("--log", type=click.IntRange(10_000), help="Events of the training set's log. Default 10 000 000.")
@click.option("--rows", type=click.IntRange(100), help="Rows of the training set. Default 100 000.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True)
@click.option("--install", is_flag=True, help="Make the environment of Feast's duckdb store, and end.")
def main(
    as_json: bool,
    quick: bool,
    part: str,
    events: int | None,
    reads: int | None,
    log: int | None,
    rows: int | None,
    repeats: int,
    seed: int,
    install: bool,
) -> None:
    """Reads of features in Tidemark's stores and Feast's own, and training sets at points in time."""
    if install:
        _feature_history.install()
        return
    events, reads = events or (100_000 if quick else 1_000_000), reads or (100 if quick else 1_000)
    log, rows = log or (200_000 if quick else 10_000_000), rows or (1_000 if quick else 100_000)

    def measure(scratch: Path) -> dict[str, Any]:
        results: dict[str, Any] = {
            "values_compared_with_oracles": check_against_oracles(scratch / "oracles", seed, 5_000 if quick else 20_000)
        }
        ratios: dict[str, Any] = {}
        if part != "history":
            results["stores"], ratios = _feature_reads.measure(events, max(events // 400, 10), reads, repeats, seed, scratch / "stores")
        if part != "stores":
            results["history"], more = _feature_history.measure(log, rows, repeats, seed, scratch / "history")
            ratios |= more
        return {"benchmark": "features", "results": results, "ratios": ratios, "machine": _measure.machine(), "seed": seed}

    _command.run("features", measure, show, as_json)


if __name__ == "__main__":
    main()
