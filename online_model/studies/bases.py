"""Bases of a study: models trained on final examples of a history, kept on disk by a digest of what decides them, and what they say of examples.

They are made by `online_model.training`, like any other; they are no versions of a registry, and nothing is ever served from them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from flows.directories import translated
from online_model.model.calibration import Calibrators
from online_model.model.columns import ExampleColumns
from online_model.model.config import ModelConfig
from online_model.model.dense import load_dense
from online_model.model.ranker import Ranker
from online_model.model.scoring import score_rows
from online_model.model.served_vectors import ServedVectors
from online_model.registry.build import build_of
from online_model.registry.manifest import CALIBRATORS, DENSE
from online_model.studies.kept import digest_of, take_place
from online_model.studies.stream import Stream
from online_model.table import EmbeddingTable, TableConfig
from online_model.training.config import TrainingConfig
from online_model.training.examples import TrainingExamples
from online_model.training.optimizer import OPTIMIZER
from online_model.training.tables import Tables
from online_model.training.train import Start, train

_SCORED_AT_ONCE = 4_096


@dataclass(frozen=True, eq=False)
class Base:
    """A trained model, as whoever serves or learns begins with it.

    Attributes
    ----------
    digest : str
        Of all that decides it.
    place : Path
    ranker : Ranker
    calibrators : Calibrators
    """

    digest: str
    place: Path
    ranker: Ranker
    calibrators: Calibrators

    def tables(self) -> Tables:
        """Its rows, to be changed at will."""
        return Tables.load(self.place)


@dataclass(frozen=True)
class Window:
    """Labels that matured in [train, calibrate) are learned from; calibrators are fitted on those of [calibrate, until). ms."""

    train: int
    calibrate: int
    until: int


def base_of(
    stream: Stream,
    window: Window,
    model: ModelConfig,
    training: TrainingConfig,
    work: Path,
    parent: Base | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    vectors: ServedVectors | None = None,
) -> Base:
    """Train a base on a window of a history, or find it where it was kept.

    Parameters
    ----------
    stream : Stream
    window : Window
    model : ModelConfig
    training : TrainingConfig
    work : Path
        Where bases are kept. A training that was stopped goes on from what it kept here.
    parent : Base, optional
        What the training begins with; by default new weights and empty tables.
    progress : callable
        Told examples done, and of how many.
    vectors : ServedVectors, optional
        For a model that takes user embeddings.

    Raises
    ------
    InputError
        The window has no final example.
    """
    said = {
        "history": stream.digest,
        "window": [window.train, window.calibrate, window.until],
        "model": model.to_dict(),
        "training": training.to_dict(),
        "parent": parent.digest if parent is not None else None,
        "build": asdict(build_of(training.seed)),
    }
    if vectors is not None:
        said["embedding"] = vectors.taken.digest
    digest = digest_of(said)
    place = work / digest
    if not place.exists():
        columns = [stream.final(window.train, window.calibrate), stream.final(window.calibrate, window.until)]
        examples, held_out = (TrainingExamples.of([rows], vectors=vectors) for rows in columns)
        draft = work / f".{digest}.{os.getpid()}"
        checkpoints = work / f"{digest}.checkpoints"
        start = _start(model, parent)
        try:
            train(start, examples, held_out, training, draft, checkpoints, progress)
            with translated(f"study's base {place}"):
                take_place(draft, place)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return Base(digest, place, load_dense(model, place / DENSE).eval(), Calibrators.load(place / CALIBRATORS))


def _start(model: ModelConfig, parent: Base | None) -> Start:
    if parent is None:
        config = TableConfig(model.dim)
        return Start(Ranker(model), Tables(EmbeddingTable(config), EmbeddingTable(config)))
    return Start(load_dense(model, parent.place / DENSE), parent.tables(), parent.digest, parent.place / OPTIMIZER)


def probabilities_of(base: Base, tables: Tables, columns: ExampleColumns, index: np.ndarray) -> np.ndarray:
    """What a base says of examples with some rows of IDs, in the slot in which candidates are ranked.

    Parameters
    ----------
    base : Base
    tables : Tables
        Looked up, never changed.
    columns : ExampleColumns
    index : int64[n]
        Which of them.

    Returns
    -------
    float64[n, heads]
        Calibrated.
    """
    out = [np.empty((0, len(base.calibrators.heads)))]
    length = base.ranker.config.sequence_length
    for first in range(0, len(index), _SCORED_AT_ONCE):
        features = columns.features(index[first : first + _SCORED_AT_ONCE], length)
        rows = replace(
            features,
            user_id=tables.users.rows_of(features.user_id),
            pin_id=tables.pins.rows_of(features.pin_id),
            sequence_pin_id=tables.pins.rows_of(features.sequence_pin_id.reshape(-1)).reshape(features.sequence_pin_id.shape),
        )
        out.append(base.calibrators.probabilities(score_rows(base.ranker, tables.gather(rows))))
    return np.concatenate(out)
