"""The plots of the report, as inline SVG; how one is drawn is told in `flows.report.drawing`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from flows.report.drawing import (
    GRID,
    INK,
    MUTED,
    NARROW,
    OURS,
    PAPER,
    SOFT,
    axes_within,
    names_beside,
    percent_axis,
    short,
    svg,
)
from flows.report.values import AGES, Report, percent
from flows.report.words import day as day_name
from flows.report.words import number, span

MOST_PANELS = 12
_MOST_POINTS = 400


def decay(report: Report, paper: dict[int, float] | None, width: int) -> str:
    """Share of matured saves with a click by day after the save, all and first ones; the paper's where published."""

    def draw(figure: Figure) -> None:
        axes = axes_within(figure, 44, 14, 16, 46)
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
        percent_axis(axes, "y")
        axes.grid(False, axis="x")

    return svg(draw, width, 330 if width > NARROW else 280, f"decay-{width}", "Share of matured saves with a click, by day after the save")


def pairs(rows: Sequence[tuple[str, float, float | None]], width: int, key: str, label: str) -> str:
    """One line for each name: our share as a bar, the paper's (if any) as a mark on it."""

    def draw(figure: Figure) -> None:
        names, left = names_beside([name for name, _, _ in rows], width)
        axes = axes_within(figure, left, 40, 4, 26)
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
        percent_axis(axes, "x", 4 if width > NARROW else 3)
        axes.grid(False, axis="y")

    return svg(draw, width, 34 + 31 * max(len(rows), 1), f"{key}-{width}", label)


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

    return svg(draw, width, 164 * max(lines, 1), f"events-{width}", "Accepted records by day of event time, for each action")


def bars(rows: Sequence[tuple[str, int]], width: int, key: str, label: str) -> str:
    """One line for each name: how many."""

    def draw(figure: Figure) -> None:
        names, left = names_beside([name for name, _ in rows], width)
        axes = axes_within(figure, left, 12 + 8 * max(len(number(n)) for _, n in rows), 2, 2)
        axes.barh(np.arange(len(rows)), [n for _, n in rows], height=0.56, color=OURS, linewidth=0)
        for i, (_, n) in enumerate(rows):
            axes.annotate(number(n), (n, i), (7, 0), textcoords="offset points", va="center", fontsize=12, color=INK)
        axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, max(n for _, n in rows)), xticks=[])
        axes.set_yticks(np.arange(len(rows)), names, color=INK)
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)
        axes.axvline(0, color=GRID, linewidth=1.6)

    return svg(draw, width, 8 + 29 * max(len(rows), 1), f"{key}-{width}", label)


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
