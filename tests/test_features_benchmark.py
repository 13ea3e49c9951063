"""benchmarks.features runs, prints what the contract says, and refuses to time what is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from benchmarks import _feature_history, _feature_reads, features
from benchmarks._feature_history import COUNTERS, _compared
from benchmarks._feature_stores import NEED_REDIS, NOTES
from benchmarks._measure import CheckFailedError
from benchmarks.peers import _environments


@pytest.mark.slow
@pytest.mark.redis
def test_reads_are_equal_and_timed(tmp_path: Path) -> None:
    results, ratios = _feature_reads.measure(events=10_000, users=80, reads=50, repeats=1, seed=3, scratch=tmp_path)
    assert set(results["stores"]) == set(NOTES)
    assert results["values_compared"] > 0
    assert {"p99_sqlite_vs_ours", "p99_ours_vs_floor", "p50_sqlite_vs_ours_by_cpu_time"} <= set(ratios)
    assert all(of["rows_per_s"] > 0 for name, of in results["stores"].items() if name in ("feast_sqlite", "feast_redis", "redis_reader"))


@pytest.mark.soak
def test_without_redis_and_the_environment_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_feature_reads.shutil, "which", lambda name: None)
    monkeypatch.setattr(_environments, "ROOT", tmp_path)
    arguments = ["--json", "--events", "20000", "--reads", "50", "--log", "10000", "--rows", "100", "--repeats", "1"]
    ended = CliRunner().invoke(features.main, arguments)
    assert ended.exit_code == 0, ended.stderr
    printed = json.loads(ended.stdout)
    assert set(printed) == {"benchmark", "results", "ratios", "machine", "seed"}
    assert set(printed["results"]["stores"]["stores"]) == set(NOTES) - set(NEED_REDIS)
    assert printed["results"]["stores"]["not_measured"] == dict.fromkeys(NEED_REDIS, "redis-server is not installed")
    history = printed["results"]["history"]
    assert set(history["stores"]) == {"tidemark", "tidemark_sequences"}
    assert all("--install" in reason for reason in history["not_measured"].values())


@pytest.mark.soak
def test_a_training_set_is_what_feast_joins_from_counter_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # The file store needs nothing that the project doesn't have.
    monkeypatch.setattr(_environments, "python", lambda name: Path(sys.executable))
    monkeypatch.setattr(_feature_history, "STORES", {"feast_file": "dask"})
    results, ratios = _feature_history.measure(events=10_000, rows=300, repeats=1, seed=3, scratch=tmp_path)
    assert (results["training_rows"], results["not_measured"]) == (300, {})
    assert results["stores"]["feast_file"]["rows_doubled"] == 0
    assert {"pit_vs_feast_file", "pit_memory_vs_feast_file"} <= set(ratios)


def frame(rows: list[int], value: int | None) -> pa.Table:
    return pa.table({"row": rows} | {name: pa.array([value] * len(rows), pa.int64()) for name in COUNTERS})


def test_rows_that_a_store_leaves_out_or_doubles_are_counted_and_wrong_ones_end_it() -> None:
    ours = frame([0, 1, 2, 3], 7)
    assert _compared("x", frame([3, 1, 0, 2], 7), ours) == {"rows_left_out": 0, "rows_doubled": 0}
    assert _compared("x", frame([3, 3, 1], 7), ours) == {"rows_left_out": 2, "rows_doubled": 1}
    for wrong in (8, None):
        with pytest.raises(CheckFailedError, match="x: revisits_impression_all_7d_count of row 2"):
            _compared("x", frame([2], wrong), ours)


def test_what_a_store_that_fails_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_environments, "python", lambda name: Path(sys.executable))
    told = _feature_history._run("dask", tmp_path / "none", tmp_path / "none", COUNTERS, "int64", tmp_path / "out", tmp_path)
    assert isinstance(told, str)
    assert told.startswith("no result")
    monkeypatch.setattr(_feature_history, "_LIMIT_S", 0.01)
    assert _feature_history._run("dask", tmp_path / "none", tmp_path / "none", COUNTERS, "int64", tmp_path / "out", tmp_path) == (
        "no result in 0.01 s"
    )
