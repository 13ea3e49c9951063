"""Embedding versions: a directory each below `embeddings/` of a data directory, numbered from 1, written once and whole.

A version holds all that makes a vector of a user or a pin: weights, the pins' vectors, the configuration, the codes. Nothing of it is handed out
before manifest and files have been checked.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch

from flows.directories import make_directory, translated
from flows.settings import Settings
from online_model.embedding.actions import LogPrefix
from online_model.embedding.config import EmbeddingConfig
from online_model.embedding.embedding_model import EmbeddingModel
from online_model.embedding.errors import DamagedVersionError, NoVersionError
from online_model.embedding.model import PinnerFormer
from online_model.embedding.pin_vectors import PinVectors
from online_model.registry import durable, tensors
from online_model.registry.errors import DamagedModelError
from online_model.registry.manifest import Build, FileEntry, checked, digest_of

FORMAT = 1
MANIFEST, WEIGHTS, VECTORS = "manifest.json", "model.safetensors", "pin_vectors.safetensors"
DIRECTORY = "embeddings"


@dataclass(frozen=True)
class VersionManifest:
    """What a version is.

    Attributes
    ----------
    version : int
    files : mapping of str to FileEntry
    config : dict
        An `EmbeddingConfig`.
    actions, surfaces : dict of str to int
        Codes.
    sequences, vectors : str
        Digests of the actions that it learned from, and of the vectors that were given.
    vectors_from : str
        "file" or "log".
    reflects : LogPrefix or None
        Which actions those were; None: they came from no log.
    build : Build
    metrics : mapping
        Of the training.
    digest : str
        Of all of the above: names this version and no other.
    """

    version: int
    files: Mapping[str, FileEntry]
    config: dict[str, Any]
    actions: dict[str, int]
    surfaces: dict[str, int]
    sequences: str
    vectors: str
    vectors_from: str
    reflects: LogPrefix | None
    build: Build
    metrics: Mapping[str, Any]
    format: int = FORMAT
    digest: str = field(default="", compare=False)

    def to_bytes(self) -> bytes:
        """The file's content, with the digest."""
        content = asdict(self)
        del content["digest"]
        return orjson.dumps(content | {"digest": digest_of(content)}, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> VersionManifest:
        """Read it back.

        Raises
        ------
        DamagedVersionError, NewerFormatError
        """
        try:
            content = checked(data, where, FORMAT)
            reflects, build = content.pop("reflects"), Build(**content.pop("build"))
            files = {name: FileEntry(**entry) for name, entry in content.pop("files").items()}
            prefix = None if reflects is None else LogPrefix(tuple(reflects["actions"]), tuple(reflects["corrected_to"]))
            manifest = cls(files=files, reflects=prefix, build=build, **content)
        except (DamagedModelError, KeyError, TypeError, AttributeError) as error:
            raise DamagedVersionError(f"{where} is not what was written ({error}); use another version, or train anew") from error
        if set(manifest.files) != {WEIGHTS, VECTORS}:
            raise DamagedVersionError(f"{where} names other files than {WEIGHTS} and {VECTORS}; use another version, or train anew")
        return manifest


def versions(settings: Settings) -> list[int]:
    """Numbers of all versions that are there, sound or not, in order."""
    place = settings.data / DIRECTORY
    return sorted(int(entry.name) for entry in os.scandir(place) if entry.name.isdecimal()) if place.is_dir() else []


def version_path(settings: Settings, version: int | None = None) -> Path:
    """The directory of a version; without a number, of the newest.

    Raises
    ------
    NoVersionError
    """
    known = versions(settings)
    if not known or (version is not None and version not in known):
        which = "no embedding version" if version is None else f"no embedding version {version}"
        raise NoVersionError(f"there is {which} in {settings.data / DIRECTORY}; `tidemark embed train` makes one")
    return settings.data / DIRECTORY / str(known[-1] if version is None else version)


def read_manifest(path: Path) -> VersionManifest:
    """What a version says of itself, checked.

    Raises
    ------
    DamagedVersionError, NewerFormatError
    """
    try:
        data = durable.read(path / MANIFEST)
    except DamagedModelError as error:
        raise DamagedVersionError(f"embedding version {path}: {error}; use another version, or train anew") from error
    return VersionManifest.from_bytes(data, f"embedding version {path}: {MANIFEST}")


def load(path: Path) -> EmbeddingModel:
    """A version at work.

    Raises
    ------
    DamagedVersionError, NewerFormatError
        It is not what was written.
    """
    manifest = read_manifest(path)
    try:
        held = {name: durable.read(path / name, of.bytes, of.sha256) for name, of in manifest.files.items()}
        weights, vectors = (tensors.from_bytes(held[name], str(path / name)) for name in (WEIGHTS, VECTORS))
        pins = PinVectors(vectors["ids"], vectors["vectors"])
        former = PinnerFormer(EmbeddingConfig.from_dict(manifest.config), torch.from_numpy(pins.vectors.copy()))
        former.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in weights.items()})
    except (DamagedModelError, KeyError, RuntimeError) as error:
        raise DamagedVersionError(f"embedding version {path}: {error}; use another version, or train anew") from error
    return EmbeddingModel(former.eval(), pins, manifest.actions, manifest.surfaces)


def write(
    settings: Settings,
    model: EmbeddingModel,
    *,
    sequences: str,
    vectors: str,
    vectors_from: str,
    reflects: LogPrefix | None,
    build: Build,
    metrics: Mapping[str, Any],
) -> Path:
    """Make the next version of a trained model; it is there whole when this returns, or not at all. Arguments: as of `VersionManifest`.

    Raises
    ------
    DataDirectoryError, StorageFullError
    """
    place = (settings.data / DIRECTORY).absolute()
    pins = trained_vectors(model)
    weights = {name: value.detach().cpu().numpy() for name, value in model.former.state_dict().items()}
    held = {
        WEIGHTS: tensors.to_bytes(weights),
        VECTORS: tensors.to_bytes({"ids": pins.ids, "vectors": pins.vectors}),
    }
    files = {name: FileEntry(len(data), hashlib.sha256(data).hexdigest()) for name, data in held.items()}
    with translated(f"can't write an embedding version to {place}"):
        make_directory(place)
        while True:
            number = max(versions(settings), default=0) + 1
            said = VersionManifest(
                number, files, model.config.to_dict(), dict(model.actions), dict(model.surfaces), sequences, vectors, vectors_from, reflects,
                build, metrics,
            )  # fmt: skip
            draft = Path(tempfile.mkdtemp(prefix=durable.DRAFT, dir=place))
            try:
                draft.chmod(0o755)
                for name, data in (*held.items(), (MANIFEST, said.to_bytes())):
                    durable.write(draft / name, data)
                durable.put_in_place(draft, place / str(number))
            except FileExistsError:
                # Another training took the number.
                continue
            finally:
                shutil.rmtree(draft, ignore_errors=True)
            return place / str(number)


def trained_vectors(model: EmbeddingModel) -> PinVectors:
    """The vectors of a model as training has left them."""
    table: np.ndarray = model.former.vectors.table.detach().cpu().numpy()
    return PinVectors(model.vectors.ids, table)
