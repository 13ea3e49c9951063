"""From actions to a served model and the next one, by the commands of the README alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tidemark import cli


@pytest.mark.slow
def test_simulate_ingest_run_backfill_retrain_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.stopping.listen", lambda: None)
    env = {"TIDEMARK_DATA": str(tmp_path / "data"), "TIDEMARK_PARTITIONS": "2"}

    def tidemark(*words: str) -> Any:
        done = CliRunner(env=env).invoke(cli, [*words, "--json"], standalone_mode=False)
        assert done.exception is None, f"{words}: {done.exception}"
        return json.loads(done.stdout)

    simulated = tmp_path / "simulated"
    tidemark("simulate", "--users", "120", "--pins", "300", "--days", "12", "--events", "12000", "--seed", "3", "--out", str(simulated))
    for file in sorted(simulated.glob("events-*.parquet")):
        tidemark("ingest", str(file))
    tidemark("run")
    made = tidemark("backfill", "--kinds", "all")
    assert made["kinds"]["final"] > 5_000
    short = ("--gate", "click/auc", "--tolerance", "0.5")
    first = tidemark("retrain", "--from-scratch", "--as-of", "2024-01-10", "--hold-back", "1d", *short)
    assert first["base"] == 1
    assert first["metrics"]["training"]["examples_given"] > 3_000
    second = tidemark("retrain", "--once", "--as-of", "2024-01-12T12:00", *short)
    assert (second["base"], second["parent"], second["incumbent"]) == (2, 1, 1)
    assert second["metrics"]["gate"]["comparison"]["differences"]["click"]["auc"]["difference"] is not None
    listed = tidemark("models", "list")
    assert listed["served"] == 2
    assert [row["base"] for row in listed["bases"]] == [1, 2]
    assert all(row["problem"] is None for row in listed["bases"])
    assert tidemark("models", "rollback")["base"] == 1
