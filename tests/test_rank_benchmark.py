"""The benchmark of ranking runs, prints what the contract says, and refuses to time wrong scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import rank
from benchmarks._measure import CheckFailedError
from flows.settings import Settings
from tests.serving.conftest import settings as settings
from tests.serving.conftest import site as site
from tests.serving.http import running


@pytest.mark.slow
def test_it_prints_its_contract(tmp_path: Path) -> None:
    options = ["--json", "--events", "20000", "--users", "300", "--requests", "8", "--repeats", "2", "--seed", "5"]
    threads = torch.get_num_threads()
    done = CliRunner().invoke(rank.main, options)
    torch.set_num_threads(threads)
    assert done.exit_code == 0, done.output
    result = json.loads(done.output)
    assert list(result) == ["benchmark", "results", "ratios", "machine", "seed"]
    assert (result["benchmark"], result["seed"], result["results"]["rows_kept"]) == ("rank", 5, 2 * (8 + 5 + 5 + 5))
    assert set(result["ratios"]) == {"request_vs_model_mean", "request_vs_model_transact_v1_1"}
    for of in result["results"]["encoders"].values():
        assert set(of["shares"]) == {*rank.PARTS, "http"}
        assert sum(share["median"] for share in of["shares"].values()) == pytest.approx(1, abs=0.2)
        assert 0 < of["p50_ms"]["median"] <= of["p99_ms"]["median"]


def test_wrong_scores_are_never_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"user": np.arange(5), "pin": np.arange(9)}
    bases = [rank.publish(settings, "mean", known, seed) for seed in (1, 2)]
    registry = rank.Registry.of(settings)
    registry.switch(registry.start_for(bases[0], 0), 0, "")
    threads = torch.get_num_threads()
    with running(settings) as made:
        client = rank.Client(made.client.port)
        client.await_base(1)
        client.rank(b'{"user": 3, "surface": "homefeed", "candidates": [1, 2, 77]}')
        with pytest.raises(CheckFailedError, match="answered with 422"):
            client.rank(b"{}")
        client.close()
    assert rank.check(settings, bases) == 1
    # Another's scores under its number.
    made_of = rank.Model.of
    monkeypatch.setattr(rank.Model, "of", lambda dense, served: made_of(rank.Dense.of(bases[1]), served))
    with pytest.raises(CheckFailedError, match="are not what base 1 says"):
        rank.check(settings, bases)
    torch.set_num_threads(threads)
