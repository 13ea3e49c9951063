"""Reads of features in Tidemark's stores and Feast's own, and training sets at points in time.

`python -m benchmarks.features [--json] [--quick] [--part stores] [--events N] [--reads N] [--repeats R] [--seed S]`. A read is one user's sequence
of 100 actions and counters, and the counters of 100 pins; all stores hold the same, each in a process of its own, and take turns of 50 reads. What
they answer is compared, and the engine with the oracles, before anything is timed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import _command, _feature_reads, _measure
from benchmarks.flow import check_against_oracles


def show(result: dict[str, Any], console: Console) -> None:
    """The figures for a reader."""
    if "stores" in result["results"]:
        _feature_reads.show(result["results"]["stores"], console)
    _measure.show_ratios(result, console)
    console.print(f"{_measure.where(result)}; seed {result['seed']}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="100 000 events and 100 reads a repeat.")
@click.option("--part", type=click.Choice(["all", "stores"]), default="all", show_default=True, help="Which part.")
@click.option("--events", type=click.IntRange(20_000), help="Of the stream. Default 1 000 000.")
@click.option("--reads", type=click.IntRange(50), help="Of each store in each repeat. Default 1 000.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True)
def main(as_json: bool, quick: bool, part: str, events: int | None, reads: int | None, repeats: int, seed: int) -> None:
    """Reads of features in Tidemark's stores and Feast's own, and training sets at points in time."""
    events, reads = events or (100_000 if quick else 1_000_000), reads or (100 if quick else 1_000)

    def measure(scratch: Path) -> dict[str, Any]:
        compared = check_against_oracles(scratch / "oracles", seed, 5_000 if quick else 20_000)
        of_stores = _feature_reads.measure(events, max(events // 400, 10), reads, repeats, seed, scratch / "stores")
        results = {"values_compared_with_oracles": compared, "stores": of_stores[0]}
        return {"benchmark": "features", "results": results, "ratios": of_stores[1], "machine": _measure.machine(), "seed": seed}

    _command.run("features", measure, show, as_json)


if __name__ == "__main__":
    main()
