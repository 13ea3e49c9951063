"""A model as it is judged: its weights, rows and calibrators, learning on as it would online, and what it says of examples before it learns them.

Which learner that is, is an argument: the gate and the catching up have the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from flows.examples.merging import Merged, MergedBatch
from flows.examples.record import HEADS
from flows.examples.rows import ExampleRows
from flows.examples.store import Examples
from online_model.model.calibration import Calibrators
from online_model.model.columns import ExampleColumns
from online_model.model.config import ModelConfig
from online_model.model.dense import DENSE, load_dense
from online_model.model.ranker import Ranker
from online_model.model.scoring import score_rows
from online_model.training.tables import Tables
from online_model.training.train import CALIBRATORS


class Learning(Protocol):
    """A model that learns on, batch by batch, its tables in place; `time` is the newest event time of what it has learned, ms, or -1."""

    time: int

    def learn(self, rows: ExampleRows) -> object: ...


@dataclass(frozen=True)
class LearnerOf:
    """How a model learns online.

    Attributes
    ----------
    batch_rows : int
        Records of a micro-batch.
    make : callable
        Of a ranker and its tables, what learns.
    """

    batch_rows: int
    make: Callable[[Ranker, Tables], Learning]


@dataclass(frozen=True)
class Model:
    """A model as it is served."""

    ranker: Ranker
    tables: Tables
    calibrators: Calibrators

    @classmethod
    def load(cls, directory: Path, config: ModelConfig) -> Model:
        """Of a base, or of a draft.

        Raises
        ------
        CorruptionError
        """
        ranker = load_dense(config, directory / DENSE).eval()
        return cls(ranker, Tables.load(directory), Calibrators.load(directory / CALIBRATORS))

    def probabilities(self, rows: ExampleRows) -> np.ndarray:
        """What is served of rows: float64[n, 5] in the order of HEADS; 0.5 for a head that the model hasn't got."""
        columns = self.tables.rows_in(ExampleColumns.of([rows]))
        features = columns.features(np.arange(len(columns)), self.ranker.config.sequence_length)
        said = self.calibrators.probabilities(score_rows(self.ranker, self.tables.gather(features)))
        return np.concatenate([said, np.full((len(rows), len(HEADS) - said.shape[1]), 0.5)], 1)


def merged(examples: Examples, begin: tuple[int, ...], batch_rows: int, fingerprint: str, ended: bool) -> Iterator[MergedBatch]:
    """All examples from some positions on, in the one order in which they became known.

    Parameters
    ----------
    ended : bool
        The last batch too, though it be smaller.
    """
    sequence = Merged(examples, begin, batch_rows, fingerprint)
    while (batch := sequence.next(ended)) is not None:
        yield batch
