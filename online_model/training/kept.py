"""Where a training stands, in a directory: files that it writes and how far it is. Each is whole or not there, and names its training.

What the files hold is the training's own affair; another training's are refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.directories import make_directory, sync, translated
from online_model.training.errors import CheckpointError

_STATE = "state.json"
_PREFIX, _DRAFT = "batch-", "draft"


def keep(directory: Path, batches: int, training: str, progress: dict[str, Any], write: Callable[[Path], None]) -> None:
    """Keep where a training stands, in place of what was kept before.

    Parameters
    ----------
    directory : Path
        Of this training alone.
    batches : int
        How many are done.
    training : str
        What names the training.
    progress : dict
        How far it is: plain values.
    write : callable
        Writes its files into a directory.
    """
    place = directory / f"{_PREFIX}{batches:09d}"
    if place.exists():
        return
    with translated(f"training's checkpoint in {directory}"):
        make_directory(directory.absolute())
        draft = directory / _DRAFT
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        write(draft)
        files = {path.name: _sha256(path) for path in sorted(draft.iterdir())}
        (draft / _STATE).write_text(json.dumps({"training": training, "progress": progress, "files": files}))
        for path in sorted(draft.iterdir()):
            sync(path)
        sync(draft)
        earlier = _kept(directory)
        os.replace(draft, place)
        sync(directory)
        for path in earlier:
            shutil.rmtree(path)


def there(directory: Path) -> bool:
    """Whether a training can go on from here."""
    return bool(_kept(directory))


def latest(directory: Path, training: str) -> tuple[Path, dict[str, Any]]:
    """The files that were kept, checked, and how far the training was.

    Raises
    ------
    CheckpointError
        They are damaged, or another training's.
    """
    path = _kept(directory)[-1]
    advice = f"delete {directory} and train from the beginning"
    with translated(f"training's checkpoint {path}"):
        try:
            said = json.loads((path / _STATE).read_text())
            files, progress, of = dict(said["files"]), dict(said["progress"]), said["training"]
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise CheckpointError(f"training's checkpoint {path}: what it says of itself can't be read ({error}); {advice}") from error
        if of != training:
            raise CheckpointError(
                f"training's checkpoint {path} is of other examples, settings or another start; give another place, or {advice}"
            )
        for name, digest in files.items():
            if not (path / name).is_file() or _sha256(path / name) != digest:
                raise CheckpointError(f"training's checkpoint {path}: {name} is not what was written; {advice}")
    return path, progress


def clear(directory: Path) -> None:
    """Forget what was kept: the training has ended."""
    with translated(f"training's checkpoint in {directory}"):
        for path in _kept(directory):
            shutil.rmtree(path)


def _kept(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"{_PREFIX}*")) if directory.is_dir() else []


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
