"""What a study has found, as plain values: the same for the terminal, JSON and the page. It holds no time of a clock and no path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from online_model.evaluation.bootstrap import Comparison, Difference, pooled
from online_model.evaluation.metrics import Head
from online_model.evaluation.report import verdict as usual_verdict
from online_model.evaluation.user_sums import RANKING
from online_model.studies.plan import Plan
from online_model.studies.study import Direction, Seed, Study


def findings(study: Study, plan: Plan, quick: bool, worlds: Mapping[str, Sequence[Seed]], build: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, for JSON.

    Parameters
    ----------
    study : Study
    plan : Plan
    quick : bool
        Whether the plan is the small one.
    worlds : mapping of str to sequence of Seed
    build : mapping
        What decides bits beside the plan.
    """
    compared = {
        world: {one.name: pooled([seed.resamples[one.name] for seed in seeds]) for one in study.differences}
        for world, seeds in worlds.items()
    }
    key, name, head, metric = study.main
    told = {world: _difference(_pick(compared[world][name], head, metric), seeds, name) for world, seeds in worlds.items()}
    first = next(iter(worlds))
    results = {
        key if world == first else f"{key}_{world}": {"world": world, "difference": name, "head": head, "metric": metric, **told[world]}
        for world in worlds
    }
    return {
        "study": study.name,
        "question": study.question,
        "quick": quick,
        "shown": [list(one) for one in study.shown],
        "unit": study.unit,
        "configuration": plan.to_dict() | {"arms": dict(study.arms)},
        "build": dict(build),
        "results": results,
        "directions": [
            {"world": first, **_direction(one, _pick(compared[first][one.difference], one.head, one.metric), worlds[first][0].by_score)}
            for one in study.directions
        ],
        "published": dict(study.published),
        "worlds": {world: _world(study, seeds, compared[world]) for world, seeds in worlds.items()},
    }


def _world(study: Study, seeds: Sequence[Seed], compared: Mapping[str, Comparison]) -> dict[str, Any]:
    out: dict[str, Any] = {
        "seeds": {str(one.seed): {"rows": one.rows, "users": one.users} for one in seeds},
        "best": _heads([one.best for one in seeds]),
        "arms": {name: _heads([one.arms[name] for one in seeds]) for name in study.arms},
    }
    if study.bucket_ms is not None:
        buckets = range(len(next(iter(seeds[0].by_time.values()))))
        out["bucket_ms"] = study.bucket_ms
        out["by_time"] = {name: [_heads([one.by_time[name][i] for one in seeds]) for i in buckets] for name in study.arms}
    out["differences"] = {}
    for one in study.differences:
        of: dict[str, dict[str, Any]] = {}
        for each in compared[one.name].differences:
            of.setdefault(each.head, {})[each.metric] = _difference(each, seeds, one.name)
        out["differences"][one.name] = {"this": one.this, "against": one.against, "heads": of}
    return out


def _heads(sides: Sequence[Mapping[str, Head]]) -> dict[str, Any]:
    return {
        head: {"rows": sum(side[head].rows for side in sides), "positives": sum(side[head].positives for side in sides)}
        | {metric: _values([side[head].metrics[metric].value for side in sides]) for metric in sides[0][head].metrics}
        for head in sides[0]
    }


def _values(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    return {"value": mean(known) if len(known) == len(values) else None, "by_seed": list(values)}


def _pick(comparison: Comparison, head: str, metric: str) -> Difference:
    return next(one for one in comparison.differences if (one.head, one.metric) == (head, metric))


def _difference(one: Difference, seeds: Sequence[Seed], name: str) -> dict[str, Any]:
    """`name`: of the difference."""
    by_score = seeds[0].by_score
    sides = [[side.metrics[one.metric].value for side in seed.resamples[name].heads[one.head]] for seed in seeds]
    by_seed = [None if a is None or b is None else a - b for a, b in sides]
    known = [value for value in by_seed if value is not None]
    return {
        "value": one.difference,
        "low": one.low,
        "high": one.high,
        "p_value": one.p_value,
        "minimum_detectable_effect": one.detectable,
        "verdict": _verdict(one, by_score),
        "by_seed": by_seed,
        "seeds_standard_deviation": stdev(known) if len(known) > 1 else None,
        "this": one.value.value,
        "against": one.against.value,
    } | ({"reason": one.reason} if one.reason else {})


def _direction(direction: Direction, found: Difference, by_score: bool) -> dict[str, Any]:
    shows, why = _shows(direction, found, by_score)
    return {
        "difference": direction.difference,
        "head": direction.head,
        "metric": direction.metric,
        "published": {True: "up", False: "down", None: "not worse"}[direction.up],
        "source": direction.source,
        "value": found.difference,
        "low": found.low,
        "high": found.high,
        "minimum_detectable_effect": found.detectable,
        "shows": shows,
    } | ({"why": why} if why else {})


def _shows(direction: Direction, found: Difference, by_score: bool) -> tuple[str, str]:
    if found.low is None or found.high is None or found.detectable is None:
        return "unknown", found.reason
    if direction.up is None:
        if _verdict(found, by_score) == "worse":
            return "opposite", direction.unless
        return "yes", f"not seen to get worse; a true loss of {found.detectable:.4f} would have been seen four times in five"
    if found.low <= 0 <= found.high:
        less = abs(found.difference or 0) < found.detectable
        more = f"a true difference must be {found.detectable:.4f} to be seen four times in five; " if less else ""
        return "within chance", more + direction.unless
    return ("yes", "") if (found.low > 0) == direction.up else ("opposite", direction.unless)


def _verdict(one: Difference, by_score: bool) -> str:
    """As of any comparison; but where one score ranks for all heads, hides are what should not be on top."""
    usual = usual_verdict(one)
    if by_score and one.head == "hide" and one.metric in RANKING:
        return {"better": "worse", "worse": "better"}.get(usual, usual)
    return usual
