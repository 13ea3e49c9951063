"""What moves over time as JSON, and as lines in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.report.words import plain
from flows.skew.drift import MOVED, MOVING
from flows.skew.names import VIEWS
from flows.trends.coverage import DEFAULTED
from flows.trends.sums import Period
from flows.trends.values import Series, Trends, covered, rates, ratio, views

_TOPICS = 8


def verdict(psi: float) -> str:
    """stable, moving, moved, or unknown."""
    if math.isnan(psi):
        return "unknown"
    return "stable" if psi < MOVING else "moving" if psi < MOVED else "moved"


def as_json(trends: Trends) -> dict[str, Any]:
    """Everything. What is unknown, for there is nothing to take it of, is null."""
    names, actions = trends.by_action
    return {
        "period": _period(trends.period),
        "reference": _period(trends.reference) if trends.reference is not None else None,
        "stretch_ms": trends.size_ms,
        "thresholds": {"moving": MOVING, "moved": MOVED},
        "actions": {
            "psi": finite(trends.psi_now),
            "verdict": verdict(trends.psi_now),
            "reference": _named(names, actions.reference),
            "now": _named(names, actions.now),
            "over_time": [
                {"from": start, "psi": finite(psi), "records": _named(names, row)}
                for start, psi, row in zip(actions.starts.tolist(), trends.psi.tolist(), actions.counts, strict=True)
            ],
        },
        "volume": _volume(trends),
        "coverage": None if trends.coverage is None else _coverage(trends.coverage),
        "labels": None if trends.labels is None else _labels(trends.labels, trends.topics),
    }


def finite(value: float) -> float | None:
    """The number, or None for one that is unknown."""
    return None if math.isnan(value) else value


def _period(period: Period) -> dict[str, int | None]:
    return {"from": period.first, "to": period.until}


def _named(names: tuple[str, ...], counts: np.ndarray) -> dict[str, int]:
    return dict(zip(names, counts.tolist(), strict=True))


def _volume(trends: Trends) -> dict[str, Any]:
    starts, counts = trends.volume
    records, late, dead = counts.sum(axis=0).tolist()
    return {
        "records": records,
        "late": late,
        "dead": dead,
        "deadletters": trends.letters,
        "over_time": [
            {"from": start, "records": row[0], "late": row[1], "dead": row[2]}
            for start, row in zip(starts.tolist(), counts.tolist(), strict=True)
        ],
    }


def _coverage(series: Series) -> dict[str, Any]:
    before, now = covered(series.reference), covered(series.now)
    return {
        "views": {
            VIEWS[kind]: {
                "rows": rows,
                "found": found,
                "defaulted": views(series.now, DEFAULTED)[kind][0],
                "share": finite(ratio(found, rows)),
            }
            for kind, (found, rows) in views(series.now).items()
        },
        "features": [
            {
                "feature": name,
                "rows": rows,
                "with_value": there,
                "coverage": finite(ratio(there, rows)),
                "reference": finite(ratio(*before[name])),
            }
            for name, (there, rows) in now.items()
        ],
        "over_time": [
            {
                "from": start,
                "views": {VIEWS[kind]: {"found": found, "rows": rows} for kind, (found, rows) in views(row).items()},
                "with_value": {name: there for name, (there, _) in covered(row).items()},
            }
            for start, row in zip(series.starts.tolist(), series.counts, strict=True)
        ],
    }


def _labels(series: Series, topics: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {
        "heads": _rates(series.counts.sum(axis=0, dtype=np.int64)),
        "reference": _rates(series.reference),
        "now": _rates(series.now),
        "over_time": [{"from": start, "heads": _rates(row)} for start, row in zip(series.starts.tolist(), series.counts, strict=True)],
        "topics": [{"topic": name, "heads": _rates(row)} for name, row in topics.items()],
    }


def _rates(counts: np.ndarray) -> dict[str, dict[str, Any]]:
    return {
        head: {"labels": labels, "positives": positives, "rate": finite(ratio(positives, labels))}
        for head, (positives, labels) in rates(counts).items()
    }


def show(trends: Trends, console: Console) -> None:
    """The heads of it: actions that moved, coverage by view, rates by head and topic."""
    names, actions = trends.by_action
    shown = Table(title="Actions", title_justify="left", box=box.SIMPLE)
    shown.add_column("action", no_wrap=True)
    for heading in ("records", "share before", "now"):
        shown.add_column(heading, justify="right")
    for i, name in enumerate(names):
        shares = [_share(ratio(side[i], int(side.sum()))) for side in (actions.reference, actions.now)]
        shown.add_row(name, f"{int(actions.counts[:, i].sum()):,}", *shares)
    console.print(shown)
    if trends.coverage is not None:
        shown = Table(title="Rows of served requests that were found", title_justify="left", box=box.SIMPLE)
        shown.add_column("view", no_wrap=True)
        for heading in ("rows", "share before", "now"):
            shown.add_column(heading, justify="right")
        before = views(trends.coverage.reference)
        for kind, (found, rows) in views(trends.coverage.now).items():
            shown.add_row(VIEWS[kind], f"{rows:,}", _share(ratio(*before[kind])), _share(ratio(found, rows)))
        console.print(shown)
    if trends.labels is not None:
        shown = Table(title="Rates of final labels", title_justify="left", box=box.SIMPLE)
        shown.add_column("topic", no_wrap=True)
        total = trends.labels.counts.sum(axis=0, dtype=np.int64)
        for head in rates(total):
            shown.add_column(head, justify="right")
        for name, counts in [("all", total), *list(trends.topics.items())[:_TOPICS]]:
            # As text: a topic may hold what would pass for markup.
            shown.add_row(Text(plain(name)[:32]), *(_share(ratio(*one)) for one in rates(counts).values()))
        console.print(shown)


def summary(trends: Trends) -> str:
    """One line of it."""
    _, counts = trends.volume
    records, late, dead = counts.sum(axis=0).tolist()
    psi = "unknown" if math.isnan(trends.psi_now) else f"{trends.psi_now:.3f} ({verdict(trends.psi_now)})"
    return f"{records:,} records, {late:,} late, {dead:,} dead letters; PSI of actions {psi}"


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.2f} %"
