"""The page of a study: one file that needs nothing else. It says what the command says, and no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.report.document import document, write_document
from flows.report.drawing import FULL, NARROW
from flows.report.markup import Cell, figure, note, section, table
from flows.report.words import number, span
from online_model.evaluation import plots
from online_model.evaluation.told import signed
from online_model.studies.told import DIFFERENCE_HEADINGS, differences, interval, notes, value


def write_page(found: Mapping[str, Any], out: Path) -> None:
    """Write what a study has found.

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
    worlds, plan = found["worlds"], found["configuration"]
    parts = [_results(found), _arms(found)]
    if "by_time" in next(iter(worlds.values())):
        parts.append(_over_time(found))
    for name, world in worlds.items():
        rows: list[list[str | Cell]] = [[Cell(row[0], code=True), *row[1:]] for row in differences(found, world)]
        lead = f"World {name}: an arm less another."
        parts.append(section(f"differences-{name}", f"Differences, {name}", lead, table(name, DIFFERENCE_HEADINGS, rows), shape="full"))
    parts.append(section("notes", "Notes", "What figures are of.", *map(note, notes(found)), shape="full"))
    examples = sum(of["rows"] for world in worlds.values() for of in world["seeds"].values())
    tiles = [
        ("Worlds", number(len(worlds)), ", ".join(worlds)),
        ("Seeds", number(len(plan["seeds"])), ", ".join(map(str, plan["seeds"]))),
        ("Arms", number(len(plan["arms"])), ", ".join(list(plan["arms"])[:6])),
        (found["unit"].capitalize(), number(examples), "of every arm, the same for all"),
    ]
    footer = "Worlds, days, seeds and settings lie in the repository and were fixed before a result was looked at."
    write_document(document(f"Tidemark study: {found['study']}", found["question"], tiles, parts, footer), out)


def _results(found: Mapping[str, Any]) -> str:
    rows: list[list[str | Cell]] = [
        [Cell(key, code=True), one["world"], f"{one['head']} {one['metric']}", signed(one["value"]), interval(one), one["verdict"]]
        for key, one in found["results"].items()
    ]
    shown = [table("The main result, and its control", ["result", "world", "of", "value", "interval", "verdict"], rows)]
    if found["directions"]:
        directions: list[list[str | Cell]] = [
            [
                Cell(one["difference"], code=True),
                f"{one['head']} {one['metric']}",
                one["published"],
                one["shows"],
                one["source"],
                one.get("why", ""),
            ]
            for one in found["directions"]
        ]
        shown.append(table("What others have found", ["difference", "of", "published", "here", "source", "why"], directions))
    return section("results", "Results", found["question"], *shown, shape="full")


def _arms(found: Mapping[str, Any]) -> str:
    worlds = found["worlds"]
    drawn = []
    for metric in dict.fromkeys(metric for _, metric in found["shown"]):
        sides = [_sides(world["arms"], [head for head, of in found["shown"] if of == metric], metric) for world in worlds.values()]
        heads = [head for head in sides[0] if any(each is not None for each in sides[0][head])]
        if heads:
            names = list(found["configuration"]["arms"])
            wide, narrow = (plots.by_part(heads, names, sides, "arm", metric, width) for width in (FULL, NARROW))
            drawn.append(figure(wide, narrow, f"{metric}; each panel has its own scale.", _legend(list(worlds))))
    tables = []
    for name, world in worlds.items():
        rows: list[list[str | Cell]] = [
            [Cell(arm, code=True), *(value(heads[head][metric]["value"]) if head in heads else "–" for head, metric in found["shown"])]
            for arm, heads in [*world["arms"].items(), ("best", world["best"])]
        ]
        tables.append(table(f"World {name}", ["arm", *(f"{head} {metric}" for head, metric in found["shown"])], rows))
    return section("arms", "Arms", "Means over seeds; best is what the true chances would reach.", *drawn, *tables, shape="full")


def _over_time(found: Mapping[str, Any]) -> str:
    name, world = next(iter(found["worlds"].items()))
    main = next(iter(found["results"].values()))
    difference = world["differences"][main["difference"]]
    metric = main["metric"]
    heads = [head for head, of in found["shown"] if of == metric]
    arms = [difference["this"], difference["against"]]
    sides = [{head: [bucket[head][metric]["value"] for bucket in world["by_time"][arm]] for head in heads} for arm in arms]
    wide, narrow = (plots.over_time(heads, sides, ("first", "last"), metric, width) for width in (FULL, NARROW))
    lead = f"World {name}, by {span(world['bucket_ms'])} of the request, mean over seeds."
    return section("time", "Over time", lead, figure(wide, narrow, f"{metric}; each panel has its own scale.", _legend(arms)), shape="full")


def _sides(arms: Mapping[str, Any], heads: Sequence[str], metric: str) -> dict[str, list[float | None]]:
    return {head: [of[head][metric]["value"] if head in of else None for of in arms.values()] for head in heads}


def _legend(names: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(("bar", "tick"), names, strict=False))
