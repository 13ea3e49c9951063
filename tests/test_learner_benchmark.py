"""The learner's benchmark prints what the contract says, and times nothing that is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import learner
from benchmarks._measure import CheckFailedError
from online_model.learner.step import Step


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(learner, "ENCODERS", {"mean": 64, "transact_v1_1": 16})
    monkeypatch.setattr(learner, "BEFORE", {"mean": 2, "transact_v1_1": 2})
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_it_prints_its_contract() -> None:
    arguments = ["--json", "--batches", "3", "--repeats", "2", "--rate", "400", "--seconds", "3", "--publish-every", "1"]
    ended = CliRunner().invoke(learner.main, arguments)
    assert ended.exit_code == 0, ended.output
    result = json.loads(ended.stdout)
    assert list(result) == ["benchmark", "results", "ratios", "machine", "seed"]
    for suffix in ("", "_by_cpu_time", "_by_learning_thread"):
        each = [result["ratios"][f"vs_bare_step_{name}{suffix}"]["median"] for name in learner.ENCODERS]
        assert result["ratios"][f"vs_bare_step{suffix}"]["median"] == min(each) > 0
    live = result["results"]["live"]["mean"]
    assert live["examples"] > 0
    assert live["deltas"] > 0
    assert 0 < live["freshness_s"]["p50"] <= live["freshness_s"]["p99"]
    assert live["keep_up"] > 0


def test_wrong_logits_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Step.forward_backward

    def wrong(self: Step, *given: object) -> tuple[np.ndarray, float]:
        logits, loss = right(self, *given)  # type: ignore[arg-type]
        return logits + 0.1, loss

    monkeypatch.setattr(Step, "forward_backward", wrong)
    with pytest.raises(CheckFailedError, match="not the oracle's"):
        learner.Subject(tmp_path, "mean", 2, 1).check()


def test_other_rows_are_found(tmp_path: Path) -> None:
    subject = learner.Subject(tmp_path, "mean", 2, 1)
    subject.check()
    subject.rows = ("other", "rows")
    with pytest.raises(CheckFailedError, match="has changed rows"):
        subject.turn()
