"""What is reported of a scoring, and of its comparison with another: values alone, which the terminal, JSON and the page show."""

from __future__ import annotations

from dataclasses import dataclass

from online_model.evaluation.bootstrap import LEVEL, POWER, Comparison, Difference
from online_model.evaluation.metrics import HIGHER_IS_BETTER, Bin, Head, measure, reliability
from online_model.evaluation.ordered import BINS
from online_model.evaluation.scored import ScoredRows
from online_model.evaluation.slices import Part, Slices, slices


@dataclass(frozen=True)
class Report:
    """A scoring.

    Attributes
    ----------
    name : str
    rows, requests, users : int
    first, last : int
        Times of the first and of the last request, ms.
    ranked_by : str
        "score" or "head".
    heads : dict of str to Head
    reliability : dict of str to list of Bin
    slices : Slices
    """

    name: str
    rows: int
    requests: int
    users: int
    first: int
    last: int
    ranked_by: str
    heads: dict[str, Head]
    reliability: dict[str, list[Bin]]
    slices: Slices


def report(rows: ScoredRows, name: str, bucket_ms: int | None = None) -> Report:
    """Everything that is said of a scoring; `bucket_ms` as of `slices`."""
    return Report(
        name=name,
        rows=len(rows),
        requests=len(rows.request_id),
        users=len(rows.user_id),
        first=int(rows.request_time.min()),
        last=int(rows.request_time.max()),
        ranked_by="head" if rows.score is None else "score",
        heads=measure(rows),
        reliability={head: reliability(rows, head) for head in rows.heads},
        slices=slices(rows, bucket_ms),
    )


def verdict(one: Difference) -> str:
    """What a difference means: better, worse, differs (where neither way is better), within chance (the interval holds 0), or unknown."""
    if one.low is None or one.high is None:
        return "unknown"
    if one.low <= 0 <= one.high:
        return "within chance"
    # Of what users do, which is no metric of a scoring, more is better.
    better = HIGHER_IS_BETTER.get(one.metric, True)
    if better is None:
        return "differs"
    return "better" if (one.low > 0) == better else "worse"


def report_json(one: Report) -> dict[str, object]:
    """Everything, for JSON; a metric without a value is null, with its reason."""
    return {
        "name": one.name,
        "rows": one.rows,
        "requests": one.requests,
        "users": one.users,
        "first_request": one.first,
        "last_request": one.last,
        "ranked_by": one.ranked_by,
        "bins": BINS,
        "heads": {
            head: {**_head(found), "reliability": [{"rows": b.rows, "score": b.score, "label": b.label} for b in one.reliability[head]]}
            for head, found in one.heads.items()
        },
        "bucket_ms": one.slices.bucket_ms,
        "topics": one.slices.topics,
        "by_time": [_part(part) for part in one.slices.time],
        "by_topic": [_part(part) for part in one.slices.topic],
        "by_age": [_part(part) for part in one.slices.age],
    }


def comparison_json(one: Comparison) -> dict[str, object]:
    """Everything, for JSON: by head and metric."""
    heads: dict[str, dict[str, object]] = {}
    for each in one.differences:
        found = {
            "value": each.value.value,
            "against": each.against.value,
            "difference": each.difference,
            "low": each.low,
            "high": each.high,
            "p_value": each.p_value,
            "minimum_detectable_effect": each.detectable,
            "verdict": verdict(each),
        }
        heads.setdefault(each.head, {})[each.metric] = found | ({"reason": each.reason} if each.reason else {})
    return {"users": one.users, "resamples": one.resamples, "seed": one.seed, "level": LEVEL, "power": POWER, "differences": heads}


def _head(head: Head) -> dict[str, object]:
    return {
        "rows": head.rows,
        "positives": head.positives,
        "metrics": {
            name: {"value": one.value, one.unit: one.counted} | ({"reason": one.reason} if one.reason else {})
            for name, one in head.metrics.items()
        },
    }


def _part(part: Part) -> dict[str, object]:
    place = {"name": part.name} if part.start_ms is None else {"start": part.start_ms}
    return {**place, "rows": part.rows, "users": part.users, "heads": {name: _head(head) for name, head in part.heads.items()}}
