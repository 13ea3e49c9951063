"""Small pieces of HTML. All text passes through `text` on its way in; what comes out is well-formed XML too."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flows.report.words import plain


def text(value: object) -> str:
    """Escaped for an element or an attribute."""
    return html.escape(plain(str(value)))


@dataclass(frozen=True)
class Cell:
    """A table cell of a few parts: the value, and a smaller note under it."""

    value: str
    note: str = ""
    code: bool = False

    def __str__(self) -> str:
        value = f"<code>{text(self.value)}</code>" if self.code else text(self.value)
        return f"{value}<small>{text(self.note)}</small>" if self.note else value


def table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str | Cell]]) -> str:
    """A table whose first column names its rows, in a box that scrolls sideways, by keyboard too, where it has no room.

    Parameters
    ----------
    caption : str
    headings : sequence of str
    rows : iterable
        Cells, as many as there are headings.
    """
    head = "".join(f'<th scope="col">{text(heading)}</th>' for heading in headings)
    body = "".join(
        f'<tr><th scope="row">{_cell(name)}</th>{"".join(f"<td>{_cell(cell)}</td>" for cell in cells)}</tr>\n' for name, *cells in rows
    )
    shown = f"<caption>{text(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>"
    return f'<div class="table" tabindex="0" role="region" aria-label="{text(caption)}"><table>{shown}</table></div>\n'


def figure(wide: str, narrow: str, caption: str, legend: Sequence[tuple[str, str]] = ()) -> str:
    """Both widths of a plot under one caption.

    Parameters
    ----------
    wide, narrow : str
        `svg` elements.
    caption : str
    legend : sequence of (str, str)
        Class of the mark (bar, tick, line, dash, diamond), and what it stands for.
    """
    marks = "".join(f'<span><i class="{mark}"></i>{text(meaning)}</span>' for mark, meaning in legend)
    shown = f'<p class="legend">{marks}</p>\n' if legend else ""
    plots = f'<div class="wide">{wide}</div>\n<div class="narrow">{narrow}</div>\n'
    return f"<figure>\n{shown}{plots}<figcaption>{text(caption)}</figcaption>\n</figure>\n"


def section(name: str, heading: str, lead: str, *parts: str, shape: str = "columns") -> str:
    """A section under its heading.

    `shape` is "columns" (its parts side by side where there is room), "columns matrix" (more of it for the second) or "full" (one by one).
    """
    return (
        f'<section id="{name}" aria-labelledby="{name}-heading">\n<h2 id="{name}-heading">{text(heading)}</h2>\n'
        f'<p class="lead">{text(lead)}</p>\n<div class="{shape}">\n{"".join(parts)}</div>\n</section>\n'
    )


def note(message: str) -> str:
    """What stands where there is nothing to show."""
    return f'<p class="none">{text(message)}</p>\n'


def tiles(items: Iterable[tuple[str, str, str]]) -> str:
    """Name, figure and note of each tile."""
    shown = [f"<div><dt>{text(name)}</dt><dd>{text(value)}<small>{text(note)}</small></dd></div>\n" for name, value, note in items]
    # Eight would leave two alone in a second row of six.
    return f'<dl class="tiles{" eight" if len(shown) == 8 else ""}">\n{"".join(shown)}</dl>\n'


def terms(items: Iterable[tuple[str, str]]) -> str:
    """Terms and what each means."""
    shown = "".join(f"<div><dt>{text(term)}</dt><dd>{text(meaning)}</dd></div>\n" for term, meaning in items)
    return f'<dl class="terms">\n{shown}</dl>\n'


def _cell(cell: str | Cell) -> str:
    return str(cell) if isinstance(cell, Cell) else text(cell)
