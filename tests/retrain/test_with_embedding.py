"""A base that takes users' embeddings: trained from scratch on a version, which it and its successors name, learn on with, and are compared by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks._examples import START
from feature_repo.errors import NoEmbeddingError
from flows.errors import FingerprintError, SettingsError
from flows.settings import DAY_MS
from online_model.model.embedding_input import TakenEmbedding
from online_model.registry.registry import Registry
from online_model.retrain.command import retrain_command
from online_model.retrain.model_file import read_model_file
from tests.model.embedding_runs import D, Runs
from tests.retrain.store import AGAIN, SCRATCH, data, files_of, run


def test_a_base_and_the_next_take_the_version_that_was_named(tmp_path: Path) -> None:
    settings = data(tmp_path, n=600)
    runs = Runs(settings)
    rng = np.random.default_rng(1)
    for day in range(0, 8, 2):
        runs.run(START + day * DAY_MS, rng.choice(60, 40, replace=False).tolist())
    with pytest.raises(NoEmbeddingError, match=r"no table of user embeddings of version 2 .*`tidemark embed infer` makes one"):
        run(settings, replace(SCRATCH, user_embedding=2), 8)
    assert run(settings, SCRATCH, 8).base == 1
    assert run(settings, replace(SCRATCH, user_embedding=1), 8).base == 2
    registry = Registry.of(settings)
    plain, taking = (registry.base(number).manifest.about for number in (1, 2))
    assert TakenEmbedding.of(plain.config) is None
    assert "user_embedding" not in plain.config["model"]
    assert TakenEmbedding.of(taking.config) == runs.taken
    assert taking.config["model"]["user_embedding"] == D
    # The gate has compared it with the one that takes none, each with what it takes.
    assert taking.metrics["gate"]["comparison"]
    first = registry.base(2).tensors("dense.safetensors")["user_embedding.weight"]
    runs.run(START + 9 * DAY_MS, list(range(60)))
    third = run(settings, AGAIN, 12)
    assert (third.base, third.parent) == (3, 2)
    assert TakenEmbedding.of(registry.base(3).manifest.about.config) == runs.taken
    assert (registry.base(3).tensors("dense.safetensors")["user_embedding.weight"] != first).all(), "it learns from them"
    assert registry.current().start.delta > 0, "it has caught up, with its users' vectors"


def test_the_same_vectors_make_the_same_bytes_and_others_make_others(tmp_path: Path) -> None:
    made = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        settings = data(tmp_path / name, n=600)
        runs = Runs(settings, seed)
        runs.run(START, list(range(60)))
        made.append(files_of(settings, run(settings, replace(SCRATCH, user_embedding=1), 8).base or 0))
    assert made[0] == made[1]
    assert made[0]["dense.safetensors"] != made[2]["dense.safetensors"]
    # What lies there now is of another embedding than the base was trained on.
    for path in (settings.data / "embeddings" / "1" / "users").iterdir():
        path.rename(tmp_path / f"was-{path.name}")
    again = Runs(settings, 2, digest="e" * 32)
    again.run(START, list(range(60)))
    with pytest.raises(FingerprintError, match="of another embedding than the one that the ranker was trained on"):
        run(settings, AGAIN, 12)


def test_the_width_is_the_versions(tmp_path: Path) -> None:
    file = tmp_path / "model.toml"
    file.write_text("[model]\nuser_embedding = 4\n")
    with pytest.raises(SettingsError, match=r"\[model\] has no 'user_embedding'"):
        read_model_file(file)
    refused = CliRunner().invoke(retrain_command, ["--once", "--user-embedding", "1"])
    assert refused.exit_code == 2
    assert "--from, --model and --user-embedding are of a training from scratch" in refused.output
