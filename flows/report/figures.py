"""The plots, as inline SVG. Drawn by matplotlib's objects alone (no pyplot, no global state), always to the same bytes.

A plot is drawn in two widths, since its text must not shrink on a phone; the page shows the one that fits. Its colours are stand-ins that
become CSS variables, so that one drawing serves light and dark.
"""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flows.report.values import AGES, Report, percent
from flows.report.words import day as day_name
from flows.report.words import number, plain, span

WIDE, NARROW, SLIM, FULL = 560, 350, 460, 1080

# Colours that occur nowhere else, and what they become.
INK, MUTED, GRID, OURS, PAPER, SOFT = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", OURS: "--ours", PAPER: "--paper", SOFT: "--soft"}

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tidemark",
    "text.parse_math": False,  # a topic may hold a dollar sign
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 12.0,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 12.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 12.0,
    "ytick.labelsize": 12.0,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "lines.linewidth": 2.0,
    "lines.markersize": 7.0,
}

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
MOST_PANELS = 12
_MOST_POINTS = 400


def decay(report: Report, paper: dict[int, float] | None, width: int) -> str:
    """Share of matured saves with a click by day after the save, all and first ones; the paper's where published."""

    def draw(figure: Figure) -> None:
        axes = _axes(figure, 44, 14, 16, 46)
        days = np.arange(AGES)
        every = [percent(int(n), report.matured) for n in report.clicked_by_day]
        first = [percent(int(n), report.matured) for n in report.first_clicked_by_day]
        axes.plot(days, first, color=MUTED, linewidth=1.4, linestyle=(0, (4, 3)), zorder=2)
        axes.plot(days, every, color=OURS, marker="o", zorder=3)
        if paper:
            at, published = list(paper), list(paper.values())
            axes.plot(at, published, color=PAPER, marker="D", linestyle="", fillstyle="none", markersize=11, markeredgewidth=2, zorder=4)
        for day, value in zip(days, every, strict=True):
            axes.annotate(f"{value:.2f}", (float(day), value), (9, 8), textcoords="offset points", color=INK, fontsize=12)
        top = max([*every, *(paper or {}).values()], default=0)
        axes.set(xlim=(-0.3, AGES - 0.45), ylim=(0, top * 1.14 if top else 1), xlabel="days after the save", xticks=days)
        _percent_axis(axes, "y")
        axes.grid(False, axis="x")

    return _svg(draw, width, 330 if width > NARROW else 280, f"decay-{width}", "Share of matured saves with a click, by day after the save")


def pairs(rows: Sequence[tuple[str, float, float | None]], width: int, key: str, label: str) -> str:
    """One line for each name: our share as a bar, the paper's (if any) as a mark on it."""

    def draw(figure: Figure) -> None:
        names, left = _names([name for name, _, _ in rows], width)
        axes = _axes(figure, left, 40, 4, 26)
        y = np.arange(len(rows))
        top = max((max(ours, paper or 0) for _, ours, paper in rows), default=0)
        axes.barh(y, [ours for _, ours, _ in rows], height=0.56, color=OURS, linewidth=0)
        for i, (_, ours, paper) in enumerate(rows):
            if paper is not None:
                axes.plot([paper, paper], [i - 0.42, i + 0.42], color=PAPER, linewidth=3.5, solid_capstyle="butt", zorder=3)
            # Behind the bar, or behind the mark where that would lie on the figure.
            beyond = paper if paper is not None and 0 < paper - ours < 0.16 * top else ours
            axes.annotate(f"{ours:.1f}", (beyond, i), (8, 0), textcoords="offset points", va="center", fontsize=12, color=INK)
        axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, top * 1.02 if top else 1))
        axes.set_yticks(y, names, color=INK)
        _percent_axis(axes, "x", 4 if width > NARROW else 3)
        axes.grid(False, axis="y")

    return _svg(draw, width, 34 + 31 * max(len(rows), 1), f"{key}-{width}", label)


