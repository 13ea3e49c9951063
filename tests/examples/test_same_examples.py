"""The join of what was served and the backfill of the same history make the same examples, record by record."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks._served import serve_simulated
from flows.examples.backfill.drafts import What
from flows.examples.backfill.target import ExamplesLog
from flows.examples.handover import rows_key, until_key
from flows.examples.merging import Merged
from flows.examples.record import EXAMPLES, Kind
from flows.examples.rows import ExampleRows
from flows.examples.store import Once
from flows.open_log import open_log
from flows.outputs import ACTIONS, SERVED
from flows.served_rows import Served
from flows.settings import Settings
from tests.examples.histories import backfilled, decided_of, history
from tests.examples.playing import DAY, HOUR, MINUTE, Driven, Play, one_served, write
from tests.examples.test_rows import values_of
from tests.processes import PARTITIONS, Simulated, refused, settings_of, tidemark

SEEDS = (25, 30, 37, 38)  # streams that have much of it
LATENESS = [HOUR, 10 * MINUTE, 2 * HOUR]


def joined_rows(settings: Settings, partition: int) -> ExampleRows:
    """What the join has made, without heartbeats."""
    driven = Driven(settings, partition)
    driven.run(np.random.default_rng(0))
    rows = driven.rows()
    driven.close()
    return rows.take(rows.kind != Kind.HEARTBEAT)


def of_requests(rows: ExampleRows) -> ExampleRows:
    """Those that name a request: of others only a backfill makes examples."""
    return rows.take(np.array([bool(request) for request in rows.request_id.to_pylist()], np.bool_))


def serving(decided: pd.DataFrame, rng: np.random.Generator) -> list[tuple[int, Served]]:
    """For each request of which something was seen on time, what was served: just before, or a day before something of it, give or take 1 ms."""
    counted = decided[(decided["status"] == "accepted") & ~decided["late"] & (decided["request_id"] != "")]
    shown = counted[(counted["action"] == "impression") & (counted["surface"] != "own_profile")]
    out = []
    for (user, request), of in shown.groupby(["user_id", "request_id"]):
        before = int(of["arrival"].min()) - 1
        times = [before, before - HOUR, *(int(t) - DAY + edge for t in of["event_time"] for edge in (-1, 0, 1))]
        time = before if rng.random() < 0.6 else int(rng.choice([t for t in times if 0 < t <= before]))
        one = one_served(rng, time, int(user), str(request), of["pin_id"].unique().tolist(), defaulted=0.0)
        out.append((int(of["partition"].iloc[0]), one))
    return sorted(out, key=lambda of: of[1].timestamp)


def write_file(path: Path, served: list[tuple[int, Served]]) -> None:
    """The same as a file of what was served."""
    columns: dict[str, list[Any]] = {name: [] for name in ("request_id", "user_id", "request_time", "candidates", "slots", "propensities")}
    for _, one in served:
        nothing = [None] * len(one.pin_id)
        ranked = one.ranked
        values = (
            one.request_id, int(one.user_id[0]), one.timestamp, one.pin_id.tolist(), ranked.slot.tolist() if ranked else nothing,
            ranked.propensity.tolist() if ranked else nothing,
        )  # fmt: skip
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
    kinds = [pa.string(), pa.int64(), pa.int64(), pa.list_(pa.int64()), pa.list_(pa.int16()), pa.list_(pa.float32())]
    pq.write_table(pa.table({name: pa.array(values, kind) for (name, values), kind in zip(columns.items(), kinds, strict=True)}), path)


def what_counts(rows: ExampleRows) -> list[tuple[Any, ...]]:
    """All but where they were shown and the features, which no log knows here."""
    topics = [*rows.topics, ""]
    labels = [tuple(of) for of in rows.labels.tolist()]
    columns: list[list[Any]] = [
        rows.kind.tolist(), rows.ready_time.tolist(), rows.request_id.to_pylist(), rows.user_id.tolist(), rows.pin_id.tolist(),
        [topics[t] for t in rows.topic.tolist()], rows.request_time.tolist(), rows.impression_time.tolist(), labels, rows.slot.tolist(),
        [str(p) for p in rows.propensity],
    ]  # fmt: skip
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize("seed", [*SEEDS, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(20))])
def test_of_histories_with_every_edge(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    settings = Settings(data=tmp_path / "data", partitions=2, allowed_lateness_ms=LATENESS[seed % 3])
    events = history(seed, 300, 2, lateness_ms=settings.allowed_lateness_ms)
    served = serving(decided_of(events, allowed_lateness_ms=settings.allowed_lateness_ms), rng)
    write_file(tmp_path / "served.parquet", served)
    end = int(events["timestamp"].max()) + 1
    write(settings, Play(events, [*served, *((partition, end) for partition in range(2))]), rng)
    made = backfilled(settings, What(all_kinds=True), tmp_path / "served.parquet")
    compared = 0
    for partition in range(2):
        rows = joined_rows(settings, partition)
        assert what_counts(rows) == (what_counts(of_requests(made[partition])) if partition in made else [])
        compared += len(rows)
    assert compared > (25 if seed in SEEDS else 0)


def test_of_a_simulation_with_the_features_too(simulated: Simulated, tmp_path: Path) -> None:
    """Late, doubled, bad and disordered records; SERVED has the features of each request's time, and the backfill is told that time."""
    joining, other = simulated.copy(tmp_path / "joining"), simulated.copy(tmp_path / "other")
    serve_simulated(settings_of(joining), simulated.directory)
    made = json.loads(tidemark("examples", "run", "--json", data=joining).out)
    tidemark("backfill", "--kinds", "all", "--served", simulated.directory / "served.parquet", data=other)
    total, early = 0, 0
    for partition in range(PARTITIONS):
        rows = joined_rows(settings_of(joining), partition)
        # The simulation's file doesn't tell what was explored.
        rows = replace(rows, explored=np.zeros(len(rows), np.bool_))
        driven = Driven(settings_of(other), partition)
        history = of_requests(driven.rows())
        driven.close()
        # What arrived before it happened, and before it was served, became known when that was.
        late = (history.kind != Kind.FINAL) & (history.ready_time < history.request_time)
        early += int(late.sum())
        history = replace(history, ready_time=np.where(late, history.request_time, history.ready_time))
        assert sorted(zip(*values_of(rows).values(), strict=True)) == sorted(zip(*values_of(history).values(), strict=True))
        total += len(rows)
    assert total > made["examples"] + made["finals"] > 3_000
    assert early < 0.01 * total


