"""Point-in-time reads, proved at random pairs: online = offline = oracle, on a simulated stream and on real events.

`python -m benchmarks.point_in_time [--data-dir DIR] [--pairs N] [--json] [--quick]`, DIR holding mathoverflow.parquet and online_retail.parquet. Each
stream is read at N pairs at moments of their own, and at N more where a second data directory was run up to a moment and read online. The exit status
is 1 if a single value differs.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from rich.table import Table

from benchmarks import _measure
from benchmarks._datasets import DATASETS
from benchmarks._pairs import compare_offline, compare_online
from benchmarks.realdata import Engine
from flows.settings import Settings
from tests import driving
from tests.oracles.decide import decide
from tests.strategies import random_stream

SEED = 17


def check(events: pd.DataFrame, write: Callable[[Path], Settings], pairs: int, moments: int) -> dict[str, Any]:
    """Compare one stream.

    Parameters
    ----------
    events : DataFrame
        As the oracles take it.
    write : callable
        Makes a data directory of it in a folder, and says its settings.
    """
    rng = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory(prefix="tidemark-pairs-") as scratch:
        directory = Path(scratch)
        settings = write(directory)
        decided = decide(events, partitions=settings.partitions)
        started = time.perf_counter()
        alone = compare_offline(settings, decided, pairs, rng)
        between = time.perf_counter()
        (directory / "live").mkdir()
        engine = Engine(directory / "live")
        together = compare_online(settings, Settings(data=directory / "live" / "data"), engine.run, decided, pairs, moments, rng)
    return {
        "records": len(events),
        "offline_oracle": {**alone.as_dict(), "seconds": round(between - started, 1)},
        "online_offline_oracle": {**together.as_dict(), "moments": moments, "seconds": round(time.perf_counter() - between, 1)},
    }


def simulated(records: int, pairs: int, moments: int) -> dict[str, Any]:
    """A stream with late, doubled and malformed records, and ties in time."""
    events = random_stream(SEED, records, users=max(10, records // 60), pins=max(20, records // 30))

    def write(directory: Path) -> Settings:
        settings = Settings(data=directory / "data")
        driving.write(settings, events, np.random.default_rng(SEED))
        return settings

    return check(events, write, pairs, moments)


def real(name: str, source: Path, pairs: int, moments: int, most_rows: int | None) -> dict[str, Any]:
    """Real events."""
    dataset = DATASETS[name]
    # In the order of time, so that what had arrived by a moment is the beginning of the file.
    prepared = dataset.prepare(pd.read_parquet(source).iloc[:most_rows])

    def write(directory: Path) -> Settings:
        prepared.to_parquet(directory / "prepared.parquet")
        Engine(directory).ingest(directory / "prepared.parquet", dataset.options)
        return Settings(data=directory / "data")

    return check(dataset.log(prepared, Settings().partitions), write, pairs, moments)


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Folder of the files of real events.")
@click.option("--pairs", type=click.IntRange(100), default=10_000, show_default=True, help="Pairs for each comparison.")
@click.option("--moments", type=click.IntRange(1), default=10, show_default=True, help="Moments at which state is read online.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--quick", is_flag=True, help="A small simulated stream, the first 20 000 rows of real ones, 300 pairs; ends within a minute."
)
def main(data_dir: Path | None, pairs: int, moments: int, as_json: bool, quick: bool) -> None:
    """Point-in-time reads, proved at random pairs: online = offline = oracle."""
    if quick:
        pairs, moments = 300, 2
    sources = {name: data_dir / dataset.file for name, dataset in DATASETS.items()} if data_dir is not None else {}
    missing = [source.name for source in sources.values() if not source.exists()]
    if missing:
        raise click.ClickException(f"{data_dir} lacks {' and '.join(missing)}")
    results = {"simulated": simulated(20_000 if quick else 300_000, pairs, moments)}
    _tell("simulated", results)
    for name, source in sources.items():
        results[name] = real(name, source, pairs, moments, 20_000 if quick else None)
        _tell(name, results)
    result = {"benchmark": "point_in_time", "results": results, "ratios": {}, "machine": _measure.machine(), "seed": SEED}
    if as_json:
        print(json.dumps(result))
    else:
        _show(results)
    if any(of[which]["mismatches"] for of in results.values() for which in ("offline_oracle", "online_offline_oracle")):
        sys.exit(1)


def _tell(name: str, results: dict[str, Any]) -> None:
    """On standard error as soon as it is known: at 10 000 pairs a stream takes a quarter of an hour, most of it the oracle's."""
    of = results[name]
    mismatches = sum(of[which]["mismatches"] for which in ("offline_oracle", "online_offline_oracle"))
    click.echo(f"{name}: {of['records']:,} records compared, {mismatches:,} mismatches", err=True)


def _show(results: dict[str, Any]) -> None:
    table = Table("", "records", "compared", "pairs", "values", "mismatches", "s", title="point_in_time")
    examples = []
    for name, of in results.items():
        for which, words in (("offline_oracle", "offline = oracle"), ("online_offline_oracle", "online = offline = oracle")):
            one = of[which]
            numbers = [f"{one[key]:,}" for key in ("pairs", "compared_values", "mismatches", "seconds")]
            table.add_row(name, f"{of['records']:,}", words, *numbers)
            examples += one["examples"]
    _measure.console().print(table)
    print(*examples, sep="\n", end="\n" * bool(examples))


if __name__ == "__main__":
    main()
