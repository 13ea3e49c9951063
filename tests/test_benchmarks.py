"""The benchmarks run, print what the contract says, and refuse to time what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from benchmarks import _idiomatic, _idiomatic_silent, _kernels, _outcome, _python_loop, _python_loop_sequences, _stream, flow, realdata
from benchmarks._datasets import DATASETS
from benchmarks._differences import compare
from benchmarks._measure import CheckFailedError, ratio, spread
from flows.settings import Settings
from tests import driving
from tests.oracles.decide import decide

DAY = 86_400_000


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    rates = {"late_rate": 0.02, "out_of_order_rate": 0.2, "duplicate_rate": 0.05, "bad_rate": 0.02}
    return _stream.make(tmp_path_factory.mktemp("stream"), events=6_000, users=100, seed=5, rates=rates)


def outcome_of(module: object, stream: Settings, scratch: Path, **options: bool) -> _outcome.Outcome:
    contestant = module.Contestant(stream, scratch)  # type: ignore[attr-defined]
    told = contestant.run(**options)
    assert told["seconds"] > 0
    assert contestant.events > 0
    outcome: _outcome.Outcome = contestant.outcome()
    assert all(len(table) for table in outcome.values())
    return outcome


@pytest.mark.parametrize("baseline", [_idiomatic, _idiomatic_silent, _python_loop])
def test_the_baseline_and_the_kernels_lead_to_the_same(stream: Settings, tmp_path: Path, baseline: object) -> None:
    idiomatic, kernels = (outcome_of(module, stream, tmp_path) for module in (baseline, _kernels))
    _outcome.check_equal(idiomatic, kernels, "both")


def test_a_loop_over_decoded_events_or_of_sequences_alone_leads_to_the_same(stream: Settings, tmp_path: Path) -> None:
    kernels = outcome_of(_kernels, stream, tmp_path)
    _outcome.check_equal(outcome_of(_python_loop, stream, tmp_path, decoded=True), kernels, "both")
    for decoded in (False, True):
        sequences = outcome_of(_python_loop_sequences, stream, tmp_path, decoded=decoded)
        _outcome.check_equal(sequences, {"sequences": kernels["sequences"]}, "both")


@pytest.mark.parametrize("table", ["sequences", "users", "pins", "labels"])
def test_one_wrong_value_is_found(stream: Settings, tmp_path: Path, table: str) -> None:
    right = outcome_of(_kernels, stream, tmp_path)
    wrong = {name: rows.copy() for name, rows in right.items()}
    wrong[table][-1, -1] += 1
    with pytest.raises(CheckFailedError, match=f"a and b: {table} differ"):
        _outcome.check_equal(right, wrong, "a and b")
    with pytest.raises(CheckFailedError, match=f"{table} have"):
        _outcome.check_equal(right, right | {table: right[table][:-1]}, "a and b")


@pytest.mark.parametrize(
    ("baseline", "wrong", "value"),
    [
        (_idiomatic, "_per_key.UserLogic._repeats", lambda self, event: False),
        (_idiomatic, "_per_key.CREDIT_MS", 4 * DAY),
        (_idiomatic, "_per_key.SEQUENCE_LENGTH", 5),
        (_python_loop, "_python_loop.Visitor.forget", lambda self, before: self.saves.clear()),
        (_python_loop, "_python_loop.CREDIT_MS", 4 * DAY),
        (_python_loop, "_python_loop.SEQUENCE_LENGTH", 5),
        (_python_loop, "_python_loop._OTHER", "homefeed"),
    ],
)
def test_a_wrong_baseline_is_found(
    stream: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, baseline: object, wrong: str, value: object
) -> None:
    right = outcome_of(_kernels, stream, tmp_path)
    monkeypatch.setattr(f"benchmarks.{wrong}", value)
    with pytest.raises(CheckFailedError, match="both"):
        _outcome.check_equal(outcome_of(baseline, stream, tmp_path), right, "both")


def test_a_failed_check_ends_with_1_and_prints_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> int:
        raise CheckFailedError("pins differ")

    monkeypatch.setattr(flow, "check_against_oracles", fail)
    ended = CliRunner().invoke(flow.main, ["--json"])
    assert ended.exit_code == 1
    assert ended.stdout == ""
    assert "pins differ" in ended.stderr


def test_spreads_and_ratios() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"median": 2, "min": 1, "max": 3}
    assert ratio([2.0, 9.0, 4.0], [1.0, 3.0, 1.0]) == {"median": 3, "min": 2, "max": 4}


@pytest.mark.slow
def test_the_flow_benchmark_prints_its_contract() -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.flow",
        "--json",
        "--quick",
        "--events",
        "8000",
        "--large",
        "20000",
        "--repeats",
        "1",
        "--seed",
        "3",
    ]
    result = json.loads(subprocess.run(command, capture_output=True, check=True, text=True, cwd=Path(__file__).parent.parent).stdout)
    assert list(result) == ["benchmark", "results", "ratios", "machine", "seed"]
    assert (result["benchmark"], result["seed"]) == ("flow", 3)
    assert {"cores", "memory", "cpu", "python", "versions"} == set(result["machine"])
    for name in (*flow.BASELINES, "large_vs_small"):
        for suffix in ("", "_by_cpu_time"):
            of = result["ratios"][name + suffix]
            assert 0 < of["min"] <= of["median"] <= of["max"]
    for name in flow.NOTES:
        of = result["results"][name]
        assert len(of["seconds"]) == 1
        assert of["events"] > 1_000
        assert of["peak_rss_mb"] >= of["rss_before_mb"] > 0
    assert result["results"]["tidemark"]["state_bytes"] > 0
    assert result["results"]["values_compared"] > 10_000
    sizes = result["results"]["sizes"]
    assert sizes["large"]["users"] == sizes["wide"]["users"] == 10 * sizes["small"]["users"]
    assert sizes["large"]["events"] > 9 * sizes["wide"]["events"] > 9_000
    for name in ("small", "wide", "large"):
        assert sizes[name]["peak_rss_mb"] >= sizes[name]["rss_before_mb"] > 0
    assert sizes["values_compared"] > 10_000
    beside = {f"{piece}, in another thread" for piece in ("decode", "write commit", "sync")}
    assert {"judge", *beside} <= set(result["results"]["tidemark_pieces"])


# Real data ----------------------------------------------------------------------------------------------------------------------------


def retail(rows: list[tuple[int, int, str, int]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["user", "item", "action", "ts"]).assign(category=35)


def test_a_repeated_purchase_is_a_click_on_the_earlier_one_and_a_save() -> None:
    dataset = DATASETS["online_retail"]
    rows = [(1, 7, "purchase", 10), (1, 8, "purchase", 10), (2, 7, "purchase", 11), (1, 7, "cancel", 12), (1, 7, "purchase", 13)]
    prepared = dataset.prepare(retail(rows))
    assert prepared[["row", "user", "item", "action", "ts"]].to_numpy().tolist() == [
        [0, 1, 7, "purchase", 10],
        [1, 1, 8, "purchase", 10],
        [2, 2, 7, "purchase", 11],
        [3, 1, 7, "cancel", 12],
        [4, 1, 7, "repeat", 13],
        [5, 1, 7, "purchase", 13],
    ]
    log = dataset.log(prepared, 1)
    assert log["action"].tolist() == ["save", "save", "save", "hide", "grid_click", "save"]
    assert log["surface"].tolist() == ["related_pins"] * 3 + ["homefeed", "own_profile", "related_pins"]
    assert log["offset"].tolist() == list(range(6))


def test_every_difference_is_counted(stream: Settings, tmp_path: Path) -> None:
    settings = _stream.fresh(stream, tmp_path / "data")
    driving.apply(settings, np.random.default_rng(1))
    decided = decide(_stream.records(settings))
    as_of = int(decided.loc[decided["status"] == "accepted", "event_time"].max()) - 3 * DAY
    exports = driving.exported(settings, as_of, tmp_path / "out")
    right = compare(exports, decided, as_of)
    assert (right.mismatches, right.examples) == (0, [])
    assert right.values > 5_000

    def mismatches(name: str, **columns: pd.Series) -> int:
        return compare(exports | {name: exports[name].assign(**columns)}, decided, as_of).mismatches

    counter = exports["user"]["revisits_click_all_7d_count"].copy()
    counter.iloc[0] += 1
    assert mismatches("user", revisits_click_all_7d_count=counter) == 1
    rate = exports["topic"]["click_rate_7d"].copy()
    rate.iloc[2] = np.nextafter(rate.iloc[2], 1)
    assert mismatches("topic", click_rate_7d=rate) == 1
    assert mismatches("labels", matured=~exports["labels"]["matured"]) == 9 * len(exports["labels"])
    assert compare(exports | {"pin": exports["pin"][1:]}, decided, as_of).mismatches == 24
    lists = exports["user"]["sequence_pin_id"].tolist()
    longest = max(range(len(lists)), key=lambda i: len(lists[i]))
    lists[longest] = np.concatenate([[lists[longest][0] + 1], lists[longest][1:]])
    wrong = compare(exports | {"user": exports["user"].assign(sequence_pin_id=lists)}, decided, as_of)
    assert wrong.mismatches == 1
    assert "sequence of user" in wrong.examples[0]


def test_without_data_it_says_so_and_with_half_of_it_it_fails(tmp_path: Path) -> None:
    skipped = CliRunner().invoke(realdata.main, ["--json"])
    assert skipped.exit_code == 0
    assert "mathoverflow.parquet" in json.loads(skipped.stdout)["skipped"]
    assert "lacks mathoverflow.parquet and online_retail.parquet" in CliRunner().invoke(realdata.main, ["--data-dir", str(tmp_path)]).stderr


@pytest.mark.slow
def test_generated_retail_data_through_the_command_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    n = 1_000
    times = 1_600_000_000_000 + np.sort(rng.integers(0, 40 * DAY, n)) // 60_000 * 60_000
    actions = np.where(rng.random(n) < 0.05, "cancel", "purchase").tolist()
    rows = zip(rng.integers(1, 20, n).tolist(), rng.integers(1, 9, n).tolist(), actions, times.tolist(), strict=True)
    retail(list(rows)).to_parquet(tmp_path / "r.parquet")
    found = realdata.check(DATASETS["online_retail"], tmp_path / "r.parquet", tmp_path, times=2)
    assert (found["mismatches"], found["examples"]) == (0, [])
    assert found["rows"] > n
    assert found["compared_values"] > 10_000
