"""The benchmarks that start and kill `tidemark run`: they print what the contract says, and give no figure where a state is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _digests, _measure, _stream
from benchmarks._process import Run
from benchmarks._site import Site
from tests import processes


def lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def printed(benchmark: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", "--json", "--quick", "--repeats", "1", "--seed", "3", *arguments]
    result: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True, text=True, cwd=processes.ROOT).stdout)
    assert list(result) == ["benchmark", "results", "ratios", "machine", "seed"]
    assert (result["benchmark"], result["seed"]) == (benchmark, 3)
    for ratio in result["ratios"].values():
        assert 0 < ratio["min"] <= ratio["median"] <= ratio["max"]
    return result


@pytest.mark.soak
def test_recovery_prints_its_contract() -> None:
    result = printed("recovery", "--sizes", "4000,20000")
    assert {"largest_vs_smallest", "largest_vs_smallest_to_feature", "largest_vs_empty"} <= set(result["ratios"])
    empty, smallest, largest = result["results"]["sizes"]
    assert [empty["events"], smallest["events"], largest["events"]] == [0, 4_000, 20_000]
    assert result["results"]["start_up_s"] == empty["first_commit_s"]
    assert empty["replayed"] == [0]
    # A state that was never closed: all of it lies after the last saved working set.
    assert smallest["replayed"][0] >= 4_000
    assert largest["replayed"][0] >= 20_000
    for of in result["results"]["sizes"]:
        assert 0 < of["first_commit_s"]["median"] <= of["first_feature_s"]["median"] <= of["all_committed_s"]["median"]
    assert (result["results"]["kills"], result["results"]["mismatches"]) == (4, 0)


@pytest.mark.soak
def test_replay_prints_its_contract() -> None:
    result = printed("replay", "--events", "20000")
    of = result["results"]
    assert {"from_zero_vs_flow", "from_zero_vs_from_checkpoint", "from_zero_vs_from_checkpoint_beyond_start", "events_vs_replayed"} == set(
        result["ratios"]
    )
    assert of["events"] > 19_000
    assert 0 < of["replayed"][0] < of["events"] * 0.11
    assert of["mismatches"] == 0


@pytest.mark.soak
def test_checkpoint_prints_its_contract() -> None:
    result = printed("checkpoint")
    of = result["results"]
    assert {"pause_beside_vs_calm", "from_zero_vs_restore", "events_vs_replayed"} == set(result["ratios"])
    assert of["whole"]["pieces"] > 0
    assert of["beside"][0]["written_mb"] > 0
    assert 0 < of["replayed"][0] < of["events"]
    assert of["mismatches"] == 0


@pytest.mark.soak
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="scaling is measured on two cores")
def test_scaling_prints_its_contract() -> None:
    result = printed("scaling", "--events", "20000")
    wanted = {f"{name}{total}" for name in ("two_vs_one", "two_cores_vs_one") for total in ("", "_total")}
    assert wanted | {"machine_two_vs_one"} <= set(result["ratios"])
    of = result["results"]
    assert [(of[name]["workers"], of[name]["cores"]) for name in ("one", "two", "one_core")] == [(1, 2), (2, 2), (1, 1)]
    assert of["one"]["events"] == of["two"]["events"] > 19_000
    assert of["tasks_compared"] == 32


def test_a_state_that_differs_is_found() -> None:
    with pytest.raises(_measure.CheckFailedError, match="a and b: the state of actions-1 differs"):
        _digests.check_equal({"actions-0": "x", "actions-1": "y"}, {"actions-0": "x", "actions-1": "z"}, "a and b")


def test_a_run_is_killed_with_its_workers_and_one_that_fails_says_why(tmp_path: Path) -> None:
    stream = _stream.make(tmp_path, 6_000, 50, seed=1, partitions=2)
    site = Site(replace(stream, data=tmp_path / "site"), stream)
    site.feed(3_000)
    site.start()
    site.await_all()
    held = site.committed().sum()
    assert held == site.fed() > 2_900
    assert site._run is not None
    both = site._run.processes()
    assert len(both) == 2
    site.kill_at_work(500, 100)
    assert [process for process in both if lives(process)] == []
    assert site.committed().sum() >= held + 500
    assert sum(site.to_replay()) == site.committed().sum()
    with pytest.raises(_measure.CheckFailedError, match="partitions"):
        Run(replace(site.settings, partitions=3)).finish()
    site.close()
