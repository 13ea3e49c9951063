"""The page of an evaluation: one file that needs nothing else. It says what the command says, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flows.report.document import document, write_document
from flows.report.drawing import FULL, NARROW
from flows.report.markup import Cell, figure, note, section, table, terms
from flows.report.words import moment, number, span
from online_model.evaluation import plots
from online_model.evaluation.bootstrap import LEVEL, POWER, Comparison
from online_model.evaluation.metrics import METRICS
from online_model.evaluation.ordered import BINS
from online_model.evaluation.ranking import K
from online_model.evaluation.report import Report, verdict
from online_model.evaluation.slices import Part
from online_model.evaluation.told import figure as shown
from online_model.evaluation.told import signed

_MOST_TOPICS = 20
_MEANINGS = [
    (f"HIT@{K}", f"Whether a request has a positive among its top {K}; mean over each user's requests, then over users."),
    (f"NDCG@{K}, MAP@{K}, Recall@{K}", f"Of requests with at least one positive and more than {K} pins; averaged the same way."),
    ("AUC, GAUC", "The chance that a positive is scored above a negative, over all rows; and within each user, weighted by rows."),
    ("Log loss", "Mean of −log of the probability that was given to what came."),
    ("ECE", f"Expected calibration error: mean distance of score and share of positives over {BINS} bins of equal size."),
    ("Calibration", "Sum of probabilities by number of positives: 1 is right, above 1 promises too much."),
    ("Equal scores", "A metric is its expectation over all orders of pins with one score."),
    ("Interval", f"{LEVEL:.0%}, from a bootstrap that draws users with all of their rows; both scorings see the same draws."),
    (
        "Detectable",
        f"The least true difference that data like these would show with a chance of {POWER:.0%}, at {1 - LEVEL:.0%}, two-sided.",
    ),
]


def write_page(reports: Sequence[Report], comparison: Comparison | None, out: Path) -> None:
    """Write a page of one scoring, or of two and their differences.

    Parameters
    ----------
    reports : sequence of Report
        The scoring, and the one that it is held against, if any.
    comparison : Comparison or None
    out : Path
        Replaced when the new file is whole.

    Raises
    ------
    InputError
        `out` can't be written.
    StorageFullError
        The disk is full.
    """
    first = reports[0]
    parts = [_metrics(reports)]
    if comparison is not None:
        parts.append(_differences(comparison, reports))
    parts += [_reliability(reports), _over_time(reports), _by(reports, "topic"), _by(reports, "age")]
    parts.append(section("terms", "What each term means", "docs/evaluation.md says it exactly.", terms(_MEANINGS), shape="full"))
    against = f", held against {reports[1].name}" if len(reports) > 1 else ""
    ranked = "the column score" if first.ranked_by == "score" else "each head's own score"
    about = f"{first.name}{against}: requests of {moment(first.first)} to {moment(first.last)}, ranked by {ranked}."
    tiles = [
        ("Rows", number(first.rows), "pins that were shown"),
        ("Requests", number(first.requests), "ranked"),
        ("Users", number(first.users), "drawn by the bootstrap" if comparison is not None else "averaged over"),
        ("Heads", number(len(first.heads)), ", ".join(list(first.heads)[:6])),
    ]
    footer = "Rows whose label is not known are left out of the figures of that head."
    write_document(document("Tidemark evaluation", about, tiles, parts, footer), out)


def _legend(reports: Sequence[Report]) -> list[tuple[str, str]]:
    return [] if len(reports) == 1 else [("bar", reports[0].name), ("tick", reports[1].name)]


def _metrics(reports: Sequence[Report]) -> str:
    tables = []
    for one in reports:
        rows: list[list[str | Cell]] = [
            [Cell(head, code=True), number(found.rows), number(found.positives), *(shown(found.metrics[name]) for name in METRICS)]
            for head, found in one.heads.items()
        ]
        tables.append(table(one.name, ["head", "rows", "positives", *METRICS], rows))
    reasons = sorted(
        {
            f"{head} has no {name}: {value.reason}."
            for head, found in reports[0].heads.items()
            for name, value in found.metrics.items()
            if value.reason
        }
    )
    return section("metrics", "Metrics", "All metrics of all heads.", *tables, *map(note, reasons[:10]), shape="full")


def _differences(comparison: Comparison, reports: Sequence[Report]) -> str:
    drawn = f"{number(comparison.resamples)} resamples of {number(comparison.users)} users, seed {comparison.seed}"
    lead = f"{reports[0].name} less {reports[1].name}: {drawn}."
    known = [name for name in METRICS if any(one.metric == name and one.difference is not None for one in comparison.differences)]
    rows: list[list[str | Cell]] = []
    for one in comparison.differences:
        interval, p_value, detectable = "–", "–", "–"
        if one.low is not None and one.high is not None and one.p_value is not None and one.detectable is not None:
            interval = f"{signed(one.low)} to {signed(one.high)}"
            p_value, detectable = f"{one.p_value:.3f}", f"{one.detectable:.5f}"
        name = Cell(f"{one.head} {one.metric}", one.reason, code=True)
        rows.append([name, shown(one.value), shown(one.against), signed(one.difference), interval, p_value, detectable, verdict(one)])
    headings = ["metric", "this", "against", "difference", f"{LEVEL:.0%} interval", "p", "detectable", "verdict"]
    numbers = table("Every difference", headings, rows)
    if not known:
        return section("differences", "Differences", lead, note("No metric has a value on both sides."), numbers, shape="full")
    wide, narrow = (plots.difference_plot(known, comparison.differences, width) for width in (FULL, NARROW))
    caption = "Dots are differences, lines their intervals; what lies within the band, data like these would often not show. Scales differ."
    return section("differences", "Differences", lead, figure(wide, narrow, caption), numbers, shape="full")


def _reliability(reports: Sequence[Report]) -> str:
    lead = f"Share of positives by mean score, in {BINS} bins of equal size. Above the dashed line scores promise too little, below it too much."
    heads = [head for head, bins in reports[0].reliability.items() if bins]
    if not heads:
        return section("reliability", "Reliability", lead, note("No head has probabilities and known labels."), shape="full")
    wide, narrow = (plots.reliability_plot(heads, [one.reliability for one in reports], width) for width in (FULL, NARROW))
    return section(
        "reliability", "Reliability", lead, figure(wide, narrow, "Each panel has its own scale.", _legend(reports)), shape="full"
    )


def _over_time(reports: Sequence[Report]) -> str:
    parts, size = reports[0].slices.time, reports[0].slices.bucket_ms
    lead = f"By {span(size)} of the request. Each panel has its own scale."
    ends = _ends(parts, size)
    drawn = []
    for metric in (f"hit@{K}", "auc"):
        sides = [{head: [_value(part, head, metric) for part in one.slices.time] for head in reports[0].heads} for one in _shared(reports)]
        heads = [head for head in reports[0].heads if any(value is not None for value in sides[0][head])]
        if heads:
            wide, narrow = (plots.over_time(heads, sides, ends, metric, width) for width in (FULL, NARROW))
            caption = f"{metric}; {number(len(parts))} bucket{'s' * (len(parts) != 1)}. A bucket without a positive has no value."
            drawn.append(figure(wide, narrow, caption, _legend(reports)))
    return section("time", "Over time", lead, *(drawn or [note("No head has a positive.")]), shape="full")


def _by(reports: Sequence[Report], what: str) -> str:
    """By topic or by age of the user: a figure for each head, and a table."""
    slices = reports[0].slices
    parts, metric = (slices.topic[:_MOST_TOPICS], "auc") if what == "topic" else (slices.age, f"hit@{K}")
    heading = "By topic" if what == "topic" else "By age of the user"
    lead = (
        f"{metric} of the {len(parts)} topics with most rows, of {number(slices.topics)}. A request's pins are of several topics, so rankings "
        "of requests aren't told by topic."
        if what == "topic"
        else f"{metric} by whole days since the user acted first."
    )
    if not parts:
        return section(what, heading, lead, note(f"No row has a {what}."), shape="full")
    names = [part.name for part in parts]
    sides = []
    for one in _shared(reports):
        found = {part.name: part for part in getattr(one.slices, what)}
        sides.append({head: [_value(found[name], head, metric) for name in names] for head in reports[0].heads})
    heads = [head for head, values in sides[0].items() if any(value is not None for value in values)]
    plot = note("No part has a value.")
    if heads:
        wide, narrow = (plots.by_part(heads, names, sides, what, metric, width) for width in (FULL, NARROW))
        plot = figure(wide, narrow, f"{metric}; each panel has its own scale.", _legend(reports))
    rows: list[list[str | Cell]] = [
        [part.name, number(part.rows), number(part.users), *(shown(head.metrics[metric]) for head in part.heads.values())] for part in parts
    ]
    numbers = table(f"{heading}, {metric}: {reports[0].name}", [what, "rows", "users", *reports[0].heads], rows)
    return section(what, heading, lead, plot, numbers, shape="full")


def _shared(reports: Sequence[Report]) -> list[Report]:
    """The reports that have all heads of the first."""
    return [one for one in reports if set(reports[0].heads) <= set(one.heads)]


def _value(part: Part, head: str, metric: str) -> float | None:
    return part.heads[head].metrics[metric].value


def _ends(parts: Sequence[Part], size: int) -> tuple[str, str]:
    said = [moment(part.start_ms or 0) for part in (parts[0], parts[-1])]
    digits = slice(5, 16) if size < 24 * 3_600_000 else slice(0, 10)
    return said[0][digits], said[1][digits]
