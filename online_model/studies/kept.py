"""Results of arms in a work directory: each is whole or not there, and found again by the digest of all that decides it.

A study that is run again makes only what is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flows.directories import make_directory, sync, translated
from flows.errors import CorruptionError

_FORMAT = 2
"""Part of every digest. Raised when trainings or learners come to do something else, it makes everything anew."""


def digest_of(said: Any) -> str:
    """Of plain values: 16 hex digits."""
    return hashlib.blake2b(json.dumps([_FORMAT, said], sort_keys=True).encode(), digest_size=8).hexdigest()


def take_place(draft: Path, place: Path) -> None:
    """Give a whole directory its name. If another study was faster, its own is as good: the same plan makes the same."""
    try:
        os.replace(draft, place)
    except OSError:
        if not place.is_dir():
            raise


class Kept:
    """Arrays by what they are the result of.

    Parameters
    ----------
    directory : Path

    Attributes
    ----------
    directory : Path
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def get(self, name: str, said: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
        """What was put under this name for these values; None if nothing was.

        Raises
        ------
        CorruptionError
            It is damaged.
        """
        path = self._path(name, said)
        if not path.exists():
            return None
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise CorruptionError(f"study's result {path} can't be read ({error}); delete it, and run the study again") from error

    def put(self, name: str, said: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Keep arrays."""
        path = self._path(name, said)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        with translated(f"study's result {path}"):
            make_directory(path.parent.absolute())
            try:
                with draft.open("wb") as file:
                    np.savez(file, allow_pickle=False, **arrays)
                sync(draft)
                os.replace(draft, path)
            finally:
                draft.unlink(missing_ok=True)

    def _path(self, name: str, said: Mapping[str, Any]) -> Path:
        return self.directory / f"{name}-{digest_of(dict(said))}.npz"
