"""The benchmark of embeddings prints what the contract says, and times nothing that is wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from benchmarks import embedding
from benchmarks._measure import CheckFailedError
from online_model.embedding.config import EmbeddingConfig
from online_model.embedding.embedding_model import EmbeddingModel


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks as ever, of a size that costs nothing."""

    def config(**given: int) -> EmbeddingConfig:
        return replace(
            EmbeddingConfig(**given),
            length=32,
            vector_dim=8,
            dim=16,
            hidden=16,
            head_hidden=8,
            output_dim=8,
            random_negatives=32,
            batch_users=4,
        )  # type: ignore[arg-type]

    monkeypatch.setattr(embedding, "EmbeddingConfig", config)


def test_it_prints_its_contract() -> None:
    threads = torch.get_num_threads()
    ended = CliRunner().invoke(embedding.main, ["--json", "--batches", "1", "--repeats", "2", "--seed", "3"])
    assert ended.exit_code == 0, ended.output
    assert torch.get_num_threads() == threads
    result = json.loads(ended.stdout)
    assert list(result) == ["benchmark", "results", "ratios", "machine", "seed"]
    assert (result["benchmark"], result["seed"], result["results"]["threads"]) == ("embedding", 3, 1)
    for name in ("actions_per_s", "bare_actions_per_s", "users_inferred_per_s"):
        for of in ("", "cpu_"):
            figure = result["results"][of + name]
            assert 0 < figure["min"] <= figure["median"] <= figure["max"]
    assert set(result["ratios"]) == {"train_vs_bare_loop", "train_vs_bare_loop_by_cpu_time"}


def test_what_is_wrong_is_never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = embedding.Subject(1, 1, 4)
    subject.check()
    loss = embedding.BareLoop.loss
    with monkeypatch.context() as patch:
        patch.setattr(embedding.BareLoop, "loss", lambda *given: loss(*given) * 1.01)
        with pytest.raises(CheckFailedError, match="that of the bare loop"):
            subject.check()
    users = EmbeddingModel.users
    monkeypatch.setattr(EmbeddingModel, "users", lambda self, sequences: users(self, sequences) + len(sequences))
    with pytest.raises(CheckFailedError, match="another alone than among others"):
        subject.check()