def events(report: Report, width: int) -> str:
    """Accepted records by day, one panel for each action, each on its own scale."""
    first, last, size = drawn_days(report)
    within = (report.days >= first) & (report.days <= last)
    point = (report.days[within] - first) // size
    count = (last - first) // size + 1
    names = report.actions[:MOST_PANELS]
    columns = 2 if width <= NARROW else 4
    lines = -(-len(names) // columns)

    def draw(figure: Figure) -> None:
        high, gap, panel = float(figure.bbox.height), 22.0, (width - 22.0 * (columns - 1)) / columns
        each = high / lines
        for i, name in enumerate(names):
            x, y = i % columns * (panel + gap), high - (i // columns + 1) * each
            axes = figure.add_axes((x / width, (y + 36) / high, panel / width, (each - 80) / high))
            shown = np.bincount(point, report.events[within, i], minlength=count)
            if count == 1:
                shown = np.repeat(shown, 2)  # or the line has no length
            at = np.arange(len(shown))
            axes.fill_between(at, shown, color=SOFT, linewidth=0)
            axes.plot(at, shown, color=OURS, linewidth=1.6, solid_joinstyle="round")
            top = max(int(shown.max()), 1)
            axes.set(xlim=(at[0], at[-1]), ylim=(0, top), yticks=[])
            axes.set_xticks([])
            axes.grid(False)
            axes.axhline(0, color=GRID, linewidth=1.6)
            axes.text(0, 1.25, short(name), transform=axes.transAxes, fontsize=13, fontweight="bold", va="bottom")
            axes.text(0, 1.05, f"{number(top)} at most", transform=axes.transAxes, fontsize=12, color=MUTED, va="bottom")
            for side, day in ((0.0, first), (1.0, last)):
                axes.text(
                    side, -0.09, day_name(day), transform=axes.transAxes, fontsize=11, color=MUTED, va="top", ha="right" if side else "left"
                )

    return _svg(draw, width, 164 * max(lines, 1), f"events-{width}", "Accepted records by day of event time, for each action")


def bars(rows: Sequence[tuple[str, int]], width: int, key: str, label: str) -> str:
    """One line for each name: how many."""

    def draw(figure: Figure) -> None:
        names, left = _names([name for name, _ in rows], width)
        axes = _axes(figure, left, 12 + 8 * max(len(number(n)) for _, n in rows), 2, 2)
        axes.barh(np.arange(len(rows)), [n for _, n in rows], height=0.56, color=OURS, linewidth=0)
        for i, (_, n) in enumerate(rows):
            axes.annotate(number(n), (n, i), (7, 0), textcoords="offset points", va="center", fontsize=12, color=INK)
        axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, max(n for _, n in rows)), xticks=[])
        axes.set_yticks(np.arange(len(rows)), names, color=INK)
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)
        axes.axvline(0, color=GRID, linewidth=1.6)

    return _svg(draw, width, 8 + 29 * max(len(rows), 1), f"{key}-{width}", label)


def drawn_days(report: Report) -> tuple[int, int, int]:
    """First and last day of the plot of events, and how many days make a point.

    A stray record of years ago must not squeeze all others into the last pixel.
    """
    total = report.events.sum(axis=1)
    reached = np.cumsum(total) / max(int(total.sum()), 1)
    first, last = (report.days[np.searchsorted(reached, q)] for q in (0.001, 0.999))
    margin = max(int(last - first), 7)
    near = report.days[(report.days >= first - margin) & (report.days <= last + margin)]
    begin, end = int(near[0]), int(near[-1])
    return begin, end, -(-(end - begin + 1) // _MOST_POINTS)


def lateness_rows(report: Report) -> list[tuple[str, int]]:
    """What `bars` shows of late records."""
    return [
        (f"over {span(b.above_ms)}" if b.up_to_ms is None else f"{span(b.above_ms)} – {span(b.up_to_ms)}", b.records)
        for b in report.lateness
    ]


def short(name: str, most: int = 24) -> str:
    """At most so many letters of a name; an East Asian one is as wide as two."""
    name = plain(name)
    if _letters(name) <= most:
        return name
    while _letters(name) >= most:
        name = name[:-1]
    return name + "…"


def _letters(name: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in name)


def _names(names: Sequence[str], width: int) -> tuple[list[str], float]:
    """Names as they fit beside a plot, and the margin that they need: 7.4 pixels a letter, and a few."""
    most = 24 if width > NARROW else 22
    shown = [short(name, most) for name in names]
    return shown, 14 + 7.4 * max(map(_letters, shown), default=0)


def _axes(figure: Figure, left: float, right: float, top: float, bottom: float) -> Axes:
    """Axes with these margins, in pixels."""
    width, height = float(figure.bbox.width), float(figure.bbox.height)
    return figure.add_axes((left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height))


def _percent_axis(axes: Axes, which: str, ticks: int = 5) -> None:
    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(lambda value, _: f"{value:g} %")


def _svg(draw: Callable[[Figure], None], width: int, height: int, key: str, label: str) -> str:
    """Draw at one unit per pixel and return the `svg` element."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # Whatever a user's matplotlibrc says.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)  # type: ignore[arg-type]
        # The browser's fonts draw the text, so it doesn't matter which glyphs matplotlib's has.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        figure.patch.set_visible(False)
        draw(figure)
        for axes in figure.axes:
            axes.patch.set_visible(False)
        text = io.StringIO()
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None, "Creator": None})
    return _inline(text.getvalue(), key, label)


def _inline(drawn: str, key: str, label: str) -> str:
    """The element alone: no metadata, IDs that are unique on the page, colours that follow the page."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(drawn)
    for parent in (root, *root.findall(f"{{{_SVG}}}defs")):
        for child in [*parent.findall(f"{{{_SVG}}}metadata"), *parent.findall(f"{{{_SVG}}}style")]:
            parent.remove(child)  # a style would bind the whole page
    used = set(re.findall(r"#([A-Za-z_][\w.-]*)[\")]", drawn))
    for element in root.iter():
        name = element.get("id")
        if name is not None and name not in used:
            del element.attrib["id"]
        elif name is not None:
            element.set("id", f"{key}-{name}")
        for attribute, value in element.attrib.items():
            if attribute.endswith("href"):
                element.set(attribute, value.replace("#", f"#{key}-"))
            elif "url(#" in value:
                element.set(attribute, value.replace("url(#", f"url(#{key}-"))
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("role", "img")
    root.set("aria-label", label)
    svg = re.sub(r" font-family: [^;\"]*;", "", ElementTree.tostring(root, "unicode"))
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, f"var({variable})")
    return svg
