"""What a study says in the terminal. Nothing that its JSON doesn't say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from flows.run.display import console_for_tables
from online_model.evaluation.bootstrap import LEVEL, POWER
from online_model.evaluation.told import signed


def show(found: Mapping[str, Any]) -> None:
    """Arms, differences and published directions, world by world."""
    console = console_for_tables()
    console.print(found["question"], markup=False, highlight=False, soft_wrap=True)
    for name, world in found["worlds"].items():
        console.print(_arms(found, name, world))
        console.print(_differences(found, name, world))
    if found["directions"]:
        console.print(_directions(found))
    for line in notes(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def notes(found: Mapping[str, Any]) -> list[str]:
    """What figures are of, and why a published direction doesn't show."""
    plan = found["configuration"]
    lines = []
    for name, world in found["worlds"].items():
        seeds = ", ".join(f"{seed} ({of['rows']:,} {found['unit']} of {of['users']:,} users)" for seed, of in world["seeds"].items())
        lines.append(f"{name}: means over seeds {seeds}")
    lines.append(
        f"differences: {LEVEL:.0%} intervals of {plan['resamples']:,} resamples of users, of these histories; detectable: the least true difference "
        f"found with a chance of {POWER:.0%}; best: what the true chances would reach"
    )
    for one in found["directions"]:
        if one["shows"] != "yes":
            lines.append(f"{one['difference']}, {one['head']} {one['metric']}: {one['shows']}; {one['why']}")
    if found["quick"]:
        lines.append("this is the quick study, too small for claims: run it without --quick")
    return lines


def value(found: float | None) -> str:
    """Four digits after the point, or a dash."""
    return "–" if found is None else f"{found:.4f}"


def interval(one: Mapping[str, Any]) -> str:
    """From the lower bound to the upper one, or a dash."""
    return "–" if one["low"] is None else f"{signed(one['low'])} to {signed(one['high'])}"


def differences(found: Mapping[str, Any], world: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of a table: the difference, head and metric, its value, interval, what could be detected, verdict and the seeds' own."""
    rows: list[tuple[str, ...]] = []
    for name, difference in world["differences"].items():
        for head, metric in found["shown"]:
            one = difference["heads"].get(head, {}).get(metric)
            if one is None:
                continue
            detectable = "–" if one["minimum_detectable_effect"] is None else f"{one['minimum_detectable_effect']:.4f}"
            seeds = ", ".join(signed(each) for each in one["by_seed"])
            rows.append((name, f"{head} {metric}", signed(one["value"]), interval(one), detectable, one["verdict"], seeds))
    return rows


DIFFERENCE_HEADINGS = ("difference", "of", "value", f"{LEVEL:.0%} interval", "detectable", "verdict", "by seed")


def _arms(found: Mapping[str, Any], name: str, world: Mapping[str, Any]) -> Table:
    table = Table(title=f"{found['study']}, world {name}", title_justify="left", box=box.SIMPLE)
    table.add_column("arm", no_wrap=True)
    for head, metric in found["shown"]:
        table.add_column(f"{head} {metric}", justify="right")
    for arm, heads in [*world["arms"].items(), ("best", world["best"])]:
        table.add_row(arm, *(value(heads[head][metric]["value"]) if head in heads else "–" for head, metric in found["shown"]))
    return table


def _differences(found: Mapping[str, Any], name: str, world: Mapping[str, Any]) -> Table:
    table = Table(title=f"differences, world {name}", title_justify="left", box=box.SIMPLE)
    for i, heading in enumerate(DIFFERENCE_HEADINGS):
        table.add_column(heading, justify="right" if i in (2, 3, 4) else "left", no_wrap=i < 5)
    for row in differences(found, world):
        table.add_row(*row)
    return table


def _directions(found: Mapping[str, Any]) -> Table:
    table = Table(title="what others have found", title_justify="left", box=box.SIMPLE)
    for heading in ("difference", "of", "published", "here", "value", "source"):
        table.add_column(heading)
    for one in found["directions"]:
        table.add_row(
            one["difference"], f"{one['head']} {one['metric']}", one["published"], one["shows"], signed(one["value"]), one["source"]
        )
    return table
