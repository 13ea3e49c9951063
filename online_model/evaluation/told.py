"""What a scoring and a comparison say, in the terminal. Nothing that the report doesn't say."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from flows.report.words import plain
from flows.run.display import console_for_tables, moment
from online_model.evaluation.bootstrap import LEVEL, POWER, Comparison
from online_model.evaluation.metrics import METRICS, Value
from online_model.evaluation.report import Report, verdict
from online_model.evaluation.slices import Part


def show_report(one: Report) -> None:
    """Metrics of all heads."""
    console = console_for_tables()
    table = Table(title=f"{_named(one.name)}, ranked by {_ranked_by(one)}", title_justify="left", box=box.SIMPLE)
    table.add_column("head", no_wrap=True)
    for heading in ("rows", "positives", *METRICS):
        table.add_column(heading, justify="right")
    for head, found in one.heads.items():
        table.add_row(_named(head), f"{found.rows:,}", f"{found.positives:,}", *(figure(found.metrics[name]) for name in METRICS))
    console.print(table)
    reasons = {
        f"{head} has no {name}: {value.reason}"
        for head, found in one.heads.items()
        for name, value in found.metrics.items()
        if value.reason
    }
    for line in sorted(reasons)[:10]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"{one.rows:,} rows of {one.requests:,} requests of {one.users:,} users, {moment(one.first)} to {moment(one.last)}",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip


def show_parts(title: str, parts: Sequence[Part], metric: str) -> None:
    """One metric of all heads, by part."""
    if not parts:
        console_for_tables().print(f"{title}: no row has one", markup=False, highlight=False)
        return
    table = Table(title=f"{metric} by {title}", title_justify="left", box=box.SIMPLE)
    table.add_column(title, no_wrap=True)
    for heading in ("rows", "users", *map(_named, parts[0].heads)):
        table.add_column(heading, justify="right")
    for part in parts:
        name = _named(part.name) if part.start_ms is None else moment(part.start_ms)
        table.add_row(name, f"{part.rows:,}", f"{part.users:,}", *(figure(head.metrics[metric]) for head in part.heads.values()))
    console_for_tables().print(table)


def show_comparison(one: Comparison, names: tuple[str, str]) -> None:
    """Every difference, with its interval and the least that could have been found."""
    console = console_for_tables()
    table = Table(title=f"{_named(names[0])} less {_named(names[1])}", title_justify="left", box=box.SIMPLE)
    for heading in ("head", "metric"):
        table.add_column(heading, no_wrap=True)
    for heading in ("this", "against", "difference", f"{LEVEL:.0%} interval", "p", "detectable"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict")
    for each in one.differences:
        sides = figure(each.value), figure(each.against)
        if each.low is None or each.high is None or each.detectable is None or each.p_value is None:
            table.add_row(_named(each.head), each.metric, *sides, signed(each.difference), "", "", "", each.reason)
            continue
        interval = f"{signed(each.low)} to {signed(each.high)}"
        table.add_row(
            _named(each.head),
            each.metric,
            *sides,
            signed(each.difference),
            interval,
            f"{each.p_value:.3f}",
            f"{each.detectable:.5f}",
            verdict(each),
        )
    console.print(table)
    console.print(
        f"{one.resamples:,} resamples of {one.users:,} users, seed {one.seed}; detectable: the least true difference found with a chance of "
        f"{POWER:.0%} at {1 - LEVEL:.0%}",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip


def figure(value: Value) -> str:
    """Four digits after the point, or a dash."""
    return "–" if value.value is None else f"{value.value:.4f}"


def signed(value: float | None) -> str:
    """Five digits after the point, with a sign."""
    return "–" if value is None else f"{value:+.5f}".replace("-", "−")


def _named(name: str) -> str:
    """A name of the user's: no control characters, and brackets are brackets."""
    return escape(plain(name))


def _ranked_by(one: Report) -> str:
    return "the column `score`" if one.ranked_by == "score" else "each head's own score"
