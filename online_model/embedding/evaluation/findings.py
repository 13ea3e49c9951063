"""What an evaluation has found, as plain values: the same for the terminal, JSON and the page. It holds no time of a clock and no path.

Differences are paired: both sides see the same draws of users, and over seeds their mean is told, as in `online_model.evaluation.bootstrap`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import numpy as np

from online_model.embedding.evaluation.arms import Bench, Measured
from online_model.embedding.evaluation.measures import coverage
from online_model.embedding.evaluation.plan import ALL, EvaluationPlan
from online_model.embedding.evaluation.tables import COVERAGE, LOSS, METRICS, POPULAR, RECALL, Order, PaperTable, Row
from online_model.evaluation.bootstrap import Difference, Resamples, pooled, weights_of
from online_model.evaluation.metrics import Head, Value
from online_model.evaluation.user_sums import weighted_sums

_BASE = "base"
"""The plan's embedding itself, as a row under the empty key."""

_NO_DRAWS = "a draw of users has fewer different ones, and so covers less: what is told is whether all seeds agree"
_SEEDS = 2
"""So few can agree: one is on a side of 0 whatever is true."""


@dataclass(frozen=True, eq=False)
class SeedRows:
    """What one seed has shown: by key of the table and name of the row; of pins by popularity under an empty key."""

    bench: Bench
    rows: Mapping[tuple[str, str], Measured]


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure, and the same under each draw of users (nan where a draw has none).

    Attributes
    ----------
    value : Value
    drawn : float64[resamples]
    """

    value: Value
    drawn: np.ndarray


def findings(
    plan: EvaluationPlan, tables: Sequence[PaperTable], quick: bool, seeds: Sequence[SeedRows], build: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything, for JSON.

    Parameters
    ----------
    plan : EvaluationPlan
    tables : sequence of PaperTable
    quick : bool
        Whether the plan is the small one.
    seeds : sequence of SeedRows
    build : mapping
        What decides bits beside the plan.
    """
    figures = [_figures(plan, tables, seed) for seed in seeds]
    types = list(dict.fromkeys(row.types for table in tables for row in table.rows))
    return {
        "evaluation": "pinnerformer",
        "plan": plan.name,
        "quick": quick,
        "configuration": plan.to_dict(),
        "build": dict(build),
        "seeds": {str(one.bench.seed): _sizes(one.bench) for one in seeds},
        "popular": {of: {metric: _told([each["", POPULAR, of, metric] for each in figures]) for metric in METRICS} for of in types},
        "over_popular": None
        if _base_row(plan, tables) is None
        else _difference(figures, ("", _BASE, ALL, RECALL), ("", POPULAR, ALL, RECALL), seeds),
        "tables": {table.key: _table(table, figures, seeds) for table in tables},
    }


def _base_row(plan: EvaluationPlan, tables: Sequence[PaperTable]) -> tuple[str, Row] | None:
    """A row that is the plan's own embedding, inferred once, asked for everything."""
    usual = plan.embedding.to_dict()
    for table in tables:
        for row in table.rows:
            same = all(usual[name] == (list(value) if isinstance(value, tuple) else value) for name, value in row.arm.items())
            if same and row.types == ALL and row.refresh == "once":
                return table.key, row
    return None


