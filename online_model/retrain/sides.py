"""A model as it is judged: its weights, rows and calibrators, and what it says of examples. It never learns here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flows.examples.record import HEADS
from flows.examples.rows import ExampleRows
from online_model.model.calibration import Calibrators
from online_model.model.columns import ExampleColumns
from online_model.model.config import ModelConfig
from online_model.model.dense import load_dense
from online_model.model.ranker import Ranker
from online_model.model.scoring import score_rows
from online_model.model.served_vectors import ServedVectors
from online_model.registry.manifest import CALIBRATORS, DENSE
from online_model.training.tables import Tables


@dataclass(frozen=True)
class Model:
    """A model as it is served."""

    ranker: Ranker
    tables: Tables
    calibrators: Calibrators
    vectors: ServedVectors | None = None

    @classmethod
    def load(cls, directory: Path, config: ModelConfig, vectors: ServedVectors | None = None) -> Model:
        """Of a base, or of a draft.

        Raises
        ------
        CorruptionError
        """
        ranker = load_dense(config, directory / DENSE).eval()
        return cls(ranker, Tables.load(directory), Calibrators.load(directory / CALIBRATORS), vectors)

    def probabilities(self, rows: ExampleRows) -> np.ndarray:
        """What is served of rows: float64[n, 5] in the order of HEADS; 0.5 for a head that the model hasn't got."""
        columns = self.tables.rows_in(ExampleColumns.of([rows], self.vectors))
        features = columns.features(np.arange(len(columns)), self.ranker.config.sequence_length)
        said = self.calibrators.probabilities(score_rows(self.ranker, self.tables.gather(features)))
        return np.concatenate([said, np.full((len(rows), len(HEADS) - said.shape[1]), 0.5)], 1)
