"""The sections of the page, one function each: a plot, its numbers as a table beside it, and the paper's figures where they compare."""

from __future__ import annotations

from flows.report import drawing, figures
from flows.report.markup import Cell, figure, note, section, table
from flows.report.values import LABELS, Report, margin, percent
from flows.report.words import day, number, points, share, span
from flows.simulate.published import PUBLISHED

_MEANING = {
    "label_1dRevImpre": "seen within 24 h",
    "label_1dRevGrid": "clicked within 24 h",
    "label_7dRevGrid": "clicked within 7 d",
}
_BEYOND = ("paper", "diff., pp")
_TOPICS, _PARTITIONS = 24, 8  # so many are shown one by one


def labels(report: Report, compare: bool) -> str:
    """Label rates."""
    lead = "Share of matured saves with each label: a revisit of the saved pin on the user's own profile."
    if not report.matured:
        return section("labels", "Labels of saves", lead, _none_matured(report), shape="full")
    ours = {name: percent(report.labels[name], report.matured) for name in LABELS}
    plotted = [(name.removeprefix("label_"), ours[name], getattr(PUBLISHED, name) if compare else None) for name in LABELS]
    rows = [
        [
            Cell(name, _MEANING[name], code=True),
            number(report.labels[name]),
            *_against(report.labels[name], report.matured, getattr(PUBLISHED, name), compare),
        ]
        for name in LABELS
    ]
    return section(
        "labels",
        "Labels of saves",
        lead,
        _pairs(plotted, "labels", "Share of matured saves with each label, in percent", "Percent of matured saves.", compare),
        table(f"Of {number(report.matured)} matured saves", ["label", "saves", "ours", *(_BEYOND if compare else ())], rows),
    )


def decay(report: Report, compare: bool) -> str:
    """Clicks by day after the save."""
    heading = "When saved pins are clicked again"
    lead = "Share of matured saves with at least one click revisit on day d after the save; day 0 is the first 24 h."
    if not report.matured:
        return section("decay", heading, lead, _none_matured(report), shape="full")
    paper = dict(PUBLISHED.click_revisits_by_day) if compare else {}
    rows = [
        [str(d), number(int(n)), *_against(int(n), report.matured, paper.get(d), compare), share(percent(int(first), report.matured))]
        for d, (n, first) in enumerate(zip(report.clicked_by_day, report.first_clicked_by_day, strict=True))
    ]
    caption = "A save that is clicked on several days counts on each of them; its first click counts once, so first clicks add up to label_7dRevGrid."
    if compare:
        caption += " The paper gives no figure for days 2 and 4, and “about 0.5 %” after day 5."
    legend = [("line", "any click"), ("dash", "first click"), *([("diamond", "any click, paper")] if compare else [])]
    wide, narrow = (figures.decay(report, paper, width) for width in (drawing.WIDE, drawing.NARROW))
    return section(
        "decay",
        heading,
        lead,
        figure(wide, narrow, caption, legend),
        table(
            "Saves with any click, by day after the save", ["day", "saves", "any click", *(_BEYOND if compare else ()), "first click"], rows
        ),
    )


def topics(report: Report, compare: bool) -> str:
    """Late first clicks by topic, beside Table 3."""
    heading = "Slow topics: first clicks on days 3 to 6"
    lead = "Of the matured saves that were clicked within 7 days, the share whose first click came on days 3 to 6."
    if compare:
        lead += " Beside it, Table 3 of the paper."
    paper = PUBLISHED.topic_days_3_6_share if compare else {}
    clicked = [t for t in report.topics if t.clicked]
    if not clicked:
        empty = note("No matured save with a topic has been clicked.") if report.matured else _none_matured(report)
        return section("topics", heading, lead, empty, shape="full")
    # The paper's topics first, in its order; then the others, those with the most clicks first.
    place = {name: i for i, name in enumerate(paper)}
    clicked.sort(key=lambda t: (place.get(t.topic, len(place)), -t.clicked, t.topic))
    plotted = [(t.topic, percent(t.clicked_days_3_6, t.clicked), paper.get(t.topic)) for t in clicked[:_TOPICS]]
    rows = [
        [
            drawing.short(t.topic, 40),
            number(t.clicked),
            number(t.clicked_days_3_6),
            *_against(t.clicked_days_3_6, t.clicked, paper.get(t.topic), compare),
        ]
        for t in clicked[:_TOPICS]
    ]
    named = f"By topic; {number(len(clicked) - _TOPICS)} more are left out" if len(clicked) > _TOPICS else "By topic"
    return section(
        "topics",
        heading,
        lead,
        _pairs(plotted, "topics", "Share of first clicks on days 3 to 6 by topic, in percent", "Percent of clicked saves.", compare),
        table(named, ["topic", "clicked", "days 3–6", "ours", *(_BEYOND if compare else ())], rows),
    )


