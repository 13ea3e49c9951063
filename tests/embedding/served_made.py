"""Small embedding versions that nobody trained, over a log of some hundred users: what serving needs of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from flows.settings import Settings
from online_model.embedding.config import EmbeddingConfig
from online_model.embedding.embedding_model import EmbeddingModel
from online_model.embedding.model import PinnerFormer
from online_model.embedding.pin_vectors import PinVectors
from online_model.embedding.version import write
from online_model.registry.build import build_of
from tests import driving
from tests.strategies import random_stream

D = 16
SMALL: dict[str, Any] = {
    "length": 40,
    "vector_dim": 8,
    "dim": 8,
    "layers": 1,
    "heads": 2,
    "hidden": 16,
    "head_hidden": 16,
    "output_dim": D,
}


def events_of(seed: int, n: int = 1_500, partitions: int = 2, users: int = 150, days: int = 20) -> pd.DataFrame:
    return random_stream(seed, n, partitions=partitions, users=users, pins=200, days=days)


def logged(path: Path, events: pd.DataFrame, partitions: int = 2) -> Settings:
    """A data directory whose log holds events."""
    settings = Settings(data=path, partitions=partitions)
    append(settings, events)
    return settings


def append(settings: Settings, events: pd.DataFrame) -> None:
    driving.write(settings, events, np.random.default_rng(0))


def version(settings: Settings, pins: np.ndarray, seed: int = 0, **changes: Any) -> Path:
    """The next version, of random weights and vectors that follow from the seed."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    ids = np.unique(pins).astype(np.int64)
    config = EmbeddingConfig(**SMALL | {"seed": seed} | changes)
    vectors = PinVectors(ids, rng.standard_normal((len(ids), config.vector_dim)).astype(np.float32))
    torch.manual_seed(seed)
    former = PinnerFormer(config, torch.from_numpy(vectors.vectors.copy()))
    vocabulary = settings.load_vocabulary()
    model = EmbeddingModel(former.eval(), vectors, dict(vocabulary.actions), dict(vocabulary.surfaces))
    return write(
        settings,
        model,
        sequences="0" * 32,
        vectors=vectors.digest(),
        vectors_from="file",
        reflects=None,
        build=build_of(seed),
        metrics={"seed": seed},
    )


def before(events: pd.DataFrame, share: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The first records of each partition, and the others."""
    of = events.groupby("partition")["offset"]
    first = of.cumcount() < share * of.transform("size")
    return events[first], events[~first]


def files_of(directory: Path) -> Mapping[str, bytes]:
    """Every file below, by its name."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def elsewhere(settings: Settings, path: Path) -> Settings:
    return dataclasses.replace(settings, data=path)
