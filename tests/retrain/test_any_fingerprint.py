"""A store whose examples carry several fingerprints: refused, or taken where each column still means the same by its name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks._examples import START
from flows.errors import FingerprintError
from flows.examples.rows import ExampleRows
from flows.settings import DAY_MS, Settings
from online_model.registry.registry import Registry
from online_model.retrain import run as retrain_run
from online_model.retrain.fingerprints import AnyFingerprint, known_vocabularies
from tests.processes import front_door
from tests.retrain.store import PARTITIONS, SCRATCH, append, data, files_of, records, run, settings_of

OTHER = "00000000deadbeef"
ANY = replace(SCRATCH, any_fingerprint=True)


def changed(rows: ExampleRows, until: float, fingerprint: str = OTHER) -> ExampleRows:
    """The same, those that became known before a day made under another fingerprint."""
    before = rows.ready_time < START + round(until * DAY_MS)
    code = np.where(before, len(rows.fingerprints), rows.fingerprint).astype(np.int32)
    return replace(rows, fingerprint=code, fingerprints=(*rows.fingerprints, fingerprint))


def mixed(directory: Path, until: float = 3) -> Settings:
    settings = settings_of(directory)
    append(settings, changed(records(settings), until))
    return settings


def manifest(settings: Settings) -> Any:
    return Registry.of(settings).base(1).manifest.about


def test_they_are_taken_if_that_is_asked_for(tmp_path: Path) -> None:
    """And the new base is that of a store in which all say the same."""
    settings = mixed(tmp_path / "mixed")
    with pytest.raises(FingerprintError, match=f"fingerprint {OTHER}"):
        run(settings, SCRATCH, 8)
    assert run(settings, ANY, 8).base == 1
    present = Registry.of(settings).bases.expected.features
    assert manifest(settings).metrics["training"]["fingerprints"] == sorted([OTHER, present])
    assert manifest(settings).feature_fingerprint == present
    plain = data(tmp_path / "plain")
    run(plain, SCRATCH, 8)
    assert files_of(settings, 1) == files_of(plain, 1)
    assert "fingerprints" not in manifest(plain).metrics["training"]


def test_stopped_it_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = mixed(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(retrain_run, "judge", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(settings, ANY, 8)
    outcome = run(settings, ANY, 8)
    assert (outcome.base, outcome.resumed) == (1, True)
    assert OTHER in manifest(settings).metrics["training"]["fingerprints"]


def test_what_is_learned_on_online_is_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is trained."""
    monkeypatch.setattr(retrain_run, "train", lambda *given: pytest.fail("trained"))
    with pytest.raises(FingerprintError, match=f"fingerprint {OTHER}"):
        run(mixed(tmp_path, until=7.9), ANY, 8)


def checked(settings: Settings, rows: ExampleRows, under: Mapping[str, str] | None = None) -> set[str]:
    every = AnyFingerprint(settings.load_vocabulary(), under if under is not None else known_vocabularies(Registry.of(settings)))
    every.check(rows, 0)
    return every.taken


def test_columns_that_mean_something_else_are_refused(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    rows = changed(records(settings, 60), 3)
    present = rows.fingerprints[0]
    vocabulary = settings.load_vocabulary().fingerprint()
    assert checked(settings, rows) == {OTHER, present}
    assert checked(settings, rows, {OTHER: vocabulary}) == {OTHER, present}
    assert checked(settings, rows.take(np.arange(0))) == set()
    with pytest.raises(FingerprintError, match="with another vocabulary"):
        checked(settings, rows, {OTHER: "another"})
    with pytest.raises(FingerprintError, match="nobody can tell what its columns mean"):
        checked(settings, replace(rows, fingerprint=np.full(len(rows), -1, np.int32)))
    actions = rows.users.sequence.copy()
    actions["action"][3] = 99
    with pytest.raises(FingerprintError, match="has action 99, which the vocabulary doesn't name now"):
        checked(settings, replace(rows, users=replace(rows.users, sequence=actions)))
    with pytest.raises(FingerprintError, match="has surface 77"):
        checked(settings, replace(rows, surface=np.full(len(rows), 77, rows.surface.dtype)))


def test_a_base_says_under_which_vocabulary_its_features_were_made(tmp_path: Path) -> None:
    settings = data(tmp_path)
    run(settings, SCRATCH, 8)
    about = manifest(settings)
    assert known_vocabularies(Registry.of(settings)) == {about.feature_fingerprint: about.vocabulary_fingerprint}


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = mixed(tmp_path / "data")
    model = tmp_path / "model.toml"
    model.write_text("[model]\ndim = 4\nslots = 8\nsequence_length = 5\n")
    words = ("retrain", "--from-scratch", "--as-of", START + 8 * DAY_MS, "--hold-back", "1d", "--model", model, "--json")
    said = front_door(*words, monkeypatch=monkeypatch, code=None, data=settings.data, partitions=PARTITIONS)
    assert said.code > 0
    assert said.err.startswith("tidemark: log 'examples', partition ")
    assert "or take them all the same: --any-fingerprint" in said.err
    assert said.err.count("\n") == 1
    done = front_door(*words, "--any-fingerprint", monkeypatch=monkeypatch, data=settings.data, partitions=PARTITIONS)
    assert OTHER in json.loads(done.out)["metrics"]["training"]["fingerprints"]
