"""A training is a function of examples, start, configuration and seed: stopped anywhere or not, its draft is the same to the byte."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks._examples import examples
from flows import stopping
from flows.errors import CorruptionError, DataDirectoryError, FingerprintError
from flows.examples.rows import ExampleRows
from online_model.model.calibration import Calibrators
from online_model.model.config import Encoder, ModelConfig
from online_model.model.dense import load_dense
from online_model.model.ranker import Ranker
from online_model.registry.bases import Expected
from online_model.registry.manifest import Described
from online_model.registry.registry import Registry
from online_model.training import checkpoint
from online_model.training.config import TrainingConfig
from online_model.training.epoch import Epoch
from online_model.training.errors import CheckpointError, DivergedError, TrainingStoppedError
from online_model.training.examples import TrainingExamples
from online_model.training.optimizer import load_optimizer, save_optimizer
from online_model.training.tables import Tables
from online_model.training.train import Start, Trained, logits_of, train
from tests.training.new_tables import DIM, tables

MODEL = ModelConfig(dim=DIM, sequence_length=6, encoder_hidden=8, cross_rank=8, experts=2, expert_hidden=8)
SETTINGS = TrainingConfig(batch_size=32, checkpoint_every=3, negatives_kept=0.8)
FILES = ["calibrators.json", "dense.safetensors", "optimizer.safetensors", "pin_table.safetensors", "user_table.safetensors"]


def rows(seed: int = 1, n: int = 400) -> ExampleRows:
    return examples(n, users=20, pins=30, actions=6, seed=seed)


def parts(seed: int = 1) -> tuple[TrainingExamples, TrainingExamples]:
    whole = rows(seed)
    return TrainingExamples.of([whole.take(np.arange(300))]), TrainingExamples.of([whole.take(np.arange(300, 400))])


def start(encoder: str = "mean", seed: int = 0) -> Start:
    return Start(Ranker(replace(MODEL, encoder=Encoder(encoder), seed=seed)), tables())


def trained(draft: Path, of: Start | None = None, settings: TrainingConfig = SETTINGS, checkpoints: Path | None = None) -> Trained:
    return train(of or start(), *parts(), settings, draft, checkpoints)


def contents(draft: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(draft.iterdir())}


def stop_after(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    asked = iter([False] * batches)
    monkeypatch.setattr(stopping, "requested", lambda: next(asked, True))


@pytest.mark.parametrize("encoder", [one.value for one in Encoder])
def test_the_same_training_is_the_same_bytes(encoder: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = trained(tmp_path / "a", start(encoder))
    state = torch.get_rng_state()
    trained(tmp_path / "b", start(encoder))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.are_deterministic_algorithms_enabled()
    assert list(contents(tmp_path / "a")) == FILES
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    trained(tmp_path / "c", start(encoder), replace(SETTINGS, seed=1))
    assert contents(tmp_path / "a")["dense.safetensors"] != contents(tmp_path / "c")["dense.safetensors"]
    assert first.metrics["examples"] < first.metrics["examples_given"] == 300
    json.dumps([first.config, asdict(first.build), first.metrics])


@pytest.mark.parametrize("batches", [0, 1, 3, 4, 7])
@pytest.mark.parametrize("encoder", ["mean", "transact_v1_1"])
def test_what_was_stopped_and_goes_on_ends_the_same(encoder: str, batches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(tmp_path / "whole", start(encoder))
    with monkeypatch.context() as patch:
        stop_after(patch, batches)
        with pytest.raises(TrainingStoppedError, match="goes on from there"):
            trained(tmp_path / "part", start(encoder), checkpoints=tmp_path / "kept")
    done = trained(tmp_path / "part", start(encoder), checkpoints=tmp_path / "kept")
    assert contents(tmp_path / "whole") == contents(tmp_path / "part")
    assert (done.metrics, done.config) == (whole.metrics, whole.config)
    assert not list((tmp_path / "kept").iterdir())


def test_a_kill_between_two_checkpoints_loses_what_was_behind_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path / "whole")
    step, killed = Epoch.step, ValueError("killed")

    def until(epoch: Epoch) -> None:
        if epoch.progress.batches == 5:
            raise killed
        step(epoch)

    with monkeypatch.context() as patch:
        patch.setattr(Epoch, "step", until)
        with pytest.raises(ValueError, match="killed"):
            trained(tmp_path / "part", checkpoints=tmp_path / "kept")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["batch-000000003"]
    (tmp_path / "kept" / "draft").mkdir()
    (tmp_path / "kept" / "draft" / "half").write_text("a checkpoint that was killed")
    seen: list[tuple[int, int]] = []
    train(start(), *parts(), SETTINGS, tmp_path / "part", tmp_path / "kept", lambda done, total: seen.append((done, total)))
    assert contents(tmp_path / "whole") == contents(tmp_path / "part")
    assert seen[0][0] == 96
    assert seen[-1][0] == seen[-1][1]


def test_another_training_is_no_continuation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(TrainingStoppedError):
            trained(tmp_path / "a", checkpoints=tmp_path / "kept")
    for other in (
        lambda: trained(tmp_path / "b", settings=replace(SETTINGS, seed=1), checkpoints=tmp_path / "kept"),
        lambda: trained(tmp_path / "b", replace(start(), name="base 3"), checkpoints=tmp_path / "kept"),
        lambda: trained(tmp_path / "b", start(seed=1), checkpoints=tmp_path / "kept"),
        lambda: train(start(), *parts(2), SETTINGS, tmp_path / "b", tmp_path / "kept"),
    ):
        with pytest.raises(CheckpointError, match="of other examples, settings or another start"):
            other()
    trained(tmp_path / "b", settings=replace(SETTINGS, checkpoint_every=5), checkpoints=tmp_path / "kept")


@pytest.mark.parametrize("name", ["dense.safetensors", "optimizer.safetensors", "pin_table.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_refused_before_anything_is_changed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(TrainingStoppedError):
            trained(tmp_path / "a", checkpoints=tmp_path / "kept")
    path = next((tmp_path / "kept").iterdir()) / name
    data = path.read_bytes()
    for damaged in (data[:-3], data[:20] + bytes([data[20] ^ 1]) + data[21:]):
        path.write_bytes(damaged)
        with pytest.raises(CorruptionError, match=r"delete .*kept and train from the beginning"):
            trained(tmp_path / "a", checkpoints=tmp_path / "kept")
    path.unlink()
    with pytest.raises(CorruptionError, match=r"delete .*kept"):
        trained(tmp_path / "a", checkpoints=tmp_path / "kept")


def test_without_a_place_for_checkpoints_a_stop_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(monkeypatch, 2)
    with pytest.raises(TrainingStoppedError, match=r"64 of .* nothing was kept"):
        trained(tmp_path / "a")


def test_the_draft_is_the_model_that_was_trained(tmp_path: Path) -> None:
    of = start()
    trained(tmp_path / "a", of)
    back = load_dense(of.ranker.config, tmp_path / "a" / "dense.safetensors")
    kept = Tables.load(tmp_path / "a")
    held_out = parts()[1]
    logits = logits_of(back, kept, held_out)
    assert np.array_equal(logits, logits_of(of.ranker, of.tables, held_out))
    calibrators = Calibrators.load(tmp_path / "a" / "calibrators.json")
    assert calibrators.to_dict() == Calibrators.fit(of.ranker.config.heads, logits, held_out.labels).to_dict()
    assert calibrators.examples.tolist() == [100] * 5


def test_the_registry_takes_the_draft(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "models", Expected("made-up", "v"))
    of = start()
    with registry.draft() as draft:
        done = trained(draft, of)
        about = Described(done.config, done.feature_fingerprint, "v", {"until": 1}, None, done.build, done.metrics, 1)
        base = registry.publish(draft, about)
    files = registry.base(base.number)
    config = ModelConfig.from_dict(dict(files.manifest.about.config["model"]))
    back = load_dense(config, files.path / "dense.safetensors")
    held_out = parts()[1]
    assert np.array_equal(logits_of(back, Tables.load(files.path), held_out), logits_of(of.ranker, of.tables, held_out))


def test_the_next_training_goes_on_with_the_optimiser_of_the_last(tmp_path: Path) -> None:
    trained(tmp_path / "first")
    drafts = {}
    for name, optimizer in (("with", tmp_path / "first" / "optimizer.safetensors"), ("without", None)):
        of = load_dense(start().ranker.config, tmp_path / "first" / "dense.safetensors")
        begin = Start(of, Tables.load(tmp_path / "first"), "base 1", optimizer)
        train(begin, *parts(2), SETTINGS, tmp_path / name)
        drafts[name] = contents(tmp_path / name)
    assert all(drafts["with"][name] != drafts["without"][name] for name in FILES)

    epoch, again = (Epoch(start().ranker, tables(), parts()[0], SETTINGS) for _ in range(2))
    epoch.step()
    save_optimizer(epoch.optimizer, tmp_path / "kept")
    load_optimizer(again.optimizer, tmp_path / "kept")
    save_optimizer(again.optimizer, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "kept").read_bytes()
    with pytest.raises(CorruptionError, match="of other weights"):
        load_optimizer(Epoch(start("gru").ranker, tables(), parts()[0], SETTINGS).optimizer, tmp_path / "kept")
    (tmp_path / "kept").write_bytes(b"nothing")
    with pytest.raises(CorruptionError, match="can't be read"):
        load_optimizer(epoch.optimizer, tmp_path / "kept")


def test_a_draft_is_never_written_over_anything(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thing").write_text("")
    with pytest.raises(DataDirectoryError, match="there and not empty"):
        trained(tmp_path / "a")


def test_default_rows_learn_from_dropped_ids_alone(tmp_path: Path) -> None:
    once, default = TrainingExamples.of([rows()]), np.zeros(1, np.int64)
    for dropout in (0.0, 0.3):
        of = replace(start(), tables=tables(admit_after=1))
        both = (of.tables.users, of.tables.pins)
        both[1].admit(once.columns.action_pin_id, once.columns.action_time)
        before = [table.gather(default) for table in both]
        train(of, once, None, replace(SETTINGS, id_dropout=dropout), tmp_path / str(dropout))
        moved = [not np.array_equal(table.gather(default), old) for table, old in zip(both, before, strict=True)]
        assert moved == [dropout > 0] * 2


@pytest.mark.parametrize(
    ("encoder", "what"), [("mean", "user"), ("mean", "pin"), ("mean", "action"), ("transact_v1_0", "action"), ("transact_v1_1", "action")]
)
def test_it_learns_what_there_is_to_learn(encoder: str, what: str, tmp_path: Path) -> None:
    whole = examples(6_000, users=30, pins=24, actions=2, seed=5)
    users = whole.users
    newest = users.sequence["action"][users.offsets[:-1]][whole.request]
    positive = {"user": whole.user_id % 2 == 0, "pin": whole.pin_id % 2 == 0, "action": newest > 2}[what]
    whole = replace(whole, labels=np.repeat(positive[:, None], 5, 1).astype(np.int8))
    of = Start(Ranker(replace(MODEL, encoder=Encoder(encoder), sequence_length=1)), tables())
    settings = TrainingConfig(batch_size=32, table_learning_rate=0.2)
    learned = train(of, TrainingExamples.of([whole.take(np.arange(5_500))]), None, settings, tmp_path / "a")
    logits = logits_of(of.ranker, of.tables, TrainingExamples.of([whole.take(np.arange(5_500, 6_000))]))
    positive = positive[5_500:]
    assert ((logits > 0) == positive[:, None]).mean() > 0.9
    # Of a model that begins at a chance of 5 %: 8.
    assert learned.metrics["loss"] < 6


def test_weights_that_run_away_are_no_model(tmp_path: Path) -> None:
    of = start()
    with torch.no_grad():
        of.ranker.heads.weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match="loss of batch 0 is nan"):
        trained(tmp_path / "a", of)
    assert list((tmp_path / "a").iterdir()) == []


def test_spans_of_two_fingerprints_are_refused(tmp_path: Path) -> None:
    first, second = parts()
    with pytest.raises(FingerprintError, match="calibrate on other"):
        train(start(), first, replace(second, fingerprint="other"), SETTINGS, tmp_path / "a")


def test_a_checkpoint_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    of = start()
    found = parts()[0]
    of.tables.begin(found, 1.0)
    epoch = Epoch(of.ranker.train(), of.tables, found, SETTINGS)
    assert not checkpoint.there(tmp_path)
    for _ in range(2):
        epoch.step()
        checkpoint.save(epoch, tmp_path, "x")
    assert [path.name for path in tmp_path.iterdir()] == ["batch-000000002"]
