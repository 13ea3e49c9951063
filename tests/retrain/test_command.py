"""`tidemark retrain` as it is typed: exit codes, what is said, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from benchmarks._examples import START
from flows.errors import TidemarkError
from flows.settings import DAY_MS, Settings
from online_model.registry.registry import Registry
from online_model.retrain.command import retrain_command
from tests.retrain.store import data
from tidemark import cli

WithBase = Callable[..., Settings]
SHORT = ["--hold-back", "12h", "--calibrate", "12h", "--gate", "click/auc", "--tolerance", "0.3"]


@pytest.fixture(autouse=True)
def signals_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.stopping.listen", lambda: None)


def typed(settings: Settings, *words: str) -> Result:
    return CliRunner(env={"TIDEMARK_PARTITIONS": str(settings.partitions)}).invoke(
        cli, ["--data", str(settings.data), "retrain", *words], standalone_mode=False
    )


def as_of(day: float) -> list[str]:
    return ["--as-of", str(START + round(day * DAY_MS))]


def test_from_scratch_and_once_more(tmp_path: Path) -> None:
    settings = data(tmp_path / "data", n=1_000)
    model = tmp_path / "model.toml"
    model.write_text("[model]\ndim = 4\nexperts = 2\nsequence_length = 5\n\n[table]\nadmit_after = 1\n")
    told = typed(settings, "--from-scratch", "--model", str(model), *as_of(12), "--hold-back", "1d", "--json")
    assert told.exit_code == 0, told.output
    first = json.loads(told.stdout)
    assert first["base"] == 1
    assert Registry.of(settings).bases.open(1).manifest.about.config["model"]["dim"] == 4
    told = typed(settings, "--once", *as_of(14), *SHORT)
    assert told.exit_code == 0, told.output
    assert "base 2 is served from now on" in told.stdout
    assert "gate passed: click auc" in told.stdout


def test_a_span_without_labels_to_calibrate_by_is_told(tmp_path: Path) -> None:
    settings = data(tmp_path / "data", n=1_000)
    # The last example becomes known long before the first of these spans begins.
    for day, told in ((40, True), (5, False)):
        said = typed(settings, "--from-scratch", *as_of(day), "--hold-back", "1d", "--dry-run", "--json")
        assert said.exit_code == 0, said.output
        assert ("probabilities are not calibrated" in json.loads(said.stdout)["note"]) == told


def test_a_dry_run_changes_nothing(with_base: WithBase) -> None:
    settings = with_base()
    before = sorted((p, p.stat().st_mtime_ns) for p in settings.data.rglob("*") if "logs" not in p.parts)
    told = typed(settings, "--once", *as_of(12), *SHORT, "--dry-run")
    assert told.exit_code == 0, told.output
    assert "would begin from base 1" in told.stdout
    assert json.loads(typed(settings, "--once", *as_of(12), *SHORT, "--dry-run", "--json").stdout)["records"]["learned"] > 1_000
    assert sorted((p, p.stat().st_mtime_ns) for p in settings.data.rglob("*") if "logs" not in p.parts) == before


def test_a_replay_retrains_where_production_would_have(with_base: WithBase) -> None:
    settings, other = with_base(), with_base("other")
    words = ["--cron", "30 6 * * *", "--json", "--hold-back", "12h", "--calibrate", "12h", "--gate", "click/auc", "--tolerance", "0.9"]
    told = typed(settings, "--schedule", "--replay", str(START + 9 * DAY_MS), str(START + 11 * DAY_MS), *words)
    assert told.exit_code == 0, told.output
    outcomes: list[dict[str, Any]] = [json.loads(line) for line in told.stdout.splitlines()]
    assert [o["base"] for o in outcomes] == [2, 3]
    for outcome in outcomes:
        at = typed(other, "--once", "--as-of", str(outcome["as_of"]), "--json", *words[3:])
        assert json.loads(at.stdout)["base"] == outcome["base"]
    for base in (2, 3):
        first, second = (Registry.of(one).bases.open(base).manifest for one in (settings, other))
        assert first == second


def test_exit_codes(with_base: WithBase) -> None:
    nothing = typed(with_base(), "--once", *as_of(7))
    assert isinstance(nothing.exception, TidemarkError)
    assert nothing.exception.exit_code == 3
    # A head of which half a day shows no positive.
    refused = typed(with_base("b"), "--once", *as_of(12), "--hold-back", "12h", "--calibrate", "12h", "--gate", "revisit/auc")
    assert refused.return_value == 1 or refused.exit_code == 1
    assert "gate refused: it can't be told" in refused.stderr
    assert "base 1 stays" in refused.stderr


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--once", "--schedule"],
        ["--once", "--from", "2026-01-01"],
        ["--once", "--metrics-port", "0"],
        ["--schedule", "--dry-run"],
        ["--schedule", "--replay", "2026-01-02", "2026-01-01"],
        ["--once", "--gate", "save"],
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(tmp_path: Path, words: list[str]) -> None:
    told = typed(Settings(data=tmp_path / "none", partitions=2), *words)
    assert isinstance(told.exception, click.UsageError)


def test_a_model_file_with_a_wrong_name_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "model.toml"
    for text, said in (
        ("[model]\ndimm = 3\n", "did you mean 'dim'"),
        ("[modell]\n", "did you mean 'model'"),
        ("[training]\nseed = 'x'\n", "seed"),
    ):
        model.write_text(text)
        told = typed(Settings(data=tmp_path, partitions=2), "--from-scratch", "--model", str(model))
        assert said in str(told.exception)


def test_help_names_an_example() -> None:
    assert "Example" in (retrain_command.epilog or "")
