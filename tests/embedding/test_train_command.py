"""`tidemark embed train`: from a log to a version; stopped and gone on with; what it refuses, in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flows import stopping
from flows.settings import Settings
from online_model.embedding import train_command, version
from online_model.embedding.actions import LogPrefix, read_actions
from online_model.embedding.begun import Begun
from online_model.embedding.config import EmbeddingConfig
from online_model.embedding.training import Training
from tests import driving
from tests.processes import front_door
from tests.strategies import random_stream

MODEL = """[embedding]
length = 16
vector_dim = 8
dim = 16
heads = 2
hidden = 16
head_hidden = 16
output_dim = 8
random_negatives = 32
batch_users = 8
epochs = 2
checkpoint_every = 2
positives = ["save", "closeup"]
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(data=tmp_path / "data", partitions=2)
    grow(made, 0)
    (tmp_path / "model.toml").write_text(MODEL)
    return made


def grow(settings: Settings, seed: int) -> None:
    events = random_stream(seed, 600, partitions=2, users=40, pins=60, days=20)
    driving.write(settings, events, np.random.default_rng(seed))


def train(settings: Settings, monkeypatch: pytest.MonkeyPatch, *options: object, code: int = 0) -> Any:
    model = settings.data.parent / "model.toml"
    arguments = ("embed", "train", "--data", settings.data, "--model", model, "--threads", 1, "--json", *options)
    ended = front_door(*arguments, monkeypatch=monkeypatch, code=code, partitions=2)
    return json.loads(ended.out) if code == 0 else ended.err


