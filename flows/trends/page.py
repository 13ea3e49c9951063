"""The page: what the history says, where it is asked for, and what moves over time, in one file that needs nothing else."""

from __future__ import annotations

from pathlib import Path

from flows.report import page as of_history
from flows.report.document import document, write_document
from flows.report.values import Report
from flows.trends import sections
from flows.trends.values import Trends

_FOOTER = "Counts are of the logs alone: the same period of the same logs gives the same page."


def write(trends: Trends, out: Path, history: Report | None = None, compare: bool = False) -> None:
    """Write it.

    Parameters
    ----------
    out : Path
        Replaced when the new file is whole.
    history : Report, optional
        What all of the history says; shown first.
    compare : bool
        Show the figures of Pinterest's paper beside its own.

    Raises
    ------
    InputError
        `out` can't be written.
    StorageFullError
        The disk is full.
    """
    parts = sections.of_trends(trends)
    if history is None:
        tiles = [*sections.volume_tiles(trends), *sections.drift_tiles(trends)]
        content = document("Tidemark report", sections.about(trends), tiles, [*parts, of_history.terms_part(sections.MEANINGS)], _FOOTER)
    else:
        meant = [*of_history.meanings(history, compare), *sections.MEANINGS]
        content = document(
            "Tidemark report",
            f"{of_history.about(history)} {sections.about(trends)}",
            [*of_history.tiles(history), *sections.drift_tiles(trends)[:2]],
            [*of_history.parts(history, compare), *parts, of_history.terms_part(meant)],
            of_history.FOOTER,
        )
    write_document(content, out)