def events(report: Report) -> str:
    """Accepted records by day and action."""
    lead = "Accepted records by day of event time (UTC): duplicates and dead letters are not in it, late records are. Each panel has its own scale."
    if not len(report.days):
        return section("events", "Events by action", lead, note("There is no accepted record."), shape="full")
    first, last, size = figures.drawn_days(report)
    total = int(report.events.sum())
    inside = (report.days >= first) & (report.days <= last)
    left_out = total - int(report.events[inside].sum())
    caption = f"From {day(first)} to {day(last)}."
    if size > 1:
        caption += f" Each point is {size} days."
    if left_out:
        reach = f"{day(int(report.days[0]))} to {day(int(report.days[-1]))}"
        caption += f" {number(left_out)} records of days far off are not drawn: the data reach from {reach}."
    if len(report.actions) > figures.MOST_PANELS:
        caption += f" The {figures.MOST_PANELS} most frequent of {len(report.actions)} actions."
    wide, narrow = figures.events(report, drawing.FULL), figures.events(report, drawing.NARROW)
    sums, most = report.events.sum(axis=0).tolist(), report.events.max(axis=0).tolist()
    rows: list[list[str | Cell]] = [
        [Cell(name, code=True), number(n), share(percent(n, total)), number(round(n / len(report.days))), number(peak)]
        for name, n, peak in zip(report.actions, sums, most, strict=True)
    ]
    return section(
        "events",
        "Events by action",
        lead,
        figure(wide, narrow, caption),
        table(f"Over {number(len(report.days))} days with events", ["action", "accepted", "share", "mean a day", "most on a day"], rows),
        shape="full",
    )


def late(report: Report) -> str:
    """Late records by lateness."""
    lead = (
        f"Accepted records whose event time lay more than {span(report.allowed_lateness_ms)} behind the watermark of their partition, by how far. "
        "They count in sequences and as revisits; a late save opens nothing."
    )
    if not report.lateness:
        return section("late", "Late records", lead, note("No record came late."), shape="full")
    rows = figures.lateness_rows(report)
    total = sum(n for _, n in rows)
    return section(
        "late",
        "Late records",
        lead,
        _bars(rows, "late", "Late records by how far they lay behind the watermark", "Records by lateness."),
        table(
            f"{number(total)} late records",
            ["behind", "records", "share"],
            [[name, number(n), share(percent(n, total), 1)] for name, n in rows],
        ),
    )


def dead(report: Report) -> str:
    """Dead letters by reason and partition."""
    lead = "Records that could not be taken, kept with the reason. The command tidemark deadletters lists them, and puts them back after a fix."
    if not report.dead:
        return section("dead", "Dead letters", lead, note("There are no dead letters."), shape="full")
    sums = {reason: int(by.sum()) for reason, by in report.deadletters.items()}
    few = report.partitions <= _PARTITIONS
    # Beside a row of partitions the plot has less room.
    plot = _bars(list(sums.items()), "dead", "Dead letters by reason", "Records by reason.", drawing.SLIM if few else drawing.WIDE)
    rows: list[list[str | Cell]]
    if few:
        headings = ["reason", "all", *(f"p{p}" for p in range(report.partitions))]
        rows = [[Cell(reason, code=True), number(sums[reason]), *(number(int(n)) for n in by)] for reason, by in report.deadletters.items()]
    else:
        headings = ["reason", "all", "partitions with any", "most in one"]
        rows = [
            [
                Cell(reason, code=True),
                number(sums[reason]),
                number(int((by > 0).sum())),
                Cell(number(int(by.max())), f"partition {int(by.argmax())}"),
            ]
            for reason, by in report.deadletters.items()
        ]
    return section(
        "dead",
        "Dead letters",
        lead,
        plot,
        table("By reason and partition of ACTIONS", headings, rows),
        shape="columns matrix" if few else "columns",
    )


def _against(count: int, total: int, paper: float | None, compare: bool) -> list[str | Cell]:
    """Our share with its margin, the paper's, and the difference."""
    ours = percent(count, total)
    cells: list[str | Cell] = [Cell(share(ours), f"± {margin(count, total):.2f}")]
    if compare:
        cells += [share(paper), points(ours - paper)] if paper is not None else ["–", "–"]
    return cells


def _pairs(rows: list[tuple[str, float, float | None]], key: str, label: str, caption: str, compare: bool) -> str:
    legend = [("bar", "ours"), ("tick", "paper")] if compare else []
    return figure(figures.pairs(rows, drawing.WIDE, key, label), figures.pairs(rows, drawing.NARROW, key, label), caption, legend)


def _bars(rows: list[tuple[str, int]], key: str, label: str, caption: str, wide: int = drawing.WIDE) -> str:
    return figure(figures.bars(rows, wide, key, label), figures.bars(rows, drawing.NARROW, key, label), caption)


def _none_matured(report: Report) -> str:
    wait = f"7 days and the allowed lateness of {span(report.allowed_lateness_ms)}"
    return note(f"No save has matured yet (of {number(report.saves)}): that takes {wait}, in event time.")
