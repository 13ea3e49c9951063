"""A whole training: one epoch over final examples, calibrators on a span that was held out, and a draft of a base for whoever publishes it.

It decides nothing about publishing, and knows no number of any base.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flows import stopping
from flows.directories import make_directory, sync, translated
from flows.errors import DataDirectoryError, FingerprintError
from online_model.model.calibration import Calibrators
from online_model.model.dense import load_dense, save_dense
from online_model.model.ranker import Ranker
from online_model.model.scoring import score_rows
from online_model.registry.build import build_of
from online_model.registry.manifest import CALIBRATORS, DENSE, Build
from online_model.training import checkpoint
from online_model.training.config import TrainingConfig
from online_model.training.epoch import Epoch, reproducible
from online_model.training.errors import TrainingStoppedError
from online_model.training.examples import TrainingExamples
from online_model.training.optimizer import OPTIMIZER, load_optimizer, save_optimizer
from online_model.training.tables import Tables

_SCORED_AT_ONCE = 4_096


@dataclass(frozen=True)
class Start:
    """What a training begins with. A training that doesn't go on from a checkpoint changes both in place; what came of them is the draft.

    Attributes
    ----------
    ranker : Ranker
        New, or the last full base's.
    tables : Tables
        New ones, or those of the last full base: never an online learner's.
    name : str
        What names it, for a training that goes on: a base's digest, or "new".
    optimizer : Path, optional
        What the optimiser of the last full base remembers; without it, nothing.
    """

    ranker: Ranker
    tables: Tables
    name: str = "new"
    optimizer: Path | None = None


@dataclass(frozen=True)
class Trained:
    """A draft of a base: its directory, and what a manifest says of it beside what the publisher knows.

    Attributes
    ----------
    draft : Path
        dense.safetensors, optimizer.safetensors, user_table.safetensors, pin_table.safetensors, calibrators.json.
    config : dict
        ``model`` and ``training``.
    feature_fingerprint : str
    build : Build
    metrics : dict
        ``examples`` that were learned from, of ``examples_given``; ``loss``: the mean of what they had before they were learned from;
        ``calibration``: examples, positives, scale and shift of each head.
    """

    draft: Path
    config: dict[str, Any]
    feature_fingerprint: str
    build: Build
    metrics: dict[str, Any]


def train(
    start: Start,
    examples: TrainingExamples,
    calibration: TrainingExamples | None,
    config: TrainingConfig,
    draft: Path,
    checkpoints: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Trained:
    """Train, calibrate, and write a draft.

    Parameters
    ----------
    start : Start
    examples : TrainingExamples
        Each is learned from once, in shuffled order.
    calibration : TrainingExamples or None
        A later span; without it logits stay as they are.
    config : TrainingConfig
    draft : Path
        A directory that isn't there, or is empty.
    checkpoints : Path, optional
        Where the training is kept every `config.checkpoint_every` batches, and from where it goes on if it was stopped. Emptied at the end.
    progress : callable
        Told examples done and examples in all.

    Returns
    -------
    Trained

    Raises
    ------
    TrainingStoppedError
        The process was asked to stop.
    DivergedError
    CheckpointError
        What is to go on is damaged, or another training.
    FingerprintError
        The two spans' features were made under different definitions.
    DataDirectoryError
        The draft can't be written.
    """
    if calibration is not None and calibration.fingerprint != examples.fingerprint:
        raise FingerprintError(
            f"training: features to train on have fingerprint {examples.fingerprint}, those to calibrate on {calibration.fingerprint}; "
            "begin both after the change"
        )
    with translated(f"draft {draft}"):
        if draft.exists() and (not draft.is_dir() or any(draft.iterdir())):
            raise DataDirectoryError(f"draft {draft} is there and not empty; delete it, or give another place")
        make_directory(draft.absolute())
    device = next(start.ranker.parameters()).device
    with reproducible(device):
        name = _name(start, examples, config)
        epoch = _begun(start, examples, config, checkpoints, name)
        epoch.ranker.train()
        _run(epoch, checkpoints, name, progress)
    epoch.ranker.eval()
    calibrators = (
        Calibrators.none(epoch.ranker.config.heads) if calibration is None else calibrated(epoch.ranker, epoch.tables, calibration)
    )
    with translated(f"draft {draft}"):
        save_dense(epoch.ranker, draft / DENSE)
        save_optimizer(epoch.optimizer, draft / OPTIMIZER)
        epoch.tables.save(draft)
        calibrators.save(draft / CALIBRATORS)
        for path in draft.iterdir():
            sync(path)
        sync(draft)
    if checkpoints is not None:
        checkpoint.clear(checkpoints)
    done = epoch.progress
    return Trained(
        draft,
        {"model": epoch.ranker.config.to_dict(), "training": config.to_dict()},
        examples.fingerprint,
        build_of(config.seed, device),
        {
            "examples": done.examples,
            "examples_given": len(examples),
            "loss": done.loss / max(done.examples, 1),
            "calibration": calibrators.to_dict()["heads"],
        },
    )


def calibrated(ranker: Ranker, tables: Tables, examples: TrainingExamples) -> Calibrators:
    """Calibrators fitted on examples that were not learned from: none is left out, so down-sampling has no part in them."""
    return Calibrators.fit(ranker.config.heads, logits_of(ranker, tables, examples), examples.labels[:, : len(ranker.config.heads)])


def logits_of(ranker: Ranker, tables: Tables, examples: TrainingExamples) -> np.ndarray:
    """Logits as they would be served: float32[n, heads]."""
    columns = tables.rows_in(examples.columns)
    device = next(ranker.parameters()).device
    out = [np.empty((0, len(ranker.config.heads)), np.float32)]
    for first in range(0, len(examples), _SCORED_AT_ONCE):
        index = np.arange(first, min(first + _SCORED_AT_ONCE, len(examples)))
        out.append(score_rows(ranker, tables.gather(columns.features(index, ranker.config.sequence_length)).to(device)))
    return np.concatenate(out)


def _begun(start: Start, examples: TrainingExamples, config: TrainingConfig, checkpoints: Path | None, name: str) -> Epoch:
    if checkpoints is None or not checkpoint.there(checkpoints):
        start.tables.begin(examples, config.accumulator_decay)
        epoch = Epoch(start.ranker, start.tables, examples, config)
        if start.optimizer is not None:
            load_optimizer(epoch.optimizer, start.optimizer)
        return epoch
    device = next(start.ranker.parameters()).device

    def of(kept: Path) -> Epoch:
        return Epoch(load_dense(start.ranker.config, kept / DENSE, device), Tables.load(kept), examples, config)

    return checkpoint.restore(of, checkpoints, name)


def _run(epoch: Epoch, checkpoints: Path | None, name: str, progress: Callable[[int, int], None]) -> None:
    total = len(epoch.order.index)
    progress(epoch.progress.examples, total)
    while epoch.progress.batches < len(epoch.order):
        if stopping.requested():
            kept = checkpoints is not None
            if checkpoints is not None:
                checkpoint.save(epoch, checkpoints, name)
            raise TrainingStoppedError(
                f"training: stopped after {epoch.progress.examples:,} of {total:,} examples; "
                + ("the same command goes on from there" if kept else "nothing was kept, for no place for checkpoints was given")
            )
        epoch.step()
        if checkpoints is not None and epoch.progress.batches % epoch.config.checkpoint_every == 0:
            checkpoint.save(epoch, checkpoints, name)
        progress(epoch.progress.examples, total)


def _name(start: Start, examples: TrainingExamples, config: TrainingConfig) -> str:
    """What a training is of; the checkpoint's interval decides no weight."""
    settings = config.to_dict() | {"checkpoint_every": None}
    device = next(start.ranker.parameters()).device
    said = [start.name, start.ranker.config.to_dict(), settings, examples.digest(), asdict(build_of(config.seed, device))]
    return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).hexdigest()
