"""The benchmark of the ranking model prints what the contract says, and times nothing that is wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from benchmarks import ranker
from benchmarks._measure import CheckFailedError
from benchmarks._ranker_plain import PlainLoop
from online_model.model.inputs import Inputs


def test_it_prints_its_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranker, "CANDIDATES", 130)
    threads = torch.get_num_threads()
    options = ["--json", "--encoder", "mean", "--encoder", "transact_v1_1", "--batches", "1", "--repeats", "2", "--seed", "3"]
    ended = CliRunner().invoke(ranker.main, options)
    assert ended.exit_code == 0, ended.output
    assert torch.get_num_threads() == threads
    result = json.loads(ended.stdout)
    assert list(result) == ["benchmark", "results", "ratios", "machine", "seed"]
    assert (result["benchmark"], result["seed"], result["results"]["threads"]) == ("ranker", 3, 1)
    assert list(result["results"]["encoders"]) == ["mean", "transact_v1_1"]
    for of in result["results"]["encoders"].values():
        assert all(0 < figure["min"] <= figure["median"] <= figure["max"] for figure in of.values())
    wanted = {f"retrain_vs_plain_loop_{name}{suffix}" for name in ranker.COMPARED for suffix in ("", "_by_cpu_time")}
    assert set(result["ratios"]) == wanted | {"train_mean_vs_transact_v1_1", "rank_transact_v1_1_vs_mean"}


def test_wrong_logits_are_never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = ranker.Subject("none", 1, 1, 4)
    subject.check()
    scored = ranker.score_rows
    with monkeypatch.context() as patch:
        patch.setattr(ranker, "score_rows", lambda *given: scored(*given) + 0.01)
        with pytest.raises(CheckFailedError, match="not the oracle's"):
            subject.check()
    given = PlainLoop.inputs

    def other(loop: PlainLoop, index: torch.Tensor) -> Inputs:
        inputs = given(loop, index)
        return replace(inputs, user=inputs.user + 1)

    monkeypatch.setattr(PlainLoop, "inputs", other)
    with pytest.raises(CheckFailedError, match="other batches"):
        subject.check()
