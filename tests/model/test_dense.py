"""Weights come back as they were; equal ones are equal bytes, and damaged or foreign ones are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flows.errors import CorruptionError
from online_model.model.config import Encoder
from online_model.model.dense import load_dense, save_dense
from online_model.model.ranker import Ranker
from tests.model.batches import config


@pytest.mark.parametrize("encoder", [one.value for one in Encoder])
def test_weights_come_back(encoder: str, tmp_path: Path) -> None:
    of = config(encoder=encoder, seed=5)
    save_dense(Ranker(of), tmp_path / "a")
    back = load_dense(config(encoder=encoder, seed=6), tmp_path / "a")
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in Ranker(of).state_dict().items())
    save_dense(back, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_damage_and_other_models_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "dense.safetensors"
    save_dense(Ranker(config()), path)
    with pytest.raises(CorruptionError, match="is not as its configuration says"):
        load_dense(config(encoder="gru"), path)
    with pytest.raises(CorruptionError, match="is not as its configuration says"):
        load_dense(config(expert_hidden=9), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptionError, match="can't be read"):
        load_dense(config(), path)
    with pytest.raises(CorruptionError, match="can't be read"):
        load_dense(config(), tmp_path / "nothing")
    ranker = Ranker(config())
    with torch.no_grad():
        ranker.heads.bias[0] = float("nan")
    save_dense(ranker, path)
    with pytest.raises(CorruptionError, match="no finite numbers"):
        load_dense(config(), path)
