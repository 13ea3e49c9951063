"""What a study is: its arms, the differences between them that count, what others have published of these, and how arms are scored.

All of it is said before anything is run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flows.examples.record import HEADS
from online_model.evaluation.bootstrap import Resamples
from online_model.evaluation.metrics import Head
from online_model.evaluation.scored import ScoredRows, scored_rows
from online_model.model.config import ModelConfig
from online_model.model.served_vectors import ServedVectors
from online_model.studies.bases import Base, Window, base_of
from online_model.studies.kept import Kept
from online_model.studies.plan import Plan
from online_model.studies.stream import Evaluated, Stream
from online_model.training.config import TrainingConfig

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it, and of how much; 0 of 0 where nobody knows."""


@dataclass(frozen=True)
class Against:
    """A difference: an arm less another."""

    name: str
    this: str
    against: str


@dataclass(frozen=True)
class Direction:
    """What others have found, as a question to a difference.

    Parameters
    ----------
    difference, head, metric : str
    up : bool or None
        Whether the difference was above 0, or below; None: it was not worse.
    source : str
        Who has found it, and how much it was where that is known.
    unless : str
        Why it may not show here, which is said where it doesn't.
    """

    difference: str
    head: str
    metric: str
    up: bool | None
    source: str
    unless: str


@dataclass(frozen=True)
class Scores:
    """What an arm says of the evaluated examples.

    Parameters
    ----------
    heads : tuple of str
    probabilities : float64[k, heads]
    score : float64[k], optional
        What requests are ranked by, for all heads; by default each head's own probability.
    """

    heads: tuple[str, ...]
    probabilities: np.ndarray
    score: np.ndarray | None = None

    def measured(self, evaluated: Evaluated) -> ScoredRows:
        """With labels and keys, as rows that metrics are made of. With a `score`, of all heads; else of those that it has."""
        rows = evaluated.rows
        heads = HEADS if self.score is not None else self.heads
        return scored_rows(
            user_id=rows.user_id,
            request_id=rows.request_id,
            pin_id=rows.pin_id,
            request_time=rows.request_time,
            labels={head: evaluated.labels[:, HEADS.index(head)] for head in heads},
            probabilities={head: self.probabilities[:, i] for i, head in enumerate(self.heads)},
            score=self.score,
            where="study",
        )


@dataclass(frozen=True, eq=False)
class Bench:
    """One history on which all arms are made and scored.

    Attributes
    ----------
    plan : Plan
    stream : Stream
    seed : int
    work : Path
        Where bases lie.
    kept : Kept
        Where scores lie.
    progress : callable
    """

    plan: Plan
    stream: Stream
    seed: int
    work: Path
    kept: Kept
    progress: Progress

    @property
    def span(self) -> tuple[int, int]:
        """What is evaluated, ms."""
        return self.plan.days.moment("evaluate"), self.plan.days.moment("until")

    def base(
        self,
        window: Window | None = None,
        model: ModelConfig | None = None,
        training: TrainingConfig | None = None,
        parent: Base | None = None,
        vectors: ServedVectors | None = None,
    ) -> Base:
        """A base of this history; by default of the plan's days, model and training. The seed is this history's.

        `vectors` are for a model that takes user embeddings.
        """
        days = self.plan.days
        usual_model, usual_training = self.plan.of_seed(self.seed)
        return base_of(
            self.stream,
            window or Window(days.moment("train"), days.moment("calibrate"), days.moment("evaluate")),
            model or usual_model,
            training or usual_training,
            self.work / "bases",
            parent,
            lambda done, total: self.progress("training", done, total),
            vectors,
        )

    def scores(
        self, names: Sequence[str], said: Mapping[str, Any], make: Callable[[Sequence[str]], Mapping[str, Scores]]
    ) -> dict[str, Scores]:
        """Of some arms: found where they were kept, and those that are missing made together.

        Parameters
        ----------
        names : sequence of str
        said : mapping
            Plain values: all that decides the scores, beside the history, the span and an arm's name.
        make : callable
            Gets the names that are missing.
        """
        whole = {"history": self.stream.digest, "span": self.span, **said}
        found = {name: kept for name in names if (kept := self.kept.get(name, whole)) is not None}
        out = {name: Scores(tuple(kept["heads"].tolist()), kept["probabilities"], kept.get("score")) for name, kept in found.items()}
        missing = [name for name in names if name not in out]
        if missing:
            for name, scores in make(missing).items():
                arrays = {"heads": np.array(scores.heads), "probabilities": scores.probabilities}
                self.kept.put(name, whole, arrays | ({} if scores.score is None else {"score": scores.score}))
                out[name] = scores
        return {name: out[name] for name in names}


@dataclass(frozen=True, eq=False)
class Seed:
    """What one history has shown.

    Attributes
    ----------
    seed : int
    rows, users : int
        How much was measured, in the study's unit, and of how many users.
    arms : dict of str to dict of str to Head
    best : dict of str to Head
        Of the true chances.
    by_time : dict of str to list of dict of str to Head
        By arm and bucket; empty where the study doesn't ask.
    resamples : dict of str to Resamples
        By name of the difference.
    by_score : bool
        Whether requests are ranked by one score for all heads.
    """

    seed: int
    rows: int
    users: int
    arms: dict[str, dict[str, Head]]
    best: dict[str, Head]
    by_time: dict[str, list[dict[str, Head]]]
    resamples: dict[str, Resamples]
    by_score: bool


@dataclass(frozen=True)
class Study:
    """See the module.

    Parameters
    ----------
    name : str
        Of the command.
    question : str
    arms : mapping of str to value
        By name, as plain values that tell what an arm is.
    differences : sequence of Against
    main : (str, str, str, str)
        What `results` says: key, difference, head, metric. Of the first world, and of the control.
    shown : sequence of (str, str)
        Head and metric: what is told in the terminal and on the page. JSON has all.
    directions : sequence of Direction
        Of the first world; a control has none.
    measure : callable
        Of this study and a bench: what every arm does on its history. Most say it by scores, `measuring.by_scores`.
    full, quick : Plan
    bucket_ms : int or None
        Arms are told by time too, in buckets of so long.
    published : mapping of str to str
        Figures of others, to be held against.
    unit : str
        What is counted.
    """

    name: str
    question: str
    arms: Mapping[str, Any]
    differences: Sequence[Against]
    main: tuple[str, str, str, str]
    shown: Sequence[tuple[str, str]]
    directions: Sequence[Direction]
    measure: Callable[[Study, Bench], Seed]
    full: Plan
    quick: Plan
    bucket_ms: int | None = None
    published: Mapping[str, str] = field(default_factory=dict)
    unit: str = "pins"
