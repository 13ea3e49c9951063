"""What a base says of examples, with the score that requests are ranked by: how arms without a learner are scored."""

from __future__ import annotations

import numpy as np

from online_model.model.columns import ExampleColumns
from online_model.model.scoring import utility_of
from online_model.studies.bases import Base, probabilities_of
from online_model.studies.study import Scores


def ranked(base: Base, columns: ExampleColumns, index: np.ndarray | None = None) -> Scores:
    """Scores of examples, or of some of them, by one base as it was trained; requests are ranked by utility, in which a hide counts against."""
    heads = base.ranker.config.heads
    probabilities = probabilities_of(base, base.tables(), columns, np.arange(len(columns)) if index is None else index)
    return Scores(heads, probabilities, utility_of(probabilities, heads))
