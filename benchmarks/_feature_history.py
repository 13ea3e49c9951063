"""A training set at points in time: Tidemark from the log, Feast's file (dask) and duckdb stores from counter rows that somebody else has computed.

In Feast's favour: its counters are given, a row for each event, and read by the file; what it takes to compute and store them is not counted. The
moments of the training rows are those of events, where a counter row exists, so that both sides mean the same by "as of".
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks import _measure, _stream
from benchmarks._worker import Worker
from benchmarks.peers import _environments
from flows.decode import Decoder
from flows.log import LocalLog
from flows.outputs import ACTIONS
from flows.settings import Settings

COUNTERS = [f"revisits_{kind}_all_{days}d_count" for kind in ("impression", "click") for days in (7, 30, 90)]
SEQUENCE = ["sequence_pin_id"]
STORES = {"feast_file": "dask", "feast_duckdb": "duckdb"}
NOTES = {
    "tidemark": "get_historical_features over the log: judges all events, keeps what the entities need, answers each row from its own prefix",
    "feast_file": "Feast's file store (dask), over a Parquet file with a counter row for each event",
    "feast_duckdb": "Feast's duckdb store over the same file",
    "tidemark_sequences": "the same for the sequence of pins, up to 100 for each row",
    "feast_file_sequences": "Feast's file store over the sequences of a tenth of the events",
}
_LIMIT_S, _LIMIT_GB = 300, 12
_SHARE = 10


def measure(events: int, rows: int, repeats: int, seed: int, scratch: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make the counter rows, compare, and time in turns.

    Parameters
    ----------
    events, rows : int
        Of the stream, and of the training set.

    Raises
    ------
    CheckFailedError
        A store answers a row otherwise than Tidemark. (A row that it leaves out is counted.)
    """
    settings = _stream.make(scratch / "stream", events, max(events // 50, 100), seed)
    moments = _moments(settings)
    chosen = np.sort(np.random.default_rng(seed).choice(len(moments[0]), min(rows, len(moments[0])), replace=False))
    entities, facts, tenth = scratch / "entities.parquet", scratch / "facts.parquet", scratch / "sequences.parquet"
    _write_frame(entities, moments[0][chosen], moments[1][chosen], numbered=True)
    _write_frame(scratch / "all.parquet", *moments)
    spent: dict[str, list[dict[str, Any]]] = {"tidemark": []}
    with Worker("_feature_history_ours", settings, scratch / "ours") as ours:
        ours.run(entities=str(scratch / "all.parquet"), features=_named("user_revisit_counters", COUNTERS), out=str(facts), to_file=True)
        reasons = {name: reason for name in STORES if (reason := _missing())}
        for turn in range(repeats):
            mine = scratch / f"tidemark-{turn}.parquet"
            spent["tidemark"].append(ours.run(entities=str(entities), features=_named("user_revisit_counters", COUNTERS), out=str(mine)))
            for name, store in STORES.items():
                if name in reasons:
                    continue
                out = scratch / f"{name}-{turn}.parquet"
                told = _run(store, facts, entities, COUNTERS, "int64", out, scratch)
                if isinstance(told, str):
                    reasons[name] = told
                    continue
                spent.setdefault(name, []).append(told | _compared(name, pq.read_table(out), pq.read_table(mine)))
        spent["tidemark_sequences"] = [
            ours.run(entities=str(entities), features=_named("user_action_sequence", SEQUENCE), out=str(scratch / "own.parquet"))
            for _ in range(repeats)
        ]
        if not _missing():
            some = np.arange(0, len(moments[0]), _SHARE)
            _write_frame(scratch / "tenth.parquet", moments[0][some], moments[1][some])
            ours.run(
                entities=str(scratch / "tenth.parquet"), features=_named("user_action_sequence", SEQUENCE), out=str(tenth), to_file=True
            )
            told = _run("dask", tenth, entities, SEQUENCE, "list", scratch / "dask.parquet", scratch)
            if isinstance(told, str):
                reasons["feast_file_sequences"] = told
            else:
                spent["feast_file_sequences"] = [told]
    counter_rows = pq.ParquetFile(facts).metadata.num_rows
    results: dict[str, Any] = {
        "events": events,
        "counter_rows": counter_rows,
        "training_rows": len(chosen),
        "counters": COUNTERS,
        "stores": {name: _summary(name, of) for name, of in spent.items()},
        "not_measured": reasons,
    }
    return results, _ratios(spent)


def install() -> None:
    """Make the environment of Feast's own stores."""
    _environments.install("feast")


def _missing() -> str:
    try:
        _environments.python("feast")
    except _environments.NotInstalledError:
        return "not installed; python -m benchmarks.features --install"
    return ""


def _moments(settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Users and times (ms) of all events that are in order, each once, sorted."""
    users, times = [], []
    with LocalLog.open(settings.logs, ACTIONS, read_only=True) as log:
        for partition in range(settings.partitions):
            decoder, at, end = Decoder(settings.load_vocabulary()), 0, log.end_position(partition)
            while at < end:
                batches = log.read(partition, at, settings.batch_records)
                columns = decoder.decode(*(batch.records for batch in batches))
                users.append(columns.user_id[~columns.bad])
                times.append(columns.event_time[~columns.bad])
                at = batches[-1].end_offset
    user, time = np.concatenate(users), np.concatenate(times)
    order = np.lexsort((time, user))
    user, time = user[order], time[order]
    new = np.concatenate([[True], (user[1:] != user[:-1]) | (time[1:] != time[:-1])])
    return user[new], time[new]


def _write_frame(path: Path, users: np.ndarray, times: np.ndarray, numbered: bool = False) -> None:
    # Microseconds: Feast's duckdb store fails at nanoseconds.
    columns = {"user_id": pa.array(users), "event_timestamp": pa.array(times * 1000).cast(pa.timestamp("us", "UTC"))}
    pq.write_table(pa.table({"row": pa.array(np.arange(len(users)))} | columns if numbered else columns), path)


def _named(view: str, features: list[str]) -> list[str]:
    return [f"{view}:{name}" for name in features]


def _run(store: str, facts: Path, entities: Path, features: list[str], types: str, out: Path, scratch: Path) -> dict[str, Any] | str:
    """What a store of Feast's took in a process of its own; or why it gave nothing."""
    task = {"store": store, "facts": str(facts), "entities": str(entities), "features": features, "types": types, "out": str(out)}
    task |= {"limit_gb": _LIMIT_GB, "told": str(scratch / "told.json")}  # type: ignore[dict-item]
    command = [str(_environments.python("feast")), "-P", str(_environments.HERE / "feast_history.py"), json.dumps(task)]
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=_LIMIT_S, cwd=scratch, env=os.environ | {"FEAST_USAGE": "False"}, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no result in {_LIMIT_S} s"
    if ended.returncode:
        said = ended.stderr.strip().splitlines()
        return f"no result within {_LIMIT_GB} GiB of memory: {said[-1] if said else ended.returncode}"
    told: dict[str, Any] = json.loads((scratch / "told.json").read_text())
    return told


def _compared(name: str, theirs: pa.Table, ours: pa.Table) -> dict[str, int]:
    """Rows that are left out or doubled; raises where one is another than ours."""
    ours, theirs = ours.sort_by("row"), theirs.sort_by("row")
    rows = theirs.column("row").to_numpy()
    place = np.searchsorted(ours.column("row").to_numpy(), rows)
    for counter in COUNTERS:
        # NULL is what both say of a user that has nothing to say.
        mine, other = (table.column(counter).fill_null(-1).to_numpy() for table in (ours, theirs))
        if (wrong := np.flatnonzero(mine[place] != other)).size:
            at = wrong[0]
            raise _measure.CheckFailedError(f"{name}: {counter} of row {rows[at]} is {other[at]}, and by the log {mine[place][at]}")
    kept = len(np.unique(rows))
    return {"rows_left_out": ours.num_rows - kept, "rows_doubled": len(rows) - kept}


def _summary(name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {"note": NOTES[name]}
    for figure in ("seconds", "cpu_seconds", "peak_rss_mb"):
        out[figure] = _measure.spread([run[figure] for run in runs], 0 if figure == "peak_rss_mb" else 2)
    return out | {figure: max(run[figure] for run in runs) for figure in ("rows_left_out", "rows_doubled") if figure in runs[0]}


def _ratios(spent: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    out = {}
    for name in STORES:
        if name in spent:
            of, to = spent[name], spent["tidemark"][: len(spent[name])]
            for title, figure in (
                (f"pit_vs_{name}", "cpu_seconds"),
                (f"pit_vs_{name}_by_clock", "seconds"),
                (f"pit_memory_vs_{name}", "peak_rss_mb"),
            ):
                out[title] = _measure.ratio([run[figure] for run in of], [run[figure] for run in to])
    return out


def show(results: dict[str, Any], console: Console) -> None:
    """The figures for a reader."""
    table = Table("", "CPU s", "min", "max", "seconds", "peak MiB", "rows left out", title="a training set at points in time")
    for name, of in results["stores"].items():
        cpu = of["cpu_seconds"]
        numbers = [f"{number:,.1f}" for number in (cpu["median"], cpu["min"], cpu["max"], of["seconds"]["median"])]
        left_out = f"{of['rows_left_out']:,}" if "rows_left_out" in of else ""
        table.add_row(name, *numbers, f"{of['peak_rss_mb']['median']:,.0f}", left_out)
    console.print(table)
    for name, of in results["stores"].items():
        console.print(f"{name}: {of['note']}")
    for name, reason in results["not_measured"].items():
        console.print(f"{name}: {reason}")
    console.print(f"{results['training_rows']:,} training rows, {results['events']:,} events, {results['counter_rows']:,} counter rows")