def _figures(plan: EvaluationPlan, tables: Sequence[PaperTable], seed: SeedRows) -> dict[tuple[str, str, str, str], Figure]:
    """Of all rows, by key of the table, row, type and metric. Rows that are one measurement share its figures."""
    corpus = len(seed.bench.corpus)
    made: dict[tuple[int, str, str], Figure] = {}
    to_draw: list[tuple[np.ndarray, np.ndarray]] = []

    def figure(of: Measured, kind: str, metric: str) -> Figure:
        key = (id(of), kind if metric == RECALL else "", metric)
        if key not in made:
            values = _by_user(of, kind, metric)
            made[key] = _coverage(of.near, corpus, plan.resamples) if metric == COVERAGE else _of_users(values, plan.resamples)
            if metric != COVERAGE and values is not None:
                to_draw.append((values, made[key].drawn))
        return made[key]

    out = {}
    asked = [(table.key, row.name, row.types, seed.rows[table.key, row.name]) for table in tables for row in table.rows]
    kinds = dict.fromkeys(kind for _, _, kind, _ in asked)
    asked += [("", POPULAR, kind, seed.rows["", POPULAR]) for kind in kinds]
    if (base := _base_row(plan, tables)) is not None:
        asked.append(("", _BASE, ALL, seed.rows[base[0], base[1].name]))
    for key, name, kind, measured in asked:
        for metric in METRICS:
            out[key, name, kind, metric] = figure(measured, kind, metric)
    # A few draws at once: weights of all of them, for many users, would be gigabytes.
    for start, weights in weights_of(len(seed.bench.users), plan.resamples, seed.bench.seed):
        for values, drawn in to_draw:
            drawn[start : start + weights.shape[1]] = _under(values, weights)
    for table in tables:
        for name, (of, than) in table.losses.items():
            out[table.key, name, ALL, LOSS] = _loss(*(out[table.key, row, ALL, RECALL] for row in (of, than)))
    return out


def _by_user(of: Measured, kind: str, metric: str) -> np.ndarray | None:
    return of.recall[kind] if metric == RECALL else of.entropy


def _of_users(values: np.ndarray | None, resamples: int) -> Figure:
    """The mean over users that have a value; draws are filled in later."""
    drawn = np.full(resamples, np.nan)
    if values is None:
        return Figure(Value(None, 0, "users", "nobody knows topics"), drawn)
    known = ~np.isnan(values)
    if not known.any():
        return Figure(Value(None, 0, "users", "no evaluated user has such a pin"), drawn)
    return Figure(Value(float(values[known].mean()), int(known.sum()), "users"), drawn)


