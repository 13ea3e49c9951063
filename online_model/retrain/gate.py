"""The gate: whether a candidate may be served in the incumbent's place. Both score what is new to both, and learn on; then they are compared.

Both carry increments up to the cut alone, made here by one learner from the log: what the online learner has put out is never asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from flows import stopping
from flows.errors import InputError, SettingsError
from flows.examples.merging import Merged
from flows.examples.record import HEADS, Kind
from flows.examples.rows import ExampleRows
from flows.examples.store import Examples, Fingerprints, Once
from flows.settings import HOUR_MS
from online_model.evaluation.bootstrap import Difference, compare
from online_model.evaluation.metrics import HIGHER_IS_BETTER, METRICS, measure
from online_model.evaluation.prequential import prequential
from online_model.evaluation.report import comparison_json
from online_model.evaluation.scored import ScoredRows
from online_model.evaluation.user_sums import RANKING
from online_model.learner.config import LearnerConfig
from online_model.learner.step import Step
from online_model.model.scoring import UTILITY
from online_model.retrain.shadow import Told, as_online
from online_model.retrain.sides import Model
from online_model.retrain.spans import Spans, Until
from online_model.training.errors import TrainingStoppedError

SPAN_MS = HOUR_MS
"""What a micro-batch of the gate may span. Online it is seconds, for freshness; of a sparse history that would be record by record."""


@dataclass(frozen=True)
class Rule:
    """When a candidate is refused: its metric is worse by more than the tolerance, and the whole interval of the difference says worse.

    Raises
    ------
    SettingsError
        There is no such head or metric, or no such tolerance.
    """

    head: str = "save"
    metric: str = "auc"
    tolerance: float = 0.005

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise SettingsError(f"gate: there is no head '{self.head}'; there are {', '.join(HEADS)}")
        if self.metric not in METRICS or HIGHER_IS_BETTER[self.metric] is None:
            raise SettingsError(
                f"gate: '{self.metric}' is no metric to decide by; there are {', '.join(m for m in METRICS if HIGHER_IS_BETTER[m] is not None)}"
            )
        if not 0 <= self.tolerance < 1e6:
            raise SettingsError(f"gate: the tolerance must be 0 or more, not {self.tolerance!r}")

    @property
    def sign(self) -> int:
        """1 where higher is better, −1 where lower is: a hide among the first three is what nobody wants."""
        better = HIGHER_IS_BETTER[self.metric]
        return 1 if bool(better) != (self.head == "hide" and self.metric in RANKING) else -1

    def judge(self, found: Difference) -> Verdict:
        """Of a candidate's metric less the incumbent's."""
        what = f"{self.head} {self.metric}"
        if found.difference is None or found.low is None or found.high is None:
            return Verdict(False, f"it can't be told: {found.reason}; widen --hold-back, or choose another --gate", found)
        gain = self.sign * found.difference
        best = max(self.sign * found.low, self.sign * found.high)
        said = (
            f"{what} {_number(found.value.value)} against {_number(found.against.value)}: {found.difference:+.4f} "
            f"[{found.low:+.4f}, {found.high:+.4f}], tolerance {self.tolerance:g}; the least that would show is {_number(found.detectable)}"
        )
        if gain < -self.tolerance and best < 0:
            return Verdict(False, f"worse: {said}", found)
        return Verdict(True, said, found)


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate passed, why, and the difference that decided; None: there was nothing to compare with."""

    passed: bool
    reason: str
    difference: Difference | None = None


@dataclass(frozen=True)
class Judged:
    """All that the gate has found: `figures` are plain values for a manifest, a report, or JSON."""

    passed: bool
    reason: str
    figures: dict[str, Any]


def judge(
    examples: Examples,
    spans: Spans,
    candidate: Model,
    incumbent: tuple[Model, tuple[int, ...]] | None,
    config: LearnerConfig,
    rule: Rule,
    fingerprint: str | Fingerprints,
    seed: int,
    told: Told = lambda stage, done, total: None,
) -> Judged:
    """Score [cut, as_of) with both, prequentially, and decide.

    An example is scored when it is seen, before any of its outcomes could be learned from, and measured by its final labels; where the store holds
    final rows alone it is scored when they come.

    Parameters
    ----------
    examples : Examples
    spans : Spans
    candidate : Model
        Learns on in place, like the incumbent.
    incumbent : (Model, tuple of int) or None
        With the positions up to which its base has learned. None: there is none, and the candidate passes.
    config : LearnerConfig
        How both learn on.
    rule : Rule
        Of a head that both have.
    fingerprint : str or Fingerprints
        Of the features.
    seed : int
        Of the bootstrap.
    told : callable
    """
    at = Kind.NEGATIVE if _has_provisional(examples, spans) else Kind.FINAL
    try:
        ours = _scored(examples, spans, candidate, spans.learned, config, at, fingerprint, told, "candidate")
    except InputError as error:
        if incumbent is None:
            return Judged(True, f"there is no model to compare with, and nothing to measure by ({error})", {"at": at.name.lower()})
        return Judged(False, f"it can't be told: {error}", {"at": at.name.lower()})
    figures: dict[str, Any] = {"at": at.name.lower(), "rows": len(ours), "users": len(ours.user_id), "candidate": _measured(ours)}
    if incumbent is None:
        return Judged(True, "there is no model to compare with", figures)
    theirs = _scored(examples, spans, incumbent[0], incumbent[1], config, at, fingerprint, told, "incumbent")
    comparison = compare(ours, theirs, seed)
    found = next(d for d in comparison.differences if (d.head, d.metric) == (rule.head, rule.metric))
    verdict = rule.judge(found)
    figures |= {"incumbent": _measured(theirs), "comparison": comparison_json(comparison), "rule": asdict(rule)}
    return Judged(verdict.passed, verdict.reason, figures)


def _scored(
    examples: Examples,
    spans: Spans,
    model: Model,
    learned: tuple[int, ...],
    config: LearnerConfig,
    at: Kind,
    fingerprint: str | Fingerprints,
    told: Told,
    name: str,
) -> ScoredRows:
    step = Step(model.ranker, model.tables, config, vectors=model.vectors)
    done, total = 0, sum(spans.judged) - sum(learned)

    def batches(begin: tuple[int, ...], end: tuple[int, ...]) -> Iterator[ExampleRows]:
        nonlocal done
        sequence = Merged(Until(examples, end), begin, config.batch_rows, fingerprint, span_ms=max(config.batch_ms, SPAN_MS))
        while (batch := sequence.next(ended=True)) is not None:
            if stopping.requested():
                raise TrainingStoppedError("retrain: stopped while the gate was judging; the same command goes on")
            yield batch.rows
            done += len(batch)
            told(name, done, total)

    with as_online():
        for rows in batches(learned, spans.calibrated):
            step.learn(rows)
        return prequential(
            batches(spans.calibrated, spans.judged),
            model.probabilities,
            lambda rows: (step.learn(rows), None)[1],
            at=at,
            utility=[UTILITY[head] if head in model.ranker.config.heads else 0.0 for head in HEADS],
        )


def _has_provisional(examples: Examples, spans: Spans) -> bool:
    """Whether examples are there as they were when they were seen."""
    for partition, (low, high) in enumerate(zip(spans.calibrated, spans.judged, strict=True)):
        for stretch in Once(examples, partition, low).until(high):
            if (stretch.rows.kind == Kind.NEGATIVE).any():
                return True
    return False


def _measured(rows: ScoredRows) -> dict[str, dict[str, float | None]]:
    return {head: {name: value.value for name, value in found.metrics.items()} for head, found in measure(rows).items()}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
