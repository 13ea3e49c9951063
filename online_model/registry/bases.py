"""The bases: a directory each, numbered, written once. A draft becomes a base by one rename, whole and durable; a number is given to one base only.

Nothing of a base is handed out before its manifest and the file's own digest have been checked.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from flows.directories import make_directory, sync, translated
from online_model.registry import durable, tensors
from online_model.registry.errors import DamagedModelError, DraftError, NoModelError, OtherFeaturesError, OtherVocabularyError
from online_model.registry.manifest import (
    CALIBRATORS,
    MANIFEST,
    REQUIRED,
    TABLES,
    Described,
    FileEntry,
    Manifest,
    is_allowed,
)

SNAPSHOTS = "snapshots"
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Expected:
    """What a model must have been trained under, to be of use here: fingerprints of the features and of the vocabulary."""

    features: str
    vocabulary: str

    def check(self, about: Described, where: str) -> None:
        """Refuse a model of anything else.

        Raises
        ------
        OtherVocabularyError, OtherFeaturesError
        """
        if about.vocabulary_fingerprint != self.vocabulary:
            raise OtherVocabularyError(
                f"{where} was trained with another vocabulary (fingerprint {about.vocabulary_fingerprint}, now {self.vocabulary}): its codes mean "
                "something else; put the vocabulary back, or train a new one: `tidemark retrain --from-scratch`"
            )
        if about.feature_fingerprint != self.features:
            raise OtherFeaturesError(
                f"{where} was trained under other features or settings (fingerprint {about.feature_fingerprint}, now {self.features}); "
                "put the settings back, or train a new one: `tidemark retrain --from-scratch`"
            )


@dataclass(frozen=True)
class Base:
    """A base whose manifest is sound and fits.

    Attributes
    ----------
    path : Path
    manifest : Manifest
    """

    path: Path
    manifest: Manifest

    @property
    def number(self) -> int:
        return self.manifest.base

    @property
    def digest(self) -> str:
        """Names this base and no other, whatever its number."""
        return self.manifest.digest

    def read(self, name: str) -> bytes:
        """A file, checked.

        Raises
        ------
        DamagedModelError
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise DamagedModelError(f"base {self.number} has no file '{name}'")
        return durable.read(self.path / name, entry.bytes, entry.sha256)

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        """The tensors of a file, checked."""
        return tensors.from_bytes(self.read(name), str(self.path / name))

    def table(self, table: str) -> dict[str, np.ndarray]:
        """The state of an embedding table ("user" or "pin")."""
        return self.tensors(TABLES[table])

    def calibrators(self) -> Any:
        """What is in `calibrators.json`."""
        return _json(self.read(CALIBRATORS), self.path / CALIBRATORS)

    def verify(self) -> None:
        """Read all of it.

        Raises
        ------
        DamagedModelError
            A file is not what was written.
        """
        for name, entry in self.manifest.files.items():
            found = FileEntry(*durable.measure(self.path / name))
            if found != entry:
                raise DamagedModelError(
                    f"base {self.number}: {name} is not what was written ({found.bytes:,} bytes, sha256 {found.sha256[:16]}…; written were "
                    f"{entry.bytes:,} bytes, {entry.sha256[:16]}…); roll back (`tidemark models rollback`), or put the file back from a copy"
                )


