"""The page of an evaluation: one file that needs nothing else. It says what the command says, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.report.document import document, write_document
from flows.report.drawing import FULL, NARROW
from flows.report.markup import Cell, figure, note, section, table
from flows.report.words import number
from online_model.embedding.evaluation.tables import RECALL
from online_model.embedding.evaluation.told import ORDER_HEADINGS, ROW_HEADINGS, notes, orders, rows
from online_model.evaluation import plots


def write_page(found: Mapping[str, Any], out: Path) -> None:
    """Write what an evaluation has found.

    Parameters
    ----------
    found : mapping
        Of `running.run`.
    out : Path
        Replaced when the new file is whole.

    Raises
    ------
    InputError
        `out` can't be written.
    StorageFullError
        The disk is full.
    """
    parts = [_section(found, key, of) for key, of in found["tables"].items()]
    parts.append(section("notes", "Notes", "What figures are of.", *map(note, notes(found)), shape="full"))
    seeds = found["seeds"]
    tiles = [
        ("Seeds", number(len(seeds)), ", ".join(seeds)),
        ("Users", number(sum(of["users_evaluated"] for of in seeds.values())), "evaluated; none was learned from"),
        ("Pins to find", number(sum(of["pins_to_find"] for of in seeds.values())), "in the window behind"),
        ("Corpus", number(max(of["corpus"] for of in seeds.values())), "pins that they are ranked among"),
    ]
    footer = "World, split, seeds and settings lie in a plan, which was fixed before a result was looked at."
    about = f"Plan {found['plan']}: the tables of PinnerFormer (arXiv 2205.04507) beside what they are here."
    write_document(document("Tidemark embedding evaluation", about, tiles, parts, footer), out)


def _section(found: Mapping[str, Any], key: str, of: Mapping[str, Any]) -> str:
    values = [row[RECALL]["value"] for row in of["rows"].values()]
    drawn = []
    if any(value is not None for value in values):
        wide, narrow = (plots.by_part([RECALL], list(of["rows"]), [{RECALL: values}], key, RECALL, width) for width in (FULL, NARROW))
        drawn.append(figure(wide, narrow, f"{RECALL}, mean over seeds.", []))
    shown = [[Cell(row[0], code=True), *row[1:]] for row in rows(found, of)]
    held = [[Cell(row[0], code=True), *row[1:]] for row in orders(of)]
    parts = [*drawn, table(of["title"], ROW_HEADINGS, shown), table("Whether the paper's order shows", ORDER_HEADINGS, held)]
    return section(key, of["title"], "Figures, the paper's beside them.", *parts, shape="full")
