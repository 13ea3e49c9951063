"""The label table in the terminal."""

from __future__ import annotations

from rich.table import Table

from flows.report.values import LABELS, Report, percent
from flows.simulate.published import PUBLISHED


def console_label_table(report: Report, *, compare: bool = True) -> Table:
    """Share of matured saves with each label, beside the paper's figures.

    Parameters
    ----------
    report : Report
    compare : bool
        Show the paper's figures.
    """
    table = Table(title=f"Labels of {report.matured:,} matured saves, of {report.saves:,}".replace(",", " "))
    table.add_column("label")
    for name in ("saves with it", "ours", *(("paper", "difference") if compare else ())):
        table.add_column(name, justify="right")
    for name in LABELS:
        count, paper = report.labels[name], getattr(PUBLISHED, name)
        ours = percent(count, report.matured)
        cells = [f"{count:,}".replace(",", " "), f"{ours:.2f} %" if report.matured else "–"]
        if compare:
            cells += [f"{paper:.1f} %", f"{ours - paper:+.2f} pp" if report.matured else "–"]
        table.add_row(name, *cells)
    return table
