"""Versions: what is written is what is read, to the bit, whole or not at all; numbers are given once."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flows.settings import Settings
from online_model.embedding import version
from online_model.embedding.actions import LogPrefix
from online_model.embedding.embedding_model import EmbeddingModel
from online_model.embedding.errors import DamagedVersionError, NoVersionError
from online_model.embedding.model import PinnerFormer
from online_model.registry import durable
from online_model.registry.build import build_of
from online_model.registry.errors import NewerFormatError
from tests.embedding.worlds import TINY, random_sequences, random_vectors

PREFIX = LogPrefix((3, 4), (0, 1))


def model_of(**changes: object) -> EmbeddingModel:
    sequences = random_sequences(0)
    vectors = random_vectors(0, sequences)
    former = PinnerFormer(replace(TINY, **changes), torch.from_numpy(vectors.vectors))  # type: ignore[arg-type]
    return EmbeddingModel(former.eval(), vectors, dict(sequences.actions), dict(sequences.surfaces))


def write(settings: Settings, model: EmbeddingModel) -> Path:
    return version.write(
        settings, model, sequences="s", vectors="v", vectors_from="file", reflects=PREFIX, build=build_of(0), metrics={"losses": [1.0]}
    )


@pytest.mark.parametrize("trained", [False, True])
def test_what_is_written_is_read_to_the_bit(trained: bool, tmp_path: Path) -> None:
    settings, model, sequences = Settings(data=tmp_path), model_of(trained_vectors=trained), random_sequences(0)
    if trained:
        with torch.no_grad():
            model.former.vectors.table.mul_(1.7)
    path = write(settings, model)
    loaded = version.load(path)
    assert loaded.config == model.config
    assert (loaded.users(sequences) == model.users(sequences)).all()
    assert (loaded.pins(loaded.vectors) == model.pins(version.trained_vectors(model))).all()
    said = version.read_manifest(path)
    assert (said.version, said.reflects, said.vectors_from, said.metrics) == (1, PREFIX, "file", {"losses": [1.0]})
    assert said.digest
    again = version.read_manifest(write(settings, model))
    assert again.version == 2
    assert again.files == said.files, "equal models are equal bytes"
    assert version.versions(settings) == [1, 2]
    assert version.version_path(settings) == tmp_path / "embeddings" / "2"


def test_versions_that_are_not_there(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    assert version.versions(settings) == []
    with pytest.raises(NoVersionError, match=r"there is no embedding version in .*; `tidemark embed train` makes one"):
        version.version_path(settings)
    write(settings, model_of())
    (tmp_path / "embeddings" / ".draft-left").mkdir()
    (tmp_path / "embeddings" / "training").mkdir()
    assert version.versions(settings) == [1]
    with pytest.raises(NoVersionError, match="no embedding version 7"):
        version.version_path(settings, 7)


@pytest.mark.parametrize("name", [version.WEIGHTS, version.VECTORS, version.MANIFEST])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damage_is_found_and_said(name: str, damage: str, tmp_path: Path) -> None:
    path = write(Settings(data=tmp_path), model_of())
    data = bytearray((path / name).read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        (path / name).write_bytes(data)
    elif damage == "cut":
        (path / name).write_bytes(data[:-5])
    else:
        (path / name).unlink()
    with pytest.raises(DamagedVersionError, match="use another version, or train anew") as caught:
        version.load(path)
    assert "\n" not in str(caught.value)


def test_a_later_format_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version.VersionManifest, "format", version.FORMAT + 1, raising=False)
    path = write(Settings(data=tmp_path), model_of())
    data = (path / version.MANIFEST).read_bytes()
    (path / version.MANIFEST).write_bytes(data.replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(NewerFormatError):
        version.load(path)


def test_killed_at_any_write_it_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, model = Settings(data=tmp_path), model_of()
    calls = 0

    class Killed(BaseException):
        pass

    for stop in range(1, 6):
        calls = 0

        def counted(name: str, stop: int = stop) -> object:
            real = getattr(durable, name)

            def call(*given: object) -> object:
                nonlocal calls
                calls += 1
                if calls == stop:
                    raise Killed
                return real(*given)

            return call

        with monkeypatch.context() as patch:
            for name in ("write", "put_in_place"):
                patch.setattr(durable, name, counted(name))
            try:
                write(settings, model)
            except Killed:
                assert version.versions(settings) == []
            else:
                assert stop == 5
    assert version.versions(settings) == [1]
    version.load(tmp_path / "embeddings" / "1")


def test_two_at_once_get_two_numbers(tmp_path: Path) -> None:
    settings, model = Settings(data=tmp_path), model_of()
    with ThreadPoolExecutor(4) as several:
        paths = list(several.map(lambda _: write(settings, model), range(8)))
    assert sorted(int(path.name) for path in paths) == list(range(1, 9))
    assert not [name for name in os.listdir(tmp_path / "embeddings") if durable.is_leftover(name)]
