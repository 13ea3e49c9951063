"""Small panels of lines over time, side by side, each on its own scale: as many as fit a row, two of them on a phone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flows.report.drawing import GRID, MUTED, NARROW, OURS, PAPER, SOFT, axes_within, short, svg

_GAP = 22.0
_HIGH = 166
# Of the lines of a panel, in order; the first has its area filled.
_COLOURS = (OURS, MUTED, PAPER)
_DASHES = ("solid", (0, (4, 3)), "solid")


@dataclass(frozen=True, eq=False)
class Panel:
    """What one shows.

    Attributes
    ----------
    name : str
        Its title; cut where it is too long.
    note : str
        Under it.
    lines : tuple of float64[b]
        One to three: solid over an area, dashed, solid in the other colour. NaN: nothing is known there.
    """

    name: str
    note: str
    lines: tuple[np.ndarray, ...]


def panels(shown: Sequence[Panel], at: np.ndarray, ends: tuple[str, str], width: int, key: str, label: str) -> str:
    """Draw them.

    Parameters
    ----------
    shown : sequence of Panel
    at : number[b]
        Where the values lie on the axis of time, ascending.
    ends : (str, str)
        What stands below its first and its last.
    width : int
    key, label : str
        As of `flows.report.drawing.svg`.
    """
    columns = 2 if width <= NARROW else 4
    rows = max(1, -(-len(shown) // columns))

    def draw(figure: Figure) -> None:
        high = float(figure.bbox.height)
        wide, each = (width - _GAP * (columns - 1)) / columns, high / rows
        for i, panel in enumerate(shown):
            x, y = i % columns * (wide + _GAP), high - (i // columns + 1) * each
            axes = figure.add_axes((x / width, (y + 36) / high, wide / width, (each - 84) / high))
            top = _draw(axes, panel, at)
            axes.set(xlim=_reach(at), ylim=(0, top * 1.05), yticks=[])
            axes.set_xticks([])
            axes.grid(False)
            axes.axhline(0, color=GRID, linewidth=1.6)
            # About seven pixels a letter.
            axes.text(0, 1.25, short(panel.name, int(wide / 7.6)), transform=axes.transAxes, fontsize=13, fontweight="bold", va="bottom")
            axes.text(0, 1.05, panel.note, transform=axes.transAxes, fontsize=12, color=MUTED, va="bottom")
            _ends(axes, ends)

    return svg(draw, width, _HIGH * rows, f"{key}-{width}", label)


def levels(
    values: np.ndarray, at: np.ndarray, ends: tuple[str, str], marks: Sequence[tuple[float, str]], width: int, key: str, label: str
) -> str:
    """One line over time, with levels that it may cross.

    Parameters
    ----------
    values : float64[b]
        NaN: nothing is known there.
    marks : sequence of (float, str)
        Levels, and what each is called.
    """

    def draw(figure: Figure) -> None:
        axes = axes_within(figure, 44, 62, 8, 30)
        known = values[~np.isnan(values)]
        top = max(float(known.max(initial=0)) * 1.08, max((level for level, _ in marks), default=0) * 1.2)
        _line(axes, values, at, 0)
        for level, name in marks:
            axes.axhline(level, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
            axes.annotate(
                name,
                (1, level),
                (6, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                fontsize=11,
                color=MUTED,
            )
        axes.set(xlim=_reach(at), ylim=(0, top))
        axes.set_xticks([])
        axes.axhline(0, color=GRID, linewidth=1.6)
        _ends(axes, ends)

    return svg(draw, width, 220, f"{key}-{width}", label)


def _draw(axes: Axes, panel: Panel, at: np.ndarray) -> float:
    """Draw the lines; gives the greatest value."""
    top = 0.0
    for i, values in enumerate(panel.lines):
        _line(axes, values, at, i)
        top = max(top, float(np.nanmax(values)) if not np.isnan(values).all() else 0.0)
    return top or 1.0


def _line(axes: Axes, values: np.ndarray, at: np.ndarray, i: int) -> None:
    if len(at) == 1:
        # Or it has no length.
        values, at = np.repeat(values, 2), np.array([0.0, 1.0]) + float(at[0])
    if i == 0:
        axes.fill_between(at, np.nan_to_num(values), where=~np.isnan(values), color=SOFT, linewidth=0)
    # A value between two that are unknown would be no line.
    alone = _alone(values)
    axes.plot(at[alone], values[alone], color=_COLOURS[i], linestyle="", marker="o", markersize=3)
    axes.plot(at, values, color=_COLOURS[i], linewidth=1.6, linestyle=_DASHES[i], solid_joinstyle="round", zorder=3 + i)


def _alone(values: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    return known & ~np.append(known[1:], False) & ~np.insert(known[:-1], 0, False)


def _reach(at: np.ndarray) -> tuple[float, float]:
    return (float(at[0]), float(at[-1])) if len(at) > 1 else (float(at[0]), float(at[0]) + 1)


def _ends(axes: Axes, ends: tuple[str, str]) -> None:
    for side, name in zip((0.0, 1.0), ends, strict=True):
        axes.text(side, -0.09, name, transform=axes.transAxes, fontsize=11, color=MUTED, va="top", ha="right" if side else "left")


def rate_bars(names: Sequence[str], columns: Sequence[str], values: np.ndarray, width: int, key: str, label: str) -> str:
    """Shares in percent by name, a column of bars for each of some quantities, each on its own scale; on a phone one under the other.

    Parameters
    ----------
    names, columns : sequence of str
    values : float64[names, columns]
        NaN: unknown.
    """
    narrow = width <= NARROW
    group = 30 + 24 * max(len(names), 1)

    def draw(figure: Figure) -> None:
        shown = [short(name, 18) for name in names]
        left = 14 + 7.4 * max(map(len, shown), default=0)
        wide = (width - left) / len(columns)
        for i, column in enumerate(columns):
            if narrow:
                axes = axes_within(figure, left, 62, 30 + i * group, (len(columns) - 1 - i) * group + 4)
            else:
                axes = axes_within(figure, left + i * wide, width - left - (i + 1) * wide + 62, 30, 4)
            _bars(axes, values[:, i])
            axes.set_yticks(range(len(names)), shown if narrow or i == 0 else [""] * len(names))
            axes.text(0, 1, column, transform=axes.transAxes, fontsize=13, fontweight="bold", va="bottom")

    return svg(draw, width, group * len(columns) if narrow else group, f"{key}-{width}", label)


def _bars(axes: Axes, values: np.ndarray) -> None:
    known = np.nan_to_num(values)
    axes.barh(range(len(values)), known, height=0.56, color=OURS, linewidth=0)
    for y, value in enumerate(values.tolist()):
        said = "–" if math.isnan(value) else f"{value:#.3g} %"
        axes.annotate(said, (known[y], y), (6, 0), textcoords="offset points", va="center", fontsize=12)
    axes.set(ylim=(len(values) - 0.4, -0.6), xlim=(0, float(known.max(initial=0)) or 1), xticks=[])
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.axvline(0, color=GRID, linewidth=1.6)
