"""Where a training stands, in a directory: weights, optimiser, tables and the number of batches done. Each is whole or not there.

A training that goes on from one ends with the bytes of one that never stopped. Another training's is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from flows.directories import make_directory, sync, translated
from online_model.model.dense import save_dense
from online_model.registry.manifest import DENSE, TABLES
from online_model.training.epoch import Epoch, Progress
from online_model.training.errors import CheckpointError
from online_model.training.optimizer import OPTIMIZER, load_optimizer, save_optimizer

_STATE = "state.json"
_FILES = (DENSE, OPTIMIZER, *TABLES.values())
_PREFIX, _DRAFT = "batch-", "draft"


def save(epoch: Epoch, directory: Path, training: str) -> None:
    """Keep where an epoch stands, in place of what was kept before.

    Parameters
    ----------
    epoch : Epoch
    directory : Path
        Of this training alone.
    training : str
        What names the training: examples, configurations and start.
    """
    place = directory / f"{_PREFIX}{epoch.progress.batches:09d}"
    if place.exists():
        return
    with translated(f"training's checkpoint in {directory}"):
        make_directory(directory.absolute())
        draft = directory / _DRAFT
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        save_dense(epoch.ranker, draft / DENSE)
        save_optimizer(epoch.optimizer, draft / OPTIMIZER)
        epoch.tables.save(draft)
        files = {name: _sha256(draft / name) for name in _FILES}
        (draft / _STATE).write_text(json.dumps({"training": training, "progress": asdict(epoch.progress), "files": files}))
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


def restore(epoch_of: Callable[[Path], Epoch], directory: Path, training: str) -> Epoch:
    """The epoch as it was kept.

    Parameters
    ----------
    epoch_of : callable
        Makes the epoch of a directory with the weights and the tables.
    directory : Path
    training : str

    Raises
    ------
    CheckpointError
        It is damaged, or another training's.
    """
    path = _kept(directory)[-1]
    advice = f"delete {directory} and train from the beginning"
    with translated(f"training's checkpoint {path}"):
        try:
            said = json.loads((path / _STATE).read_text())
            files, progress, of = said["files"], Progress(**said["progress"]), said["training"]
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise CheckpointError(f"training's checkpoint {path}: what it says of itself can't be read ({error}); {advice}") from error
        if of != training:
            raise CheckpointError(
                f"training's checkpoint {path} is of other examples, settings or another start; give another place, or {advice}"
            )
        for name, digest in files.items():
            if not (path / name).is_file() or _sha256(path / name) != digest:
                raise CheckpointError(f"training's checkpoint {path}: {name} is not what was written; {advice}")
        epoch = epoch_of(path)
        load_optimizer(epoch.optimizer, path / OPTIMIZER)
    epoch.progress = progress
    return epoch


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