def _under(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean over users that have a value, under each draw: float64[b]."""
    known = ~np.isnan(values)
    above, below = weighted_sums(np.column_stack([np.where(known, values, 0.0), known.astype(np.float64)]), weights)
    with np.errstate(invalid="ignore"):
        return above / below


def _coverage(near: np.ndarray, corpus: int, resamples: int) -> Figure:
    """Never under draws: a draw has fewer different users, and so fewer different pins, whatever is true of others."""
    return Figure(Value(coverage(near, corpus), len(near), "users"), np.full(resamples, np.nan))


def _loss(of: Figure, than: Figure) -> Figure:
    """What is lost from one to the other, as a share of the first."""
    counted = of.value.counted
    if not of.value.value or than.value.value is None:
        return Figure(Value(None, counted, "users", "there is nothing to lose"), np.full(len(of.drawn), np.nan))
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = np.where(of.drawn > 0, 1 - than.drawn / of.drawn, np.nan)
    return Figure(Value(1 - than.value.value / of.value.value, counted, "users"), drawn)


def _sizes(bench: Bench) -> dict[str, int]:
    return {
        "users_trained": len(bench.split.train),
        "actions_trained": len(bench.split.train.pin),
        "users_evaluated": len(bench.users),
        "pins_to_find": len(bench.targets[ALL]),
        "pins_without_vector": bench.asked - len(bench.targets[ALL]),
        "corpus": len(bench.corpus),
        "begin_ms": bench.split.begin_ms,
        "end_ms": bench.split.end_ms,
    }


def _table(table: PaperTable, figures: Sequence[Mapping[Any, Figure]], seeds: Sequence[SeedRows]) -> dict[str, Any]:
    rows = {
        row.name: {
            "refresh": row.refresh.value,
            "to_find": row.types,
            "published": dict(row.published),
            **{metric: _told([each[table.key, row.name, row.types, metric] for each in figures]) for metric in METRICS},
        }
        for row in table.rows
    }
    types = {row.name: row.types for row in table.rows}
    published = {row.name: row.published for row in table.rows}
    losses = {name: _published_loss(published, *of) for name, of in table.losses.items()}
    return {
        "title": table.title,
        "rows": rows,
        "losses": {
            name: {"published": losses[name], **_told([each[table.key, name, ALL, LOSS] for each in figures])} for name in table.losses
        },
        "orders": [_order(one, table.key, types, published, losses, figures, seeds) for one in table.orders],
    }


def _published_loss(published: Mapping[str, Mapping[str, float]], of: str, than: str) -> float | None:
    sides = [published[name].get(RECALL) for name in (of, than)]
    return None if sides[0] is None or sides[1] is None else 1 - sides[1] / sides[0]


def _told(of: Sequence[Figure]) -> dict[str, Any]:
    values = [one.value.value for one in of]
    known = [value for value in values if value is not None]
    return {"value": mean(known) if len(known) == len(values) else None, "by_seed": values}


def _order(
    order: Order,
    key: str,
    types: Mapping[str, str],
    published: Mapping[str, Mapping[str, float]],
    losses: Mapping[str, float | None],
    figures: Sequence[Mapping[Any, Figure]],
    seeds: Sequence[SeedRows],
) -> dict[str, Any]:
    names = (order.this, order.against)
    sides = [(key, name, ALL if order.metric == LOSS else types[name], order.metric) for name in names]
    found = _difference(figures, sides[0], sides[1], seeds)
    theirs = [losses[name] if order.metric == LOSS else published[name].get(order.metric) for name in names]
    return {
        "this": order.this,
        "against": order.against,
        "metric": order.metric,
        "up": order.up,
        "published": theirs,
        **found,
        "shows": _in_all_seeds(order.up, found["by_seed"]) if order.metric == COVERAGE else _shows(order.up, found["low"], found["high"]),
    }


def _shows(up: bool, low: float | None, high: float | None) -> str:
    """Whether the difference lies on the paper's side of 0, by more than chance."""
    if low is None or high is None:
        return "unknown"
    if low <= 0 <= high:
        return "within chance"
    return "yes" if (low > 0) == up else "opposite"


def _in_all_seeds(up: bool, by_seed: Sequence[float | None]) -> str:
    """The same of a figure that has no interval: which side of 0 all seeds are on."""
    known = [value for value in by_seed if value is not None]
    if len(known) < len(by_seed) or len(known) < _SEEDS:
        return "unknown"
    sides = {(value > 0) - (value < 0) for value in known}
    return {1: "yes", -1: "opposite"}.get(next(iter(sides)) * (1 if up else -1), "within chance") if len(sides) == 1 else "within chance"


def _difference(
    figures: Sequence[Mapping[Any, Figure]], this: tuple[str, ...], against: tuple[str, ...], seeds: Sequence[SeedRows]
) -> dict[str, Any]:
    """The mean over seeds of this less against, with its interval."""
    parts = []
    for each, seed in zip(figures, seeds, strict=True):
        sides = (each[this], each[against])
        one, other = (Head(side.value.counted, side.value.counted, {"value": side.value}) for side in sides)
        users = len(seed.bench.users)
        parts.append(Resamples({"all": (one, other)}, np.stack([side.drawn for side in sides])[None, :, None, :], users, seed.bench.seed))
    found: Difference = pooled(parts).differences[0]
    by_seed = [_less(*(side.metrics["value"].value for side in part.heads["all"])) for part in parts]
    known = [value for value in by_seed if value is not None]
    return {
        "value": found.difference,
        "low": found.low,
        "high": found.high,
        "p_value": found.p_value,
        "minimum_detectable_effect": found.detectable,
        "by_seed": by_seed,
        "seeds_standard_deviation": stdev(known) if len(known) > 1 else None,
    } | ({"reason": found.reason if this[-1] != COVERAGE else _NO_DRAWS} if found.reason else {})


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other