class Bases:
    """The directory of bases. Whoever changes it holds the registry's lock, but for drafts.

    Parameters
    ----------
    directory : Path
    expected : Expected
    """

    def __init__(self, directory: Path, expected: Expected) -> None:
        self.directory = directory.absolute()
        self.expected = expected

    def numbers(self) -> list[int]:
        """Of all bases that are there, sound or not, in order."""
        try:
            return sorted(int(entry.name) for entry in os.scandir(self.directory) if _NUMBER.fullmatch(entry.name))
        except FileNotFoundError:
            return []

    def open(self, number: int) -> Base:
        """A base; its files are checked when they are read.

        Raises
        ------
        NoModelError
            There is none of this number.
        DamagedModelError, NewerFormatError, OtherFeaturesError, OtherVocabularyError
            It is of no use here.
        """
        base = self.opened(number)
        self.expected.check(base.manifest.about, f"base {number}")
        return base

    def opened(self, number: int) -> Base:
        """The same, whatever it was trained under: to look at, not to serve."""
        path = self.directory / str(number)
        if type(number) is not int or number < 1 or not os.path.lexists(path):
            raise NoModelError(f"there is no base {number} in {self.directory}; `tidemark models list` shows which there are")
        if path.is_symlink() or not path.is_dir():
            raise DamagedModelError(f"base {number}: {path} is no directory of its own; put it back from a copy")
        manifest = Manifest.from_bytes(durable.read(path / MANIFEST), f"base {number}: {path / MANIFEST}")
        if manifest.base != number:
            raise DamagedModelError(f"base {number}: {path} holds base {manifest.base}; it lies in the wrong place")
        return Base(path, manifest)

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """A directory to write a base's files into; gone afterwards, unless it has become a base. Locked, so that no sweep takes it."""
        path, descriptor = self._locked_draft()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(descriptor)

    def _locked_draft(self) -> tuple[Path, int]:
        with translated(f"can't write to {self.directory}"):
            make_directory(self.directory)
            while True:
                path = Path(tempfile.mkdtemp(prefix=durable.DRAFT, dir=self.directory))
                path.chmod(0o755)
                with suppress(FileNotFoundError):
                    descriptor = os.open(path, os.O_RDONLY)
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                    # A sweep may have come before the lock, and have taken it for one that was left behind.
                    if path.exists():
                        return path, descriptor
                    os.close(descriptor)

    def check_draft(self, draft: Path, about: Described) -> None:
        """Whether a draft can become a base.

        Raises
        ------
        DraftError, OtherFeaturesError, OtherVocabularyError
        """
        self.expected.check(about, f"draft {draft}")
        entries = {entry.name: entry for entry in os.scandir(draft)} if draft.is_dir() else {}
        if missing := [name for name in REQUIRED if name not in entries]:
            raise DraftError(f"draft {draft} has no {', '.join(missing)}: a base consists of {', '.join(REQUIRED)}")
        for name, entry in sorted(entries.items()):
            if not is_allowed(name) or not entry.is_file(follow_symlinks=False):
                raise DraftError(f"draft {draft}: a base has no '{name}'; weights go into .safetensors files, which no reader executes")
        try:
            for name in sorted(entries):
                where = f"draft {draft}: {name}"
                if name == CALIBRATORS:
                    _json(durable.read(draft / name), draft / name)
                    continue
                found = tensors.from_bytes(durable.read(draft / name), where)
                if name in TABLES.values():
                    tensors.check_table(found, where)
                elif any(not np.isfinite(t).all() for t in found.values() if t.dtype.kind == "f"):
                    raise DamagedModelError(f"{where}: some weights are no numbers (nan or infinite)")
        except DamagedModelError as error:
            raise DraftError(f"{error}; nothing was published, the model that is served stays") from error

    def add(self, draft: Path, about: Described) -> Base:
        """Make a base of a draft that was checked; the caller holds the registry's lock.

        Raises
        ------
        DraftError
            Its description can't be kept.
        """
        number = max(self.numbers(), default=0) + 1
        files = {}
        with translated(f"can't publish {draft}"):
            for name in sorted(entry.name for entry in os.scandir(draft)):
                sync(draft / name)
                files[name] = FileEntry(*durable.measure(draft / name))
            try:
                manifest = Manifest(number, files, about).sealed()
                data = manifest.to_bytes()
            except TypeError as error:
                raise DraftError(f"draft {draft}: its description can't be written as JSON: {error}") from error
            durable.write(draft / MANIFEST, data)
            durable.put_in_place(draft, self.directory / str(number))
        return self.open(number)

    def clear_leftovers(self) -> None:
        """Delete drafts of publishers that were killed, and what was half deleted; the caller holds the registry's lock."""
        with translated(f"can't clear {self.directory}"), suppress(FileNotFoundError):
            for entry in list(os.scandir(self.directory)):
                if durable.is_leftover(entry.name) and _is_free(entry.path):
                    durable.clear(Path(entry.path))


def _is_free(path: str) -> bool:
    """Whether nobody is writing a draft."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _json(data: bytes, path: Path) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise DamagedModelError(f"{path} holds no JSON: {error}") from error
