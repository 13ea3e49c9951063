"""The sections of the page that say what moves over time. They say what the numbers say, and no more."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import numpy as np

from flows.examples.record import HEADS
from flows.features import WINDOW_DAYS
from flows.report.drawing import FULL, NARROW
from flows.report.figures import bars
from flows.report.markup import Cell, figure, note, section, table
from flows.report.panels import Panel, levels, panels, rate_bars
from flows.report.words import day, moment, number, points, share
from flows.settings import DAY_MS
from flows.skew.drift import ENOUGH, MOVED, MOVING
from flows.skew.names import PIN, ROW, USER, VIEWS
from flows.trends.coverage import FEATURES, FOUND, ROWS, Covered, view_column
from flows.trends.sums import SIZES
from flows.trends.told import verdict
from flows.trends.values import UNKNOWN, Series, Trends, covered, rates, ratio, views

_ACTIONS, _TOPICS, _LISTED, _FEATURES = 12, 8, 24, 20  # so many are shown one by one
_DRAWN = 2_000  # stretches, at most, where those that are empty are drawn too
_STRETCHES = dict(zip(SIZES, ("minute", "ten minutes", "hour", "day", "week", "four weeks", "364 days", "3640 days"), strict=True))
_WINDOW = re.compile(r"_(\d+)d(?=_|$)")
MEANINGS = [
    (
        "Arrival",
        "When a record came to its log: the running maximum of the log's timestamps. Records, late ones and dead letters are counted by it.",
    ),
    ("Share of an action", "Of the well-formed records of ACTIONS, duplicates too: what producers sent."),
    ("Before, now", "Before is the reference that all else is held against: what was asked for, or the first half of the period."),
    (
        "PSI of actions",
        f"Population stability index of the shares against those before. Below {MOVING} nothing is said to have moved, from {MOVED} on much has. "
        f"Of fewer than {ENOUGH} records it says nothing, and isn't told.",
    ),
    ("Coverage", "The share of served rows with a value other than nothing and zero: a row is what one request was given of one entity."),
    (
        "Final label",
        "A label that can't change any more, counted once, when it became known: a revisit of a saved pin a week after its save.",
    ),
]


def of_trends(trends: Trends) -> list[str]:
    """All sections."""
    return [_actions(trends), _drift(trends), _volume(trends), _coverage(trends), _labels(trends), _topics(trends)]


def volume_tiles(trends: Trends) -> list[tuple[str, str, str]]:
    """Name, figure and note of each tile: what came in."""
    _, counts = trends.volume
    records, late, dead = counts.sum(axis=0).tolist()
    return [
        ("Records", number(records), "of ACTIONS, in the period"),
        ("Late", number(late), f"{share(100 * late / max(records, 1))} of records"),
        ("Dead letters", number(dead), f"{share(100 * dead / max(records, 1))} of records"),
    ]


def drift_tiles(trends: Trends) -> list[tuple[str, str, str]]:
    """The same of what moves: drift of actions, coverage of users and pins."""
    psi = "–" if math.isnan(trends.psi_now) else f"{trends.psi_now:.3f}"
    found = [("PSI of actions", psi, f"now against before: {verdict(trends.psi_now)}")]
    for kind, name in ((USER, "Users covered"), (PIN, "Pins covered")):
        covers = UNKNOWN if trends.coverage is None else _of(trends.coverage.now, kind)
        found.append((name, "–" if math.isnan(covers) else share(covers, 1), "of served rows, now"))
    return found


def about(trends: Trends) -> str:
    """What is told of which time, in a sentence."""
    starts, _ = trends.volume
    if not len(starts):
        return "There is no record in the period."
    first, last = _time(int(starts[0])), _time(int(starts[-1]) + trends.size_ms)
    if trends.reference is None:
        return f"By {_stretch(trends)}, from {first} to {last}. There is nothing to hold it against."
    ends = (trends.reference.first, trends.reference.until)
    before = " to ".join(_time(end) if end is not None else "the end" if i else "the beginning" for i, end in enumerate(ends))
    return f"By {_stretch(trends)}, from {first} to {last}. Before: {before}."


def _time(ms: int) -> str:
    """A day where it is the first moment of one."""
    return moment(ms) if ms % DAY_MS else day(ms // DAY_MS)


def _stretch(trends: Trends) -> str:
    return _STRETCHES[trends.size_ms]


def _both(draw: Callable[[int], str], caption: str, legend: Sequence[tuple[str, str]] = ()) -> str:
    return figure(draw(FULL), draw(NARROW), caption, legend)


def _named(starts: np.ndarray, size_ms: int) -> tuple[str, str]:
    """What stands below the first and the last of some stretches."""
    ends = (int(starts[0]), int(starts[-1]))
    names = [day(ms // DAY_MS) if size_ms >= DAY_MS else moment(ms)[5:16] for ms in ends]
    return names[0], names[1]


def _actions(trends: Trends) -> str:
    heading = "Share of each action"
    lead = f"Of well-formed records, by {_stretch(trends)} of arrival. Each panel has its own scale."
    names, series = trends.by_action
    if not names or not len(series.starts):
        return section("action-shares", heading, lead, note("There is no well-formed record in the period."), shape="full")
    total = series.counts.sum(axis=1)
    before, now = int(series.reference.sum()), int(series.now.sum())
    shown: list[Panel] = []
    rows: list[list[str | Cell]] = []
    for i, name in enumerate(names):
        shares = _percents(series.counts[:, i], total)
        level = 100 * ratio(series.reference[i], before)
        present = 100 * ratio(series.now[i], now)
        shown.append(Panel(name, _range(shares), (shares, np.full(len(shares), level))))
        rows.append(
            [Cell(name, code=True), number(int(series.counts[:, i].sum())), _percent(level), _percent(present), _change(present, level)]
        )
    caption = f"The {_ACTIONS} most frequent of {len(names)} actions." if len(names) > _ACTIONS else ""
    return section(
        "action-shares",
        heading,
        lead,
        _both(
            lambda width: panels(
                shown[:_ACTIONS],
                series.starts,
                _named(series.starts, trends.size_ms),
                width,
                "action-shares",
                "Share of each action over time",
            ),
            caption,
            [("line", f"by {_stretch(trends)}"), ("dash", "before")],
        ),
        table("Shares before and now", ["action", "records", "before", "now", "change, pp"], rows[:_LISTED]),
        shape="full",
    )


def _drift(trends: Trends) -> str:
    heading = "Drift of actions"
    lead = f"How far the shares of each {_stretch(trends)} lie from those before."
    values = trends.psi
    if np.isnan(values).all():
        too_few = f"No {_stretch(trends)} and reference hold {ENOUGH} records, so nothing can be said."
        return section("action-drift", heading, lead, note(too_few), shape="full")
    starts = trends.actions.starts
    worst = int(np.nanargmax(values))
    caption = f"The greatest is {values[worst]:.3f}, from {_time(int(starts[worst]))} on."
    marks = [(MOVING, "moving"), (MOVED, "moved")]
    return section(
        "action-drift",
        heading,
        lead,
        _both(
            lambda width: levels(
                values,
                starts,
                _named(starts, trends.size_ms),
                marks,
                width,
                "action-drift",
                "Population stability index of actions over time",
            ),
            caption,
        ),
        shape="full",
    )


def _volume(trends: Trends) -> str:
    heading = "Records, late ones and dead letters"
    lead = f"By {_stretch(trends)} of arrival. Late ones and dead letters are those that flows have put out. Each panel has its own scale."
    starts, counts = trends.volume
    if not len(starts):
        return section("volume", heading, lead, note("There is no record in the period."), shape="full")
    starts, counts = _without_holes(starts, counts, trends.size_ms)
    shown = [
        Panel(name, f"{number(int(column.max()))} at most", (column.astype(np.float64),))
        for name, column in zip(("records", "late", "dead letters"), counts.T, strict=True)
    ]
    parts = [
        _both(
            lambda width: panels(
                shown, starts, _named(starts, trends.size_ms), width, "volume", "Records, late records and dead letters over time"
            ),
            "",
        )
    ]
    if letters := list(trends.letters.items()):
        parts.append(_both(lambda width: bars(letters, width, "letters", "Dead letters by reason"), "Dead letters by reason."))
    return section("volume", heading, lead, *parts, shape="full")


def _without_holes(starts: np.ndarray, counts: np.ndarray, size_ms: int) -> tuple[np.ndarray, np.ndarray]:
    """With stretches in which nothing came, where they are not too many to draw."""
    every = (int(starts[-1]) - int(starts[0])) // size_ms + 1
    if every > _DRAWN:
        return starts, counts
    filled = np.zeros((every, counts.shape[1]), np.int64)
    filled[(starts - starts[0]) // size_ms] = counts
    return starts[0] + np.arange(every) * size_ms, filled


def _coverage(trends: Trends) -> str:
    heading = "Coverage of features"
    lead = f"The share of served rows with a value, by {_stretch(trends)} of the request."
    series = trends.coverage
    if series is None or not len(series.starts):
        missing = "Nothing was served: there is no log SERVED." if series is None else "Nothing was served in the period."
        return section("coverage", heading, lead, note(missing), shape="full")
    ends = _named(series.starts, trends.size_ms)
    by_view = [
        Panel(ROW[kind], _range(line), (line, np.full(len(line), _of(series.reference, kind))))
        for kind in VIEWS
        if not np.isnan(line := _percents(*series.counts[:, [view_column(kind, FOUND), view_column(kind, ROWS)]].T)).all()
    ]
    parts = [
        _both(
            lambda width: panels(
                by_view, series.starts, ends, width, "coverage-views", "Share of rows that were found, by view, over time"
            ),
            "Rows that were found: a user's with an action or a revisit, pins and topics that are known.",
            [("line", f"by {_stretch(trends)}"), ("dash", "before")],
        )
    ]
    shown = []
    for group in _groups(series):
        lines = tuple(_line(series, one) for one in group)
        shown.append(Panel(_title(group[0]), _range(lines[0]), lines))
    if shown:
        marks = ("line", "dash", "other")
        legend = [(mark, f"{days} days") for mark, days in zip(marks, sorted(WINDOW_DAYS, reverse=True), strict=True)]
        parts.append(
            _both(
                lambda width: panels(shown, series.starts, ends, width, "coverage", "Share of rows with a value, by feature, over time"),
                "By feature and window; the range is of the widest. Of features that always have a value together one is shown, below too.",
                legend,
            )
        )
    return section("coverage", heading, lead, *parts, _covered_table(series), shape="full")


def _covered_table(series: Series) -> str:
    before, now = covered(series.reference), covered(series.now)
    moved = {name: 100 * (ratio(*now[name]) - ratio(*before[name])) for name in now}
    known = sorted((one.name for one in _apart(series)), key=lambda name: (math.isnan(moved[name]), -abs(moved[name]), name))
    rows: list[list[str | Cell]] = []
    for name in known[:_FEATURES]:
        view, _, feature = name.partition(":")
        shares = [100 * ratio(*side[name]) for side in (before, now)]
        rows.append(
            [Cell(feature, view, code=True), number(now[name][1]), *(_percent(one) for one in shares), _change(shares[1], shares[0])]
        )
    caption = f"The {len(rows)} of {len(known)} features whose coverage moved most" if len(known) > len(rows) else "Coverage before and now"
    return table(caption, ["feature", "rows now", "before", "now", "change, pp"], rows)


def _apart(series: Series) -> list[Covered]:
    """Features that were served, one of those that always have a value together."""
    seen, out = set(), []
    for one in FEATURES:
        columns = (one.kind, series.counts[:, one.column].tobytes(), int(series.reference[one.column]))
        if series.counts[:, one.rows].any() and columns not in seen:
            seen.add(columns)
            out.append(one)
    return out


def _groups(series: Series) -> list[list[Covered]]:
    """Features that differ by their window alone, each group once whose columns are those of another."""
    groups: dict[tuple[str, str], list[Covered]] = {}
    for one in FEATURES:
        if series.counts[:, one.rows].any() and _WINDOW.search(one.feature):
            groups.setdefault((one.kind, _WINDOW.sub("", one.feature)), []).append(one)
    seen, out = set(), []
    for (kind, _), group in groups.items():
        columns = (kind, series.counts[:, [one.column for one in group]].tobytes())
        if columns not in seen:
            seen.add(columns)
            out.append(sorted(group, key=_days, reverse=True))
    return out


def _title(one: Covered) -> str:
    name = _WINDOW.sub("", one.feature).replace("revisits_", "").removesuffix("_count")
    return f"{VIEWS[one.kind].partition('_')[0]} {name}".replace("_", " ")


def _days(one: Covered) -> int:
    found = _WINDOW.search(one.feature)
    return int(found[1]) if found else 0


def _line(series: Series, one: Covered) -> np.ndarray:
    return _percents(series.counts[:, one.column], series.counts[:, one.rows])


def _of(counts: np.ndarray, kind: str) -> float:
    return 100 * ratio(*views(counts)[kind])


def _labels(trends: Trends) -> str:
    heading = "Rates of labels"
    lead = f"The share of final labels that are 1, by {_stretch(trends)} in which they became known, for each head."
    series = trends.labels
    if series is None or not len(series.starts):
        missing = "There is no log EXAMPLES: nothing has made examples here." if series is None else "No label became final in the period."
        return section("label-rates", heading, lead, note(missing), shape="full")
    lines = {head: _percents(series.counts[:, len(HEADS) + i], series.counts[:, i]) for i, head in enumerate(HEADS)}
    shown = [
        Panel(head, _range(line), (line, np.full(len(line), 100 * ratio(*rates(series.reference)[head])))) for head, line in lines.items()
    ]
    rows: list[list[str | Cell]] = []
    for head, (positives, labels) in rates(series.counts.sum(axis=0, dtype=np.int64)).items():
        before, now = (100 * ratio(*rates(side)[head]) for side in (series.reference, series.now))
        rows.append([Cell(head, code=True), number(labels), number(positives), _percent(before), _percent(now), _change(now, before)])
    return section(
        "label-rates",
        heading,
        lead,
        _both(
            lambda width: panels(
                shown, series.starts, _named(series.starts, trends.size_ms), width, "label-rates", "Rate of each head's labels over time"
            ),
            "Whether a saved pin was revisited is known a week after its save, and that another was not, at once: before the log is a week old the "
            "rate of revisits is too low.",
            [("line", f"by {_stretch(trends)}"), ("dash", "before")],
        ),
        table("Rates before and now", ["head", "labels", "positive", "before", "now", "change, pp"], rows),
        shape="full",
    )


def _topics(trends: Trends) -> str:
    heading, lead = "Rates by topic", "The share of final labels that are 1 in the period, by topic of what was seen."
    if not trends.topics:
        return section("topic-rates", heading, lead, note("No label became final in the period."), shape="full")
    chosen = list(trends.topics.items())
    shown = chosen[:_TOPICS]
    values = np.array([[100 * ratio(*one) for one in rates(counts).values()] for _, counts in shown])
    rows: list[list[str | Cell]] = []
    for name, counts in chosen[:_LISTED]:
        by_head = rates(counts)
        rows.append(
            [_cut(name), number(max(labels for _, labels in by_head.values())), *(_percent(100 * ratio(*one)) for one in by_head.values())]
        )
    caption = f"The {len(rows)} of {number(len(chosen))} topics with most labels" if len(chosen) > len(rows) else "By topic"
    return section(
        "topic-rates",
        heading,
        lead,
        _both(
            lambda width: rate_bars(
                [name for name, _ in shown], HEADS, values, width, "topic-rates", "Rate of each head's labels by topic"
            ),
            f"The {len(shown)} topics with most labels." if len(chosen) > len(shown) else "",
        ),
        table(caption, ["topic", "labels", *HEADS], rows),
        shape="full",
    )


def _percents(counts: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Shares over time, in percent; NaN where there are too few to say something, as long as there are enough anywhere."""
    least = ENOUGH if (totals >= ENOUGH).any() else 1
    return np.array([100 * ratio(n, total) if total >= least else UNKNOWN for n, total in zip(counts, totals, strict=True)])


def _cut(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:39]}…"


def _range(line: np.ndarray) -> str:
    known = line[~np.isnan(line)]
    return f"{known.min():.3g} to {known.max():.3g} %" if len(known) else "–"


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else share(value)


def _change(now: float, before: float) -> str:
    return "–" if math.isnan(now) or math.isnan(before) else points(now - before)
