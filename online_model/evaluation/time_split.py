"""Time-split evaluation: train on days, calibrate on the day after them, evaluate on the days after that. Nothing is learned from what is evaluated.

The paper has 27, 1 and 3 days. Rows are of the day of their request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flows.errors import InputError
from flows.examples.record import HEADS, Kind
from flows.examples.rows import ExampleRows
from online_model.evaluation.outcomes import Labels, example_of, labels_of, records_of
from online_model.evaluation.prequential import rows_with_scores
from online_model.evaluation.scored import ScoredRows


@dataclass(frozen=True)
class TimeSplit:
    """Where spans begin; each ends where the next one begins. All in ms, by time of the request.

    Raises
    ------
    InputError
        A span is empty or runs backwards.
    """

    train: int
    calibrate: int
    evaluate: int
    until: int

    def __post_init__(self) -> None:
        if not self.train < self.calibrate < self.evaluate < self.until:
            raise InputError(
                f"time split: training from {self.train}, calibration from {self.calibrate}, evaluation from {self.evaluate} until {self.until}: "
                "each must begin after the one before"
            )


def time_split(
    rows: ExampleRows,
    split: TimeSplit,
    train: Callable[[ExampleRows], None],
    calibrate: Callable[[ExampleRows], None],
    score: Callable[[ExampleRows], np.ndarray],
    *,
    labels: Labels = Labels.FINAL,
    utility: Sequence[float] | None = None,
) -> ScoredRows:
    """Train, calibrate and score, each on its own span of final rows.

    Parameters
    ----------
    rows : ExampleRows
        Records of other kinds are left out.
    split : TimeSplit
    train, calibrate : callable
        Get the final rows of their span.
    score : callable
        Rows to probabilities: float[n, 5], in the order of HEADS. Gets one row of each example.
    labels : Labels
        What is learned from. FINAL: all rows. KNOWN: those that were ready when the evaluation begins, as a retrain on that day would have it. That
        is no smaller sample of the same: of the last days it has the saves that wait for their revisits left out, and so no revisit at all.
        What is measured is measured by final labels either way.
    utility : sequence of 5 floats, optional
        As of `prequential`.

    Returns
    -------
    ScoredRows
        Of the evaluation's span.

    Raises
    ------
    InputError
        A span has no final rows.
    """
    final = rows.kind == Kind.FINAL
    ready = final & (rows.ready_time < split.evaluate) if labels == Labels.KNOWN else final
    spans = {
        "training": ready & _within(rows, split.train, split.calibrate),
        "calibration": ready & _within(rows, split.calibrate, split.evaluate),
        "evaluation": final & _within(rows, split.evaluate, split.until),
    }
    for name, span in spans.items():
        if not span.any():
            raise InputError(f"time split: there is no final row in the span of {name}; choose other days")
    train(rows.take(spans["training"]))
    calibrate(rows.take(spans["calibration"]))
    evaluated = rows.take(spans["evaluation"])
    records = records_of(evaluated)
    example = example_of(records)
    first = np.unique(example, return_index=True)[1]
    known = labels_of(example, len(first), records, Labels.FINAL)
    probabilities = np.asarray(score(evaluated.take(first)), np.float64).reshape(len(first), len(HEADS))
    return rows_with_scores(records.take(first), known, probabilities, utility, "time split")


def _within(rows: ExampleRows, first: int, until: int) -> np.ndarray:
    return (rows.request_time >= first) & (rows.request_time < until)
