"""The plots of what a check and a comparison of distributions say, as inline SVG; how one is drawn is told in `flows.report.drawing`."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from flows.report.drawing import GRID, INK, MUTED, NARROW, OURS, PAPER, SOFT, axes_within, names_beside, short, svg
from flows.report.panels import Panel, panels
from flows.skew.drift import MOVED, MOVING, Moved, Shares

_BINS = 24
PANELS = 8
_SAID_ANYWAY = re.compile(r"revisits?_|sequence_|clicked_(?=days)|_count|(?<=_)all_")


def differing(rows: Sequence[tuple[str, float]], width: int) -> str:
    """One line for each feature: the share of its rows that differ, in percent."""

    def draw(figure: Figure) -> None:
        names, left = names_beside([brief(name, width) for name, _ in rows], width)
        axes = axes_within(figure, left, 62, 2, 2)
        axes.barh(np.arange(len(rows)), [share for _, share in rows], height=0.56, color=OURS, linewidth=0)
        for i, (_, share) in enumerate(rows):
            axes.annotate(f"{share:.3g} %", (share, i), (7, 0), textcoords="offset points", va="center", fontsize=12, color=INK)
        axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, max(share for _, share in rows)), xticks=[])
        axes.set_yticks(np.arange(len(rows)), names, color=INK)
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)
        axes.axvline(0, color=GRID, linewidth=1.6)

    return svg(draw, width, 8 + 29 * max(len(rows), 1), f"differing-{width}", "Share of rows that differ, in percent, by feature")


def psi_bars(features: Sequence[Moved], width: int) -> str:
    """One line for each feature: its PSI, and where it is said to be moving and to have moved."""

    def draw(figure: Figure) -> None:
        names, left = names_beside([brief(one.name, width) for one in features], width)
        axes = axes_within(figure, left, 60, 26, 2)
        values = [one.psi for one in features]
        top = max([*values, MOVED * 1.15])
        axes.barh(np.arange(len(features)), values, height=0.56, color=[PAPER if v >= MOVED else OURS for v in values], linewidth=0)
        for i, value in enumerate(values):
            axes.annotate(f"{value:.3f}", (value, i), (7, 0), textcoords="offset points", va="center", fontsize=12, color=INK)
        for at, what in ((MOVING, "moving"), (MOVED, "moved")):
            axes.axvline(at, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), zorder=0)
            # Where the two would lie on each other, the greater one says enough.
            if at == MOVED or (MOVED - MOVING) / top > 0.16:
                axes.annotate(what, (at, -0.6), (3, 4), textcoords="offset points", fontsize=11, color=MUTED, annotation_clip=False)
        axes.set(ylim=(len(features) - 0.4, -0.6), xlim=(0, top), xticks=[])
        axes.set_yticks(np.arange(len(features)), names, color=INK)
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)
        axes.axvline(0, color=GRID, linewidth=1.6)

    return svg(draw, width, 34 + 29 * max(len(features), 1), f"psi-{width}", "Population stability index by feature")


def distributions(features: Sequence[Moved], width: int) -> str:
    """A panel for each feature: how its values are spread, before (line) and now (area)."""
    columns = 2 if width <= NARROW else 4
    lines = -(-len(features) // columns)

    def draw(figure: Figure) -> None:
        high, gap = float(figure.bbox.height), 22.0
        panel, each = (width - gap * (columns - 1)) / columns, high / max(lines, 1)
        for i, one in enumerate(features):
            x, y = i % columns * (panel + gap), high - (i // columns + 1) * each
            axes = figure.add_axes((x / width, (y + 34) / high, panel / width, (each - 84) / high))
            edges, shares, labels = _spread(one)
            before, now = shares
            axes.stairs(now, edges, fill=True, color=SOFT, linewidth=0)
            axes.stairs(now, edges, color=OURS, linewidth=1.6)
            axes.stairs(before, edges, color=PAPER, linewidth=1.6, linestyle=(0, (4, 3)))
            top = max(float(before.max(initial=0)), float(now.max(initial=0)), 1e-9)
            axes.set(xlim=(edges[0], edges[-1]), ylim=(0, top * 1.05), yticks=[])
            axes.set_xticks([])
            axes.grid(False)
            axes.axhline(0, color=GRID, linewidth=1.6)
            # Cut on both widths: a panel has a quarter of the page.
            axes.text(0, 1.25, brief(one.name, NARROW), transform=axes.transAxes, fontsize=11, fontweight="bold", va="bottom")
            told = f"PSI {one.psi:.3f}" + (f", KS {one.ks:.3f}" if one.ks is not None else "")
            axes.text(0, 1.05, told, transform=axes.transAxes, fontsize=12, color=MUTED, va="bottom")
            for side, label in zip((0.0, 1.0), labels, strict=True):
                place = "right" if side else "left"
                axes.text(side, -0.09, label, transform=axes.transAxes, fontsize=11, color=MUTED, va="top", ha=place)

    return svg(draw, width, 168 * max(lines, 1), f"spread-{width}", "Distributions of the features that moved most, before and now")


def _spread(one: Moved) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], tuple[str, str]]:
    """Edges of bins, the share of values in each on both sides, and what the ends are called."""
    if one.shares is not None:
        names = sorted(one.shares, key=lambda name: -max(one.shares[name]))  # type: ignore[index]
        sides = tuple(np.array([one.shares[name][side] for name in names]) for side in (0, 1))
        return np.arange(len(names) + 1, dtype=np.float64), (sides[0], sides[1]), (short(names[0], 12), short(names[-1], 12))
    assert one.samples is not None
    every = np.concatenate(one.samples)
    low, high = (float(np.quantile(every, q)) for q in (0.0, 0.99)) if len(every) else (0.0, 1.0)
    whole = bool((every == np.round(every)).all()) and high - low < _BINS
    edges = np.arange(low - 0.5, high + 1.5) if whole else np.linspace(low, high if high > low else low + 1, _BINS + 1)
    counts = [np.histogram(np.clip(side, edges[0], edges[-1]), edges)[0] / max(1, len(side)) for side in one.samples]
    return edges, (counts[0], counts[1]), (_number(low), _number(high))


def _number(value: float) -> str:
    if value == round(value) and abs(value) < 1e5:
        return f"{value:.0f}"
    return f"{value:.3g}".replace("e+0", "e").replace("e+", "e")


def shares_over_time(shares: Shares, labels: tuple[str, str], width: int) -> str:
    """A panel for each action: its share of the entries of served sequences, by time of the request."""
    total = np.maximum(shares.counts.sum(axis=1), 1)
    shown = []
    for i, name in enumerate(shares.actions[:PANELS]):
        line = 100 * shares.counts[:, i] / total
        shown.append(Panel(name, f"{line.min():.1f} to {line.max():.1f} %", (line,)))
    return panels(shown, shares.starts, labels, width, "actions", "Share of each action among the entries of served sequences, over time")


def brief(name: str, width: int) -> str:
    """A feature's name with the entity before it that it is of, for users and pins share names.

    On a phone without the words that tell no two apart.
    """
    view, _, feature = name.partition(":")
    shown = f"{view.partition('_')[0]} {feature}"
    return shown if width > NARROW else _SAID_ANYWAY.sub("", shown).replace("impression", "impr").replace("days_3_6", "d3_6")
