"""The paper's tables: which arms are trained, how each row is measured, and which order the paper has found (arXiv 2205.04507, section 4).

All of it is said before anything is run. Published figures are those of its tables 2 to 6; figure 4 has no numbers, only that longer is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from online_model.embedding.config import FEATURES, Negatives, Objective
from online_model.embedding.evaluation.plan import ALL, EvaluationPlan
from online_model.embedding.evaluation.refresh import Refresh

RECALL, ENTROPY, COVERAGE, LOSS = "recall@10", "entropy@50", "coverage@10", "loss"
METRICS = (RECALL, ENTROPY, COVERAGE)
POPULAR = "popular"
"""The row of pins ranked by how often training users act on them in a positive way: the same for everybody."""
TABLES = ("table2", "table3", "table4", "table5", "table6", "figure4")
_DENSE, _SASREC = Objective.DENSE_ALL_ACTION, Objective.SASREC


@dataclass(frozen=True)
class Row:
    """A row, or a cell of one: an arm under a way to measure it.

    Parameters
    ----------
    name : str
    arm : mapping of str to value
        What it has otherwise than the plan's embedding.
    refresh : Refresh
    types : str
        Which pins are to be found: `ALL`, or a type of the plan.
    published : mapping of str to float
        By metric.
    """

    name: str
    arm: Mapping[str, Any] = field(default_factory=dict)
    refresh: Refresh = Refresh.ONCE
    types: str = ALL
    published: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Order:
    """What the paper has found: that a row is above another, or for the loss below it.

    Parameters
    ----------
    this, against : str
        Rows; for `LOSS` the arms of which it is one.
    metric : str
    up : bool
    """

    this: str
    against: str
    metric: str = RECALL
    up: bool = True


@dataclass(frozen=True)
class PaperTable:
    """A table.

    Parameters
    ----------
    key, title : str
    rows : sequence of Row
    orders : sequence of Order
    losses : mapping of str to (str, str)
        By name: what is lost from the first row to the second, as a share of the first.
    """

    key: str
    title: str
    rows: Sequence[Row]
    orders: Sequence[Order]
    losses: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def tables_of(plan: EvaluationPlan, keys: Sequence[str] = TABLES) -> list[PaperTable]:
    """The tables that a plan can have, of those asked for, in the paper's order."""
    made = {
        "table2": lambda: _refreshes(),
        "table3": lambda: _objectives(),
        "table4": lambda: _negatives(),
        "table5": lambda: _types(plan) if plan.types else None,
        "table6": lambda: _features(plan) if plan.without else None,
        "figure4": lambda: _lengths(plan) if len(plan.lengths) > 1 else None,
    }
    return [table for key in TABLES if key in keys and (table := made[key]()) is not None]


def _refreshes() -> PaperTable:
    figures = {_SASREC: (0.198, 0.216, 0.251), _DENSE: (0.229, 0.243, 0.264)}
    rows = [
        Row(f"{objective} {refresh}", {"objective": objective}, refresh, published={RECALL: figure})
        for objective, published in figures.items()
        for refresh, figure in zip(Refresh, published, strict=True)
    ]
    orders = [Order(f"{_DENSE} {refresh}", f"{_SASREC} {refresh}") for refresh in Refresh]
    for objective in figures:
        orders += [Order(f"{objective} daily", f"{objective} once"), Order(f"{objective} realtime", f"{objective} daily")]
    losses = {str(objective): (f"{objective} realtime", f"{objective} daily") for objective in figures}
    orders.append(Order(_DENSE, _SASREC, LOSS, up=False))
    return PaperTable("table2", "Table 2: how often users are inferred", rows, orders, losses)


def _objectives() -> PaperTable:
    figures = {
        Objective.NEXT_ACTION: (0.186, 0.050), _SASREC: (0.198, 0.048), Objective.ALL_ACTION: (0.224, 0.028), _DENSE: (0.229, 0.042),
    }  # fmt: skip
    rows = [Row(one.value, {"objective": one}, published={RECALL: r, COVERAGE: c}) for one, (r, c) in figures.items()]
    names = [row.name for row in rows]
    orders = [Order(better, worse) for worse, better in pairwise(names)]
    return PaperTable("table3", "Table 3: what outputs are trained to tell", rows, [*orders, Order(_DENSE, Objective.ALL_ACTION, COVERAGE)])


