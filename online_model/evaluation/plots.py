"""The plots of an evaluation, as inline SVG; how one is drawn is told in `flows.report.drawing`.

A second scoring is drawn in the second colour, behind the first one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flows.report.drawing import FULL, GRID, INK, MUTED, NARROW, OURS, PAPER, SOFT, names_beside, svg
from online_model.evaluation.bootstrap import Difference
from online_model.evaluation.metrics import Bin

_GAP = 30.0
_DASHED = (0, (4, 3))
_COLOURS = (OURS, PAPER)


def reliability_plot(heads: Sequence[str], sides: Sequence[dict[str, list[Bin]]], width: int) -> str:
    """A panel for each head: share of positives by mean score, one point a bin; on the dashed line scores are what they say."""

    def draw(axes: Axes, head: str) -> None:
        most = max([1e-9, *(max(b.score, b.label) for side in sides for b in side.get(head, []))])
        axes.plot([0, most], [0, most], color=MUTED, linewidth=1.2, linestyle=_DASHED)
        for side, colour in list(zip(sides, _COLOURS, strict=False))[::-1]:
            bins = side.get(head, [])
            axes.plot([b.score for b in bins], [b.label for b in bins], color=colour, marker="o", markersize=4.5, linewidth=1.4)
        axes.set(xlim=(0, most * 1.04), ylim=(0, most * 1.04))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(3))
            axis.set_major_formatter(lambda value, _: f"{value:g}")

    return _panels(heads, draw, width, 250, "reliability", "Share of positives by mean score, for each head", left=40)


def over_time(heads: Sequence[str], sides: Sequence[dict[str, list[float | None]]], ends: tuple[str, str], metric: str, width: int) -> str:
    """A panel for each head: a metric by bucket of time, each panel on its own scale."""

    def draw(axes: Axes, head: str) -> None:
        for side, colour in list(zip(sides, _COLOURS, strict=False))[::-1]:
            values = np.array([np.nan if value is None else value for value in side[head]])
            # A bucket between two that have none would have no line.
            alone = not np.isfinite(values[:-1] + values[1:]).any()
            axes.plot(np.arange(len(values)), values, color=colour, linewidth=1.6, marker="o" if alone else "", markersize=5)
        count = len(next(iter(sides))[head])
        axes.set_xlim(-0.5, max(count - 0.5, 0.5))
        axes.set_xticks([])
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        for place, label in zip((0.0, 1.0), ends, strict=True):
            align = "right" if place else "left"
            axes.text(place, -0.07, label, transform=axes.transAxes, fontsize=11, color=MUTED, va="top", ha=align)

    key = metric.replace("@", "-")
    return _panels(heads, draw, width, 190, f"time-{key}", f"{metric} over time, for each head", left=46)


def by_part(
    heads: Sequence[str], names: Sequence[str], sides: Sequence[dict[str, list[float | None]]], key: str, metric: str, width: int
) -> str:
    """A panel for each head, in it a line for each part, and on that a metric as a dot."""
    shown, left = names_beside(names, NARROW)

    def draw(axes: Axes, head: str) -> None:
        for side, colour in list(zip(sides, _COLOURS, strict=False))[::-1]:
            values = [np.nan if value is None else value for value in side[head]]
            axes.plot(values, np.arange(len(values)), color=colour, marker="o", linestyle="", markersize=7)
        known = [value for side in sides for value in side[head] if value is not None]
        room = 0.06 * (max(known) - min(known)) or 0.01
        axes.set(ylim=(len(names) - 0.4, -0.6), xlim=(min(known) - room, max(known) + room))
        axes.set_yticks(np.arange(len(names)), shown, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")

    return _panels(heads, draw, width, 76 + 22 * len(names), key, f"{metric} by {key}, for each head", left=left)


def difference_plot(metrics: Sequence[str], differences: Sequence[Difference], width: int) -> str:
    """A panel for each metric: each head's difference with its interval, over a band of what could not have been detected."""
    heads = list(dict.fromkeys(one.head for one in differences))

    def draw(axes: Axes, metric: str) -> None:
        reach = 1e-9
        for one in differences:
            if one.metric != metric or one.difference is None:
                continue
            y = heads.index(one.head)
            reach = max(reach, abs(one.difference))
            if one.low is not None and one.high is not None and one.detectable is not None:
                reach = max(reach, abs(one.low), abs(one.high), one.detectable)
                axes.barh(y, 2 * one.detectable, left=-one.detectable, height=0.72, color=SOFT, linewidth=0)
                axes.plot([one.low, one.high], [y, y], color=OURS, linewidth=2.4, solid_capstyle="butt", zorder=3)
            axes.plot([one.difference], [y], color=OURS, marker="o", markersize=7, zorder=4)
        axes.axvline(0, color=MUTED, linewidth=1.2, zorder=2)
        axes.set(ylim=(len(heads) - 0.4, -0.6), xlim=(-1.08 * reach, 1.08 * reach))
        axes.set_yticks(np.arange(len(heads)), names_beside(heads, NARROW)[0], color=INK)
        axes.grid(False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(3, symmetric=True))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:+.3g}".replace("-", "−") if abs(value) > 1e-12 else "0")

    left = names_beside(heads, NARROW)[1]
    return _panels(metrics, draw, width, 76 + 24 * len(heads), "difference", "Differences with intervals, by metric and head", left=left)


def _panels(names: Sequence[str], draw: Callable[[Axes, str], None], width: int, high: int, key: str, label: str, left: float) -> str:
    """Named panels, three beside each other where there is room."""
    columns = 3 if width >= FULL else 1
    lines = -(-len(names) // columns)
    panel = (width - _GAP * (columns - 1)) / columns

    def every(figure: Figure) -> None:
        total = float(figure.bbox.height)
        for i, name in enumerate(names):
            x, y = i % columns * (panel + _GAP), total - (i // columns + 1) * high
            axes = figure.add_axes(((x + left) / width, (y + 36) / total, (panel - left - 6) / width, (high - 66) / total))
            draw(axes, name)
            title = names_beside([name], NARROW)[0][0]
            axes.annotate(
                title, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", fontsize=13, fontweight="bold", va="bottom"
            )
            axes.axhline(axes.get_ylim()[0], color=GRID, linewidth=1.6)

    return svg(every, width, high * max(lines, 1), f"{key}-{width}", label)
