"""The gate: nothing of an example is learned before it is scored, both models meet the same, and the rule says what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from benchmarks._examples import START
from flows.errors import SettingsError
from flows.examples.record import Kind
from flows.examples.rows import ExampleRows
from flows.examples.store import open_examples
from flows.settings import DAY_MS, Settings
from online_model.evaluation.bootstrap import Difference
from online_model.evaluation.metrics import Value
from online_model.learner.config import LearnerConfig
from online_model.learner.step import Learned, Step
from online_model.model.config import ModelConfig
from online_model.registry.registry import Registry
from online_model.retrain.gate import Rule, judge
from online_model.retrain.sides import Model
from online_model.retrain.spans import HeldBack, learned_by, next_spans

WithBase = Callable[..., Settings]


def test_examples_are_scored_before_anything_of_them_is_learned(with_base: WithBase, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = with_base()
    registry, examples = Registry.of(settings), open_examples(settings)
    base = registry.base(1)
    spans = next_spans(examples, learned_by(base), START + 12 * DAY_MS, HeldBack(DAY_MS // 2, DAY_MS // 2))
    seen: list[tuple[str, set[tuple[int, str, int]]]] = []

    def keys(rows: ExampleRows) -> set[tuple[int, str, int]]:
        return set(zip(rows.user_id.tolist(), rows.request_id.to_pylist(), rows.pin_id.tolist(), strict=True))

    scores = Model.probabilities

    def scored(self: Model, rows: ExampleRows) -> np.ndarray:
        seen.append(("scored", keys(rows)))
        assert (rows.kind == Kind.NEGATIVE).all()
        return scores(self, rows)

    learn = Step.learn

    def learned_from(self: Step, rows: ExampleRows) -> Learned:
        seen.append(("learned", keys(rows)))
        return learn(self, rows)

    monkeypatch.setattr(Model, "probabilities", scored)
    monkeypatch.setattr(Step, "learn", learned_from)
    model = Model.load(base.path, ModelConfig.from_dict(base.manifest.about.config["model"]))
    judged = judge(
        examples,
        spans,
        model,
        None,
        LearnerConfig(batch_rows=64),
        Rule(),
        registry.bases.expected.features,
        0,
    )
    examples.close()
    assert judged.passed
    learned: set[tuple[int, str, int]] = set()
    first: set[tuple[int, str, int]] = set()
    for what, which in seen:
        if what == "scored":
            # A request may show a pin twice; the first one counts.
            assert not (which - first) & learned
            first |= which
        else:
            learned |= which
    assert judged.figures["rows"] == len(first) > 50


def difference(value: float, low: float, high: float, head: str = "save", metric: str = "auc") -> Difference:
    value_of = Value(0.5, 10, "rows")
    return Difference(head, metric, value_of, value_of, value, low, high, 0.5, 0.1)


@pytest.mark.parametrize(
    ("rule", "found", "passes"),
    [
        (Rule(), difference(0.01, 0.005, 0.02), True),
        (Rule(), difference(-0.004, -0.0045, -0.003), True),  # worse for certain, and within the tolerance
        (Rule(), difference(-0.02, -0.05, 0.01), True),  # it may be chance
        (Rule(), difference(-0.02, -0.03, -0.01), False),
        (Rule(tolerance=0.0), difference(-0.001, -0.002, -0.0005), False),
        (Rule(metric="logloss"), difference(0.02, 0.01, 0.03, metric="logloss"), False),
        (Rule(metric="logloss"), difference(-0.02, -0.03, -0.01, metric="logloss"), True),
        (Rule("hide", "hit@3"), difference(0.02, 0.01, 0.03, "hide", "hit@3"), False),  # more hides at the top
        (Rule("hide", "hit@3"), difference(-0.02, -0.03, -0.01, "hide", "hit@3"), True),
        (Rule("hide", "auc"), difference(-0.02, -0.03, -0.01, "hide", "auc"), False),
    ],
)
def test_the_rule(rule: Rule, found: Difference, passes: bool) -> None:
    assert rule.judge(found).passed is passes


def test_what_cannot_be_told_is_not_let_pass() -> None:
    verdict = Rule().judge(replace(difference(0.1, 0, 0), low=None, high=None, reason="no row is positive"))
    assert not verdict.passed
    assert "no row is positive" in verdict.reason


@pytest.mark.parametrize("wrong", [{"head": "saves"}, {"metric": "calibration"}, {"metric": "f1"}, {"tolerance": -1.0}])
def test_a_rule_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="gate"):
        Rule(**wrong)  # type: ignore[arg-type]