def _negatives() -> PaperTable:
    figures = {
        (Negatives.RANDOM, False): (0.136, 0.002), (Negatives.IN_BATCH, False): (0.071, 0.163), (Negatives.MIXED, False): (0.138, 0.083),
        (Negatives.RANDOM, True): (0.139, 0.001), (Negatives.IN_BATCH, True): (0.167, 0.119), (Negatives.MIXED, True): (0.229, 0.042),
    }  # fmt: skip
    rows = []
    for (negatives, corrected), (recall, covered) in figures.items():
        # What is drawn evenly is as likely as anything else: the correction adds one number to all logits, which a softmax doesn't see.
        arm = {"negatives": negatives, "log_q": corrected or negatives is Negatives.RANDOM}
        rows.append(Row(_negatives_name(negatives, corrected), arm, published={RECALL: recall, COVERAGE: covered}))
    mixed, in_batch, random = (_negatives_name(one, True) for one in (Negatives.MIXED, Negatives.IN_BATCH, Negatives.RANDOM))
    orders = [
        Order(in_batch, _negatives_name(Negatives.IN_BATCH, False)), Order(mixed, _negatives_name(Negatives.MIXED, False)),
        Order(mixed, in_batch), Order(mixed, random), Order(in_batch, mixed, COVERAGE), Order(mixed, random, COVERAGE),
    ]  # fmt: skip
    return PaperTable("table4", "Table 4: negatives, with and without correction by log Q", rows, orders)


def _negatives_name(negatives: Negatives, corrected: bool) -> str:
    return f"{negatives}, log Q" if corrected else negatives.value


def _types(plan: EvaluationPlan) -> PaperTable:
    """Trained on one type of positive actions or on all (rows), evaluated on each type and on all (columns)."""
    published = {
        "closeup": {"closeup": 0.27, "click": 0.02, "save": 0.09, ALL: 0.17}, "click": {"closeup": 0.01, "click": 0.49, "save": 0.01, ALL: 0.12},
        "save": {"closeup": 0.15, "click": 0.03, "save": 0.17, ALL: 0.13}, ALL: {"closeup": 0.23, "click": 0.28, "save": 0.13, ALL: 0.23},
    }  # fmt: skip
    rows, orders = [], []
    columns = [*plan.types, ALL]
    for trained in columns:
        arm = {} if trained == ALL else {"positives": plan.types[trained]}
        for of in columns:
            figure = published.get(trained, {}).get(of)
            rows.append(Row(_cell(trained, of), arm, types=of, published={} if figure is None else {RECALL: figure}))
    for one in plan.types:
        orders += [Order(_cell(one, one), _cell(ALL, one)), Order(_cell(ALL, ALL), _cell(one, ALL))]
        orders += [
            Order(_cell(ALL, one), _cell(other, one)) for other in plan.types if other != one and one in published and other in published
        ]
    return PaperTable("table5", "Table 5: learned from one type of action or from all", rows, orders)


def _cell(trained: str, of: str) -> str:
    return f"{trained} → {of}"


def _features(plan: EvaluationPlan) -> PaperTable:
    published = {
        "pin": {RECALL: 0.142, COVERAGE: 0.0005}, "time": {RECALL: 0.210}, "surface": {RECALL: 0.224}, "action": {RECALL: 0.226},
        "duration": {RECALL: 0.226},
    }  # fmt: skip
    whole = plan.embedding.features
    rows = [Row("every feature", published={RECALL: 0.229, COVERAGE: 0.042})]
    for name, left_out in plan.without.items():
        features = tuple(one for one in FEATURES if one in whole and one not in left_out)
        rows.append(Row(f"without {name}", {"features": features}, published=published.get(name, {})))
    orders = [Order(rows[0].name, row.name) for row in rows[1:]]
    if "pin" in plan.without:
        orders.append(Order(rows[0].name, "without pin", COVERAGE))
    return PaperTable("table6", "Table 6: a feature left out", rows, orders)


def _lengths(plan: EvaluationPlan) -> PaperTable:
    rows = [Row(f"{length} actions", {"length": length}) for length in sorted(plan.lengths)]
    names = [row.name for row in rows]
    orders = [Order(longer, shorter) for shorter, longer in pairwise(names)]
    return PaperTable("figure4", "Figure 4: how many actions are looked at", rows, orders)