def values(rows: ExampleRows, *without: str) -> list[tuple[Any, ...]]:
    return sorted(zip(*(column for name, column in values_of(rows).items() if name not in without), strict=True))


def test_the_join_goes_on_where_a_backfill_has_ended(simulated: Simulated, tmp_path: Path) -> None:
    """What was served from the middle of a simulation on: the backfill makes the rest, and together they make what the join of all makes."""
    whole, data, later = simulated.copy(tmp_path / "whole"), simulated.copy(tmp_path / "data"), tmp_path / "later"
    serve_simulated(settings_of(whole), simulated.directory)
    tidemark("examples", "run", data=whole)
    table = pq.read_table(simulated.directory / "served.parquet")
    begun = int(np.median(table.column("request_time").to_numpy()))
    later.mkdir()
    pq.write_table(table.filter(pa.array(table.column("request_time").to_numpy() >= begun)), later / "served.parquet")
    serve_simulated(settings_of(data), later)

    options = ("--kinds", "all", "--served", simulated.directory / "served.parquet")
    told = tidemark("backfill", *options, "--json", data=data).json()
    made = tidemark("examples", "run", "--json", data=data).json()
    assert told["rows"] > 1_000 < made["examples"]
    clamped = 0
    with open_log(settings_of(data), EXAMPLES, read_only=True) as log:
        for partition in range(PARTITIONS):
            driven = Driven(settings_of(data), partition)
            rows, wanted = driven.rows(), joined_rows(settings_of(whole), partition)
            driven.close()
            assert (np.diff(rows.ready_time) >= 0).all()
            rows = of_requests(rows.take(rows.kind != Kind.HEARTBEAT))
            rows, wanted = (replace(one, explored=np.zeros(len(one), np.bool_)) for one in (rows, wanted))
            assert values(rows, "ready_time") == values(wanted, "ready_time")
            # Nothing is known earlier than it was.
            assert set(rows.ready_time.tolist()) - set(wanted.ready_time.tolist()) <= {log.ledger_entry(until_key(partition)).total}
            clamped += len(set(wanted.ready_time.tolist()) - set(rows.ready_time.tolist()))
        assert clamped > 0
        merged = Merged(log, [0] * PARTITIONS, 500)
        seen = 0
        while (batch := merged.next(ended=True)) is not None:
            seen += len(batch)
        assert seen == made["examples"] + made["positives"] + made["finals"] + told["rows"]
        ends = log.end_positions()
        again = Once(log, 0, ends[0])
        assert again.read() is None
        assert again._applied == {-1: log.ledger_entry(rows_key(0)).done - 1, 0: ends[0] - log.ledger_entry(rows_key(0)).done - 1}

    assert "0 added" in tidemark("backfill", *options, data=data).out
    assert "nothing new to join" in tidemark("examples", "run", data=data).out
    assert "another run has made" in refused("backfill", data=data)
    assert "another run has made" in refused("backfill", data=whole)


def test_a_backfill_that_was_stopped_is_ended_first(simulated: Simulated, tmp_path: Path) -> None:
    data = simulated.copy(tmp_path / "data")
    settings = settings_of(data)
    serve_simulated(settings, simulated.directory)
    target = ExamplesLog(settings, {})
    nothing = [0] * PARTITIONS
    target.begin({ACTIONS: nothing, SERVED: nothing}, [7, *nothing[1:]], [5, *nothing[1:]])
    target.close()
    assert "a backfill was stopped after 0 of 7 records; run the same `tidemark backfill` again" in refused("examples", "run", data=data)