def test_a_log_becomes_a_version(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    said = train(settings, monkeypatch)
    sequences = read_actions(settings)
    assert (said["version"], said["users_given"]) == (1, len(sequences))
    assert said["users"] > 10
    assert len(said["losses"]) == 2
    manifest = version.read_manifest(Path(said["path"]))
    assert manifest.sequences == sequences.digest()
    assert manifest.vectors_from == "log"
    assert manifest.reflects is not None
    assert sum(manifest.reflects.actions) == 600
    model = version.load(Path(said["path"]))
    assert model.config == EmbeddingConfig.from_dict(manifest.config)
    again = train(settings, monkeypatch)
    assert version.read_manifest(Path(again["path"])).files == manifest.files, "the same log and configuration make the same bytes"
    other = train(settings, monkeypatch, "--seed", 1, "--epochs", 1)
    assert version.read_manifest(Path(other["path"])).files != manifest.files


def test_vectors_of_the_user_are_taken(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = read_actions(settings).pin_ids
    frame = pd.DataFrame({"pin_id": pins, "vector": list(np.random.default_rng(0).normal(size=(len(pins), 5)).astype(np.float32))})
    frame.to_parquet(tmp_path / "pins.parquet")
    said = train(settings, monkeypatch, "--vectors", tmp_path / "pins.parquet")
    model = version.load(Path(said["path"]))
    assert (model.vectors.ids == pins).all()
    assert model.config.vector_dim == 5
    assert version.read_manifest(Path(said["path"])).vectors_from == "file"
    frame.loc[3, "vector"][2] = np.nan  # type: ignore[index]
    frame.to_parquet(tmp_path / "pins.parquet")
    refused = train(settings, monkeypatch, "--vectors", tmp_path / "pins.parquet", code=1)
    assert f"pin {pins[3]} (row 3) has a vector with nulls" in refused
    assert len(refused.splitlines()) == 1
    assert version.versions(settings) == [1]


def test_stopped_it_goes_on_with_the_actions_that_it_began_with(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = version.read_manifest(Path(train(settings, monkeypatch)["path"]))
    step, done = Training.step, []

    def counted(self: Training) -> None:
        done.append(self.progress.batches)
        step(self)

    monkeypatch.setattr(Training, "step", counted)
    with monkeypatch.context() as patch:
        patch.setattr(stopping, "requested", lambda: len(done) >= 3)
        assert "stopped after 3 of" in train(settings, monkeypatch, code=143)
    grow(settings, 1)
    with monkeypatch.context() as patch:
        patch.setattr(train_command, "write", lambda *given, **named: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(settings, monkeypatch)
    made = version.read_manifest(Path(train(settings, monkeypatch)["path"]))
    assert done[:6] == [0, 1, 2, 3, 4, 5]
    assert made.files == whole.files
    assert made.reflects == whole.reflects
    assert not (settings.data / "embeddings" / "training").exists()
    grown = version.read_manifest(Path(train(settings, monkeypatch)["path"]))
    assert grown.sequences != whole.sequences


def test_what_was_begun_otherwise_is_given_up_and_that_is_said(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(stopping, "requested", lambda: True)
        train(settings, monkeypatch, code=143)
    arguments = ("embed", "train", "--data", settings.data, "--model", settings.data.parent / "model.toml", "--epochs", 1, "--json")
    assert "it is given up" in front_door(*arguments, monkeypatch=monkeypatch, partitions=2).err
    assert "given up" not in front_door(*arguments, monkeypatch=monkeypatch, partitions=2).err


def test_a_training_of_more_than_the_log_has_is_begun_anew(settings: Settings) -> None:
    """The log has been restored to before what it had begun with."""
    begun, asked = Begun(settings), {"as_of": None}
    first = begun.prefix(asked)
    grow(settings, 1)
    assert begun.prefix(asked) == first
    now = LogPrefix.now(settings)
    plan = begun.checkpoints.parent / "plan.json"
    plan.write_text(json.dumps({"asked": asked, "reflects": {"actions": [0, now.actions[1] + 1], "corrected_to": list(now.corrected_to)}}))
    assert begun.prefix(asked) == now
    assert json.loads(plan.read_text())["reflects"]["actions"] == list(now.actions)


def test_a_plan_that_is_no_plan_is_begun_anew(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = version.read_manifest(Path(train(settings, monkeypatch)["path"]))
    for content in ("", "[1]"):
        (settings.data / "embeddings" / "training").mkdir()
        (settings.data / "embeddings" / "training" / "plan.json").write_text(content)
        assert version.read_manifest(Path(train(settings, monkeypatch)["path"])).files == whole.files


def test_what_it_refuses(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = Settings(data=tmp_path / "elsewhere", partitions=2)
    assert "there is no log 'actions'" in train(nowhere, monkeypatch, code=1)
    assert "no pin has a vector" in train(settings, monkeypatch, "--as-of", "1970-01-02", code=1)
    for line, message in (
        ("lenght = 3", "there is no setting 'lenght' (did you mean 'length'?)"),
        ('objective = "all_actions"', "there is no objective 'all_actions' (did you mean 'all_action'?)"),
        ("heads = 3", "dim 16 can't be shared by 3 heads"),
        ('positives = ["saved"]', "there is no action 'saved' (did you mean 'save'?)"),
        ("epochs = 0", "epochs must be a whole number of at least 1, not 0"),
        ("epochs = 100001", "epochs must be at most 100000, not 100001"),
        ("seed = 99999999999999999999", "seed must be at most 9223372036854775807"),
        ("temperature = 0.001", "temperature 0.001 is below least_temperature 0.01"),
        ('features = ["pins"]', "there is no feature 'pins' (did you mean 'pin'?)"),
    ):
        key = line.split(" ")[0]
        kept = [one for one in MODEL.splitlines() if not one.startswith(f"{key} ")]
        (tmp_path / "model.toml").write_text("\n".join([*kept, line]))
        refused = train(settings, monkeypatch, code=2)
        assert message in refused
        assert len(refused.splitlines()) == 1
    for option, value in (("--seed", 99999999999999999999), ("--threads", 100_000), ("--epochs", 100_001)):
        assert f"Invalid value for '{option}': {value} is not in the range" in train(settings, monkeypatch, option, value, code=2)
    (tmp_path / "model.toml").write_text("[model]\ndim = 3\n")
    assert "there is no table [model]; there is [embedding]" in train(settings, monkeypatch, code=2)
    assert version.versions(settings) == []
