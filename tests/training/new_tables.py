"""Tables as a first training begins with them."""

from __future__ import annotations

import numpy as np

from online_model.table import EmbeddingTable, TableConfig
from online_model.training.tables import Tables

DIM = 8


def tables(admit_after: int = 2) -> Tables:
    default = np.full(DIM, 0.01, np.float32)
    return Tables(*(EmbeddingTable(TableConfig(DIM, admit_after=admit_after), default) for _ in range(2)))
