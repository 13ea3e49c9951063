"""Pages of what a check and a comparison of distributions found: one file each that needs nothing else.

They say what the commands say, and no more.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from flows.log import Log
from flows.report.document import document, write_document
from flows.report.drawing import FULL, NARROW
from flows.report.figures import bars
from flows.report.markup import Cell, figure, note, section, table, terms
from flows.report.words import day, moment, number, points, share
from flows.settings import DAY_MS, Settings
from flows.skew import plots, told
from flows.skew.check import Checked
from flows.skew.drift import MOVED, MOVING, Drift, Moved, Shares, drift
from flows.skew.names import ENTITY, KINDS, VIEWS
from flows.skew.served import Question
from flows.skew.sides import of_period

_WORST, _MOST_MOVED, _EXAMPLES = 20, 16, 3
_MEANINGS = [
    ("Row", "What was served of one entity to one request: a user's sequence, a user's counters, a pin's counters, a topic's statistics."),
    ("Recomputed", "Made anew from the log alone, from the prefix that the row was logged with, and at its time."),
    ("Equal", "The same to the bit, or nothing on both sides."),
    ("Missing, extra", "Nothing was served though there is something to say; the other way round."),
    ("SMAPE", "Mean of 2·|a − b| / (|a| + |b|): 0 where all are equal, 2 at most."),
    ("Edits", "Entries of sequences to insert into what was served, and to delete from it, to make it what is right."),
    (
        "A finding",
        "A cause that says that something is wrong. The others are told by the row itself: it holds defaults, or is of another fingerprint.",
    ),
]
_OF_DRIFT = [
    (
        "PSI",
        f"Population stability index over ten quantiles of the side before. Below {MOVING} nothing is said to have moved, from {MOVED} on much has.",
    ),
    ("KS", "Kolmogorov-Smirnov: the greatest distance of the two distribution functions, 0 to 1."),
    ("Found, non-zero", "Share of rows for which there was anything, and of those with a value other than 0."),
]


def write_check(settings: Settings, served: Log, checked: Checked, out: Path) -> None:
    """A page of a check, and of how what it read has moved from its first half to its second.

    Parameters
    ----------
    served : Log
        SERVED, read once more for the second part.
    out : Path
        Replaced when the new file is whole.

    Raises
    ------
    InputError
        `out` can't be written.
    StorageFullError
        The disk is full.
    """
    parts = [_rates(checked), _causes(checked)]
    if checked.first is not None and checked.last is not None and checked.first < checked.last:
        middle = (checked.first + checked.last) // 2 + 1
        vocabulary = settings.load_vocabulary()
        names = vocabulary.action_names(), vocabulary.surface_names()
        halves = [(checked.first, middle), (middle, checked.last + 1)]
        sides = [
            of_period(served, Question(first, until, checked.question.sample, checked.question.seed), name, None, names)
            for (first, until), name in zip(halves, (f"what was served before {moment(middle)}", "what was served since"), strict=True)
        ]
        if all(side.records for side in sides):
            found = drift(*sides)
            parts += [_over_time(found.over_time), _moved(found), *([] if found.few else [_spread(found)])]
    parts.append(section("terms", "What each term means", "docs/skew.md says more.", terms([*_MEANINGS, *_OF_DRIFT]), shape="full"))
    write_document(document("Tidemark skew check", _about(checked), _tiles(checked), parts, _FOOTER), out)


def write_drift(found: Drift, out: Path) -> None:
    """A page of a comparison of distributions; parameters and errors as of `write_check`."""
    parts = [_moved(found), *([] if found.few else [_spread(found)]), _over_time(found.over_time)]
    parts.append(section("terms", "What each term means", "docs/skew.md says more.", terms(_OF_DRIFT), shape="full"))
    verdicts = [one.verdict for one in found.features]
    counts = [number(verdicts.count(verdict)) if not found.few else "–" for verdict in ("moved", "moving", "stable", "unknown")]
    tiles = [
        ("Features", number(len(found.features)), "compared"),
        ("Moved", counts[0], f"PSI of {MOVED} or more"),
        ("Moving", counts[1], f"PSI of {MOVING} or more"),
        ("Stable", counts[2], f"{counts[3]} unknown"),
        ("Records before", number(found.records[0]), found.reference),
        ("Records now", number(found.records[1]), found.current),
    ]
    about = f"{found.current[:1].upper()}{found.current[1:]}, held against {found.reference}."
    write_document(
        document(
            "Tidemark drift", about, tiles, parts, "That something moved is no mistake: whether values are right is what a check says."
        ),
        out,
    )


_FOOTER = "Each row was recomputed at its own positions and time: the same prefix of the log gives the same bits, so a difference is a bug."


def _about(checked: Checked) -> str:
    if checked.first is None or checked.last is None:
        return f"{checked.unproved[:1].upper()}{checked.unproved[1:]}."
    sample = checked.question.sample
    drawn = "" if sample is None else f" A sample ({sample if isinstance(sample, int) else f'{sample:.3%}'}, seed {checked.question.seed})."
    proved = f" {checked.unproved[:1].upper()}{checked.unproved[1:]}." if checked.unproved else ""
    return (
        f"Requests of {moment(checked.first)} to {moment(checked.last)}, recomputed under fingerprint {checked.fingerprint}.{drawn}{proved}"
    )


def _tiles(checked: Checked) -> list[tuple[str, str, str]]:
    rate = 100 * (1 - checked.differing / max(1, checked.compared))
    # Never rounded to a whole that it isn't.
    equal = share(rate if not checked.differing else min(rate, 99.99)) if checked.compared else "–"
    return [
        ("Records", number(checked.records), "of SERVED"),
        ("Rows compared", number(checked.compared), "bit by bit"),
        ("Equal", equal, "of rows compared"),
        ("Differ", number(checked.differing), "rows"),
        ("Not compared", number(checked.apart), "rows, their cause in themselves"),
        ("Findings", number(checked.findings), "rows with something wrong"),
    ]


def _rates(checked: Checked) -> str:
    heading, lead = "Rows that differ", "Every feature of every row, as it was served and as the log says it."
    worst = sorted((one for one in checked.figures if one.equal < one.rows), key=lambda one: one.match_rate)
    if not checked.compared:
        return section("rates", heading, lead, note("No row was compared, so nothing is proved."), shape="full")
    right = {kind: [one for one in checked.figures if one.feature.kind == kind and one.rows and one.equal == one.rows] for kind in KINDS}
    rows: list[list[str | Cell]] = []
    for one in worst[:_WORST]:
        view, _, name = one.feature.name.partition(":")
        edits = f"+{number(one.inserted)} −{number(one.deleted or 0)}" if one.inserted is not None else "–"
        rows.append(
            [
                Cell(name, view, code=True), number(one.rows), f"{min(100 * one.match_rate, 99.99):.2f}\u202f%", number(one.missing),
                number(one.extra), number(one.differing), _plain(one.max_difference), _plain(one.smape), edits,
            ]
        )  # fmt: skip
    rows += [
        [Cell(VIEWS[kind], f"{len(all_right)} features", code=True), number(all_right[0].rows), "100\u202f%", "0", "0", "0", "0", "0", "–"]
        for kind, all_right in right.items()
        if all_right
    ]
    caption = f"{len(worst)} of {len(checked.figures)} features differ anywhere" if worst else "No feature differs anywhere"
    if len(worst) > _WORST:
        caption += f"; the {_WORST} that differ most are shown"
    numbers = table(caption, ["feature", "rows", "equal", "missing", "extra", "differ", "max difference", "SMAPE", "edits"], rows)
    if not worst:
        return section("rates", heading, lead, note("Every row is equal to the bit."), numbers, shape="full")
    shown = [(one.feature.name, 100 * (1 - one.match_rate)) for one in worst[:_WORST]]
    plot = figure(plots.differing(shown, FULL), plots.differing(shown, NARROW), "Share of rows that differ, by feature.")
    return section("rates", heading, lead, plot, numbers, shape="full")


def _causes(checked: Checked) -> str:
    lead = "Known mistakes are tried on the events that bear on a row; of those that give what was served, the one that explains most rows is named."
    if not checked.causes:
        return section("causes", "Why rows differ", lead, note("No row differs, and none was left out."), shape="full")
    counted = [(one.cause.name, one.total) for one in checked.causes]
    label = "Rows by cause"
    plot = figure(bars(counted, FULL, "causes", label), bars(counted, NARROW, "causes", label), "Rows by cause.")
    rows: list[list[str | Cell]] = [
        [
            Cell(one.cause.name, code=True),
            number(one.total),
            "no" if one.cause.benign else "yes",
            ", ".join(f"{VIEWS[kind]} {number(n)}" for kind, n in sorted(one.rows.items())),
        ]
        for one in checked.causes
    ]
    return section(
        "causes",
        "Why rows differ",
        lead,
        plot,
        table("By cause", ["cause", "rows", "a finding", "in"], rows),
        terms([(one.cause.name, _meaning(one.cause.meaning, one.details.most_common(3))) for one in checked.causes]),
        _examples(checked),
        shape="full",
    )


def _meaning(meaning: str, details: list[tuple[str, int]]) -> str:
    exactly = ", ".join(f"{what} ({number(n)})" for what, n in details)
    return f"{meaning[:1].upper()}{meaning[1:]}." + (f" Here: {exactly}." if exactly else "")


def _examples(checked: Checked) -> str:
    rows: list[list[str | Cell]] = []
    # Findings first: the others need no looking at.
    for one in sorted(checked.causes, key=lambda one: one.cause.benign):
        for row in told.shown(one.examples, _EXAMPLES):
            said = told.example(row)
            entity = f"{ENTITY[row.kind]} {row.entity}"
            values = said.get("features", [])
            first = values[0] if values else {"feature": "–", "served": "–", "recomputed": "–"}
            more = len(values) - 1 + said.get("more_features", 0)
            rows.append(
                [
                    Cell(one.cause.name, f"request {row.request_id}", code=True),
                    Cell(entity, moment(row.timestamp)),
                    Cell(str(first["feature"]), f"and {more} more" if more > 0 else "", code=bool(values)),
                    json.dumps(first["served"]) if values else "–",
                    json.dumps(first["recomputed"]) if values else "–",
                ]
            )
    return table("Rows to look at", ["cause", "entity", "feature", "served", "recomputed"], rows)


def _over_time(shares: Shares) -> str:
    heading = "Actions over time"
    unit = "day" if shares.bucket_ms == DAY_MS else "hour"
    lead = (
        f"Share of each action among the entries of the sequences that were served, by {unit} of the request. Each panel has its own scale."
    )
    if not len(shares.starts):
        return section("actions", heading, lead, note("No sequence with an entry was served."), shape="full")
    labels = tuple(day(int(ms) // DAY_MS) if unit == "day" else moment(int(ms))[5:16] for ms in (shares.starts[0], shares.starts[-1]))
    wide, narrow = (plots.shares_over_time(shares, (labels[0], labels[1]), width) for width in (FULL, NARROW))
    finite = [value for value in shares.psi.tolist() if not math.isnan(value)]
    counted = f"{len(shares.starts)} {unit}{'s' * (len(shares.starts) != 1)}"
    caption = f"{counted}; the PSI of one {unit} against the side before is {max(finite, default=0):.3f} at most."
    return section("actions", heading, lead, figure(wide, narrow, caption), shape="full")


def _moved(found: Drift) -> str:
    lead = f"Distributions of {found.current}, held against those of {found.reference}."
    known = [one for one in found.features if not math.isnan(one.psi)]
    if not known:
        return section("drift", "What moved", lead, note("No feature has values on both sides."), shape="full")
    if found.few:
        return section("drift", "What moved", lead, note(f"{found.few}."), shape="full")
    shown = known[:_MOST_MOVED]
    plot = figure(plots.psi_bars(shown, FULL), plots.psi_bars(shown, NARROW), "Population stability index; those that moved most.")
    rows = [_row(one) for one in shown]
    numbers = table(
        f"The {len(shown)} of {len(found.features)} features that moved most",
        ["feature", "PSI", "KS", "found", "change, pp", "non-zero", "change, pp"],
        rows,
    )
    return section("drift", "What moved", lead, plot, numbers, shape="full")


def _row(one: Moved) -> list[str | Cell]:
    view, _, name = one.name.partition(":")
    cells: list[str | Cell] = [Cell(name, view, code=True), f"{one.psi:.3f}", f"{one.ks:.3f}" if one.ks is not None else "–"]
    if one.reference is None or one.current is None:
        return [*cells, "–", "–", "–", "–"]
    for attribute in ("found", "nonzero"):
        before, now = (100 * side.share(getattr(side, attribute)) for side in (one.reference, one.current))
        cells += [share(now, 1), points(now - before, 1)]
    return cells


def _spread(found: Drift) -> str:
    heading, lead = (
        "How values are spread",
        "Of the features that moved most; each panel reaches from the least value to the 99th percentile.",
    )
    chosen = [one for one in found.features if not math.isnan(one.psi)][: plots.PANELS]
    if not chosen:
        return section("spread", heading, lead, note("No feature has values on both sides."), shape="full")
    legend = [("bar", "now"), ("tick", "before")]
    wide, narrow = (plots.distributions(chosen, width) for width in (FULL, NARROW))
    return section("spread", heading, lead, figure(wide, narrow, "Share of values by bin.", legend), shape="full")


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
