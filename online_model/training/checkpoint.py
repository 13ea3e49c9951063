"""Where an epoch stands, in a directory: weights, optimiser, tables and the number of batches done. Each is whole or not there.

A training that goes on from one ends with the bytes of one that never stopped. Another training's is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from flows.directories import translated
from online_model.model.dense import save_dense
from online_model.registry.manifest import DENSE
from online_model.training import kept
from online_model.training.epoch import Epoch, Progress
from online_model.training.errors import CheckpointError
from online_model.training.kept import clear as clear
from online_model.training.kept import there as there
from online_model.training.optimizer import OPTIMIZER, load_optimizer, save_optimizer


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

    def write(draft: Path) -> None:
        save_dense(epoch.ranker, draft / DENSE)
        save_optimizer(epoch.optimizer, draft / OPTIMIZER)
        epoch.tables.save(draft)

    kept.keep(directory, epoch.progress.batches, training, asdict(epoch.progress), write)


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
    path, progress = kept.latest(directory, training)
    with translated(f"training's checkpoint {path}"):
        epoch = epoch_of(path)
        load_optimizer(epoch.optimizer, path / OPTIMIZER)
    try:
        epoch.progress = Progress(**progress)
    except TypeError as error:
        raise CheckpointError(
            f"training's checkpoint {path}: what it says of itself can't be read ({error}); delete {directory} and train from the beginning"
        ) from error
    return epoch
