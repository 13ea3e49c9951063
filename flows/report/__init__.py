"""A report of one data directory: its numbers, as one HTML file or as a table in the terminal.

Modules: `values` (what it says), `gathering` (where that comes from), `figures` (matplotlib), `markup` and `page` (HTML), `console`.
"""

from __future__ import annotations

from pathlib import Path

from flows.report.console import console_label_table
from flows.report.gathering import gather
from flows.report.values import Report, Throughput

__all__ = ["Report", "Throughput", "console_label_table", "gather", "write_html"]


def write_html(report: Report, out: Path, *, compare: bool = True) -> None:
    """Write a report as one HTML file that needs nothing else: no script, no network. The same report gives the same bytes.

    Parameters
    ----------
    report : Report
    out : Path
        Replaced when the new file is whole.
    compare : bool
        Show the figures of Pinterest's paper beside ours. They say nothing about other data.

    Raises
    ------
    InputError
        `out` can't be written.
    StorageFullError
        The disk is full.
    """
    # Matplotlib takes most of a second to import, and only pages need it.
    from flows.report.page import write

    write(report, out, compare)
