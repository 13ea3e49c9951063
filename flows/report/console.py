"""The label table in the terminal."""

from __future__ import annotations

from rich.table import Table

from flows.report.values import LABELS, Report, percent
from flows.report.words import number, points, share
from flows.simulate.published import PUBLISHED


def console_label_table(report: Report, *, compare: bool = True) -> Table:
    """Share of matured saves with each label, beside the paper's figures.

    Parameters
    ----------
    report : Report
    compare : bool
        Show the paper's figures.
    """
    table = Table(title=f"Labels of {number(report.matured)} matured saves (of {number(report.saves)})")
    table.add_column("label")
    for heading in ("saves with it", "ours", *(("paper", "difference, pp") if compare else ())):
        table.add_column(heading, justify="right")
    for name in LABELS:
        count, paper = report.labels[name], getattr(PUBLISHED, name)
        ours = percent(count, report.matured)
        cells = [number(count), share(ours) if report.matured else "–"]
        if compare:
            cells += [share(paper, 1), points(ours - paper) if report.matured else "–"]
        table.add_row(name, *cells)
    return table
