"""What all plots share: sizes, colours, margins, and the way from matplotlib to an `svg` element. No pyplot, no global state, always the same bytes.

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
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flows.report.words import plain

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


def names_beside(names: Sequence[str], width: int) -> tuple[list[str], float]:
    """Names as they fit beside a plot, and the margin that they need: 7.4 pixels a letter, and a few."""
    most = 44 if width >= FULL else 24
    shown = [short(name, most) for name in names]
    return shown, 14 + 7.4 * max(map(_letters, shown), default=0)


def axes_within(figure: Figure, left: float, right: float, top: float, bottom: float) -> Axes:
    """Axes with these margins, in pixels."""
    width, height = float(figure.bbox.width), float(figure.bbox.height)
    return figure.add_axes((left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height))


def percent_axis(axes: Axes, which: str, ticks: int = 5) -> None:
    """Say that an axis is in percent, with about so many ticks."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(lambda value, _: f"{value:g} %")


def svg(draw: Callable[[Figure], None], width: int, height: int, key: str, label: str) -> str:
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
