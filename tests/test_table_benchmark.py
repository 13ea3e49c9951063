"""The table's benchmark prints what the contract says, and times nothing that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import table
from benchmarks._measure import CheckFailedError
from benchmarks._table_torch import TorchTable
from online_model.table import EmbeddingTable, Spill


def test_it_prints_its_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "SIZES", (256, 1_024))
    ended = CliRunner().invoke(table.main, ["--json", "--ids", "2000", "--batches", "2", "--repeats", "2", "--seed", "3"])
    assert ended.exit_code == 0, ended.output
    result = json.loads(ended.stdout)
    assert list(result) == ["benchmark", "results", "ratios", "machine", "seed"]
    assert (result["benchmark"], result["seed"]) == ("table", 3)
    cases = result["results"]["cases"]
    assert [(case["dimension"], case["batch"]) for case in cases] == [(32, 256), (32, 1_024), (64, 256), (64, 1_024)]
    for suffix, key in (("", "ratios"), ("_by_cpu_time", "cpu_ratios")):
        least = min(case[key][name]["median"] for case in cases for name in table.OPTIMISERS)
        assert result["ratios"][f"table_vs_sparse_embedding{suffix}"]["median"] == least > 0
    for case in cases:
        assert 0 < case["distinct_in_a_batch"] < case["batch"]
        assert set(case["ms"]) == {"tidemark", "tidemark_spilled", "sparse_adam", "adagrad"}
    assert result["results"]["values_compared"] > 10_000


def slower(right: Any) -> Any:
    return lambda self, rows, dimension, optimiser, rate: right(self, rows, dimension, optimiser, rate / 2)


@pytest.mark.parametrize(
    ("of", "name", "wrong", "message"),
    [
        (EmbeddingTable, "apply", lambda right: lambda self, rows, gradients, rate: right(self, rows, -gradients, rate), "not those of"),
        (EmbeddingTable, "admit", lambda right: lambda self, ids, times: right(self, ids[::-1], times)[::-1].copy(), "other IDs"),
        (TorchTable, "step", lambda right: lambda self, *given: right(self, *given) + 1, "other vectors than it holds"),
        (TorchTable, "__init__", slower, "is not the one that is meant"),
    ],
)
def test_a_wrong_result_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: type, name: str, wrong: Callable[[Any], Any], message: str
) -> None:
    monkeypatch.setattr(of, name, wrong(getattr(of, name)))
    with pytest.raises(CheckFailedError, match=message):
        table.check_against_oracle(1, Spill(tmp_path / "cold", 20))
