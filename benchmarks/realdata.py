"""Real events through the real command line, every exported value compared with the oracles.

`python -m benchmarks.realdata --data-dir DIR [--json] [--quick]`, DIR holding mathoverflow.parquet and online_retail.parquet. Each is ingested,
run to its end and exported at several times; the exit status is 1 if a single value differs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pandas as pd
import pyarrow.parquet as pq
from rich.table import Table

from benchmarks import _measure
from benchmarks._datasets import DATASETS, Dataset
from benchmarks._differences import compare
from flows.settings import DAY_MS, ENVIRONMENT_PREFIX, Settings
from tests.oracles.decide import decide
from tests.oracles.features import credited

_ROOT = Path(__file__).parent.parent


class Engine:
    """The command line over one data directory, with the seconds that each command took."""

    def __init__(self, directory: Path) -> None:
        self._data = directory / "data"
        self._scratch = directory
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def ingest(self, path: Path, options: tuple[str, ...]) -> None:
        with self._timed("ingest"):
            self._call("ingest", str(path), *options)

    def run(self) -> None:
        with self._timed("run"):
            self._call("run", "--flow", "all", "--until-end")

    def exports(self, as_of: int | None) -> dict[str, pd.DataFrame]:
        """All exports as frames; without a time at the newest event."""
        at = () if as_of is None else ("--as-of", str(as_of))

        def export(name: str) -> pd.DataFrame:
            out = self._scratch / f"{name}.parquet"
            what = ("labels", "export") if name == "labels" else ("features", "export", "--entity", name)
            self._call(*what, *at, "--out", str(out))
            return pq.read_table(out).to_pandas(integer_object_nulls=True)

        names = ("user", "pin", "topic", "labels")
        # Side by side, because they spend most of their time starting.
        with self._timed("exports"), ThreadPoolExecutor() as threads:
            return dict(zip(names, threads.map(export, names), strict=True))

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - started

    def _call(self, *arguments: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
        command = [sys.executable, "-m", "tidemark", "--data", str(self._data), *arguments]
        done = subprocess.run(command, env=environment, cwd=_ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")


def check(dataset: Dataset, source: Path, directory: Path, times: int, most_rows: int | None = None) -> dict[str, Any]:
    """Ingest, run, export and compare one data set.

    Parameters
    ----------
    dataset : Dataset
    source : Path
        Its file.
    directory : Path
        Empty.
    times : int
        How many as-of times, 2 or more: past ones, the newest event (without --as-of), and from 3 on a month after it.
    most_rows : int, optional
        Only so many of its first rows.
    """
    prepared = dataset.prepare(pd.read_parquet(source).iloc[:most_rows])
    prepared.to_parquet(directory / "prepared.parquet")
    engine = Engine(directory)
    engine.ingest(directory / "prepared.parquet", dataset.options)
    engine.run()
    started = time.perf_counter()
    decided = decide(dataset.log(prepared, Settings().partitions))
    oracle = time.perf_counter() - started
    newest = int(decided["event_time"].max())
    shares = [(i + 1) / (times - 1) for i in range(times - 2)] or [0.5]
    moments = [*(int(decided["event_time"].quantile(share)) for share in shares), newest, newest + 30 * DAY_MS][:times]
    values = mismatches = 0
    examples: list[str] = []
    for as_of in moments:
        exports = engine.exports(None if as_of == newest else as_of)
        started = time.perf_counter()
        tally = compare(exports, decided, as_of)
        oracle += time.perf_counter() - started
        values, mismatches = values + tally.values, mismatches + tally.mismatches
        examples += tally.examples
    return {
        "rows": len(prepared),
        "users": int(prepared["user"].nunique()),
        "items": int(prepared["item"].nunique()),
        "saves": int((decided["action"] == "save").sum()),
        "credited_revisits": int(credited(decided)["save_time"].notna().sum()),
        "as_of": moments,
        "seconds": {name: round(value, 2) for name, value in (*engine.seconds.items(), ("oracles", oracle))},
        "compared_values": values,
        "mismatches": mismatches,
        "examples": examples[:5],
    }


@click.command()
@click.option(
    "--data-dir", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Folder of the files; without it nothing is done."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="The first 30 000 rows of each, at two times; ends within a minute.")
@click.option("--times", type=click.IntRange(2), default=6, show_default=True, help="How many as-of times.")
def main(data_dir: Path | None, as_json: bool, quick: bool, times: int) -> None:
    """Real events through the real command line, every exported value compared with the oracles."""
    results: dict[str, Any] = {}
    missing = [dataset.file for dataset in DATASETS.values() if data_dir is None or not (data_dir / dataset.file).exists()]
    if missing and data_dir is not None:
        raise click.ClickException(f"{data_dir} lacks {' and '.join(missing)}")
    if data_dir is not None:
        for name, dataset in DATASETS.items():
            with tempfile.TemporaryDirectory(prefix="tidemark-real-") as scratch:
                results[name] = check(dataset, data_dir / dataset.file, Path(scratch), 2 if quick else times, 30_000 if quick else None)
    result = {"benchmark": "realdata", "results": results, "ratios": {}, "machine": _measure.machine(), "seed": None}
    if data_dir is None:
        result["skipped"] = "give --data-dir a folder with " + " and ".join(missing)
    if as_json:
        print(json.dumps(result))
    elif data_dir is None:
        print(f"realdata: skipped; {result['skipped']}")
    else:
        _show(results)
    if any(of["mismatches"] for of in results.values()):
        sys.exit(1)


def _show(results: dict[str, Any]) -> None:
    table = Table("", "rows", "users", "saves", "credited", "times", "values compared", "mismatches", title="realdata")
    for name, of in results.items():
        numbers = [of[key] for key in ("rows", "users", "saves", "credited_revisits", "compared_values", "mismatches")]
        table.add_row(name, *(f"{number:,}" for number in [*numbers[:4], len(of["as_of"]), *numbers[4:]]))
    _measure.console().print(table)
    for name, of in results.items():
        print(f"{name}, seconds: {', '.join(f'{stage} {value:.1f}' for stage, value in of['seconds'].items())}")
        print(*of["examples"], sep="\n", end="\n" * bool(of["examples"]))


if __name__ == "__main__":
    main()
