"""What an evaluation says in the terminal. Nothing that its JSON doesn't say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from flows.run.display import console_for_tables
from online_model.embedding.evaluation.tables import COVERAGE, LOSS, METRICS, RECALL
from online_model.evaluation.bootstrap import LEVEL, POWER
from online_model.evaluation.told import signed
from online_model.studies.told import interval, value

ROW_HEADINGS = ("row", *(name for metric in METRICS for name in (metric, "paper")))
ORDER_HEADINGS = ("the paper has", "of", "paper", "here", f"{LEVEL:.0%} interval", "detectable", "by seed", "shows")


def show(found: Mapping[str, Any]) -> None:
    """Table by table: rows beside the paper's, then whether its order shows; and pins by popularity beside them all."""
    console = console_for_tables()
    for table in found["tables"].values():
        shown = Table(title=f"{table['title']} ({found['plan']})", title_justify="left", box=box.SIMPLE)
        for i, heading in enumerate(ROW_HEADINGS):
            shown.add_column(heading, justify="right" if i else "left", no_wrap=True)
        for row in rows(found, table):
            shown.add_row(*row)
        console.print(shown)
        orders_shown = Table(box=box.SIMPLE)
        for i, heading in enumerate(ORDER_HEADINGS):
            # Beside what they are about, figures of single seeds are what may be broken into lines.
            orders_shown.add_column(heading, justify="right" if i in (2, 3, 5) else "left", no_wrap=heading != "by seed")
        for row in orders(table):
            orders_shown.add_row(*row)
        console.print(orders_shown)
    for line in notes(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def rows(found: Mapping[str, Any], table: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of a table: figures, each beside the paper's; what is lost; and pins by popularity."""
    out: list[tuple[str, ...]] = []
    kinds: dict[str, None] = {}
    for name, row in table["rows"].items():
        kinds[row["to_find"]] = None
        out.append((name, *(text for metric in METRICS for text in (value(row[metric]["value"]), _paper(row["published"].get(metric))))))
    for name, loss in table["losses"].items():
        lost = ("–" if loss["value"] is None else f"{loss['value']:.1%}", "–" if loss["published"] is None else f"{loss['published']:.1%}")
        out.append((f"{name}, lost from realtime to daily", *lost, *("",) * (2 * len(METRICS) - 2)))
    for kind in kinds:
        popular = found["popular"][kind]
        name = "pins by popularity" + ("" if len(kinds) == 1 else f" → {kind}")
        out.append((name, *(text for metric in METRICS for text in (value(popular[metric]["value"]), ""))))
    return out


def orders(table: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Whether each order of the paper shows here."""
    out: list[tuple[str, ...]] = []
    for one in table["orders"]:
        sides = "–" if None in one["published"] else signed(one["published"][0] - one["published"][1])
        detectable = "–" if one["minimum_detectable_effect"] is None else f"{one['minimum_detectable_effect']:.4f}"
        seeds = ", ".join(signed(each) for each in one["by_seed"])
        said = f"{one['this']} {'above' if one['up'] else 'below'} {one['against']}"
        out.append((said, one["metric"], sides, signed(one["value"]), interval(one), detectable, seeds, one["shows"]))
    return out


def notes(found: Mapping[str, Any]) -> list[str]:
    """What figures are of, where the order is the paper's and where not."""
    lines = []
    for seed, of in found["seeds"].items():
        lines.append(
            f"seed {seed}: learned from {of['users_trained']:,} users ({of['actions_trained']:,} actions); {of['pins_to_find']:,} pins to find of "
            f"{of['users_evaluated']:,} others, among {of['corpus']:,}; {of['pins_without_vector']:,} more have no vector and are left out"
        )
    every = [one for table in found["tables"].values() for one in table["orders"]]
    counts = {name: sum(one["shows"] == name for one in every) for name in ("yes", "opposite", "within chance", "unknown")}
    lines.append("of the paper's orders: " + ", ".join(f"{name} {count}" for name, count in counts.items() if count))
    for table in found["tables"].values():
        for one in table["orders"]:
            if one["shows"] == "opposite":
                lines.append(
                    f"opposite: {table['title']}: {one['this']} is not {'above' if one['up'] else 'below'} {one['against']} in {one['metric']}"
                )
    over = found["over_popular"]
    if over is not None and over["value"] is not None:
        lines.append(f"the plan's embedding over pins by popularity, {RECALL}: {signed(over['value'])} ({interval(over)})")
    resamples = found["configuration"]["resamples"]
    lines.append(
        f"means over seeds; {LEVEL:.0%} intervals of {resamples:,} resamples of users, of these splits; detectable: the least true difference found "
        f"with a chance of {POWER:.0%}. {RECALL}: mean over users; entropy in nats; {COVERAGE}: share of the corpus, without "
        f"intervals: an order shows if all seeds agree, two at least; {LOSS}: share of {RECALL}"
    )
    if found["quick"]:
        lines.append("this is the quick evaluation, too small for claims: run it without --quick")
    return lines


def _paper(figure: float | None) -> str:
    return "" if figure is None else f"{figure:g}"


def show_leave_one_out(found: Mapping[str, Any]) -> None:
    """HR@10 and NDCG@10, of the last items and the last but one."""
    console = console_for_tables()
    shown = Table(title=f"leave-one-out, full ranking: {found['users']:,} users, {found['items']:,} items, {found['actions']:,} actions")
    for i, heading in enumerate(("", "HR@10", "NDCG@10", "users")):
        shown.add_column(heading, justify="right" if i else "left")
    names: Sequence[tuple[str, str]] = (("test", "last items"), ("validation", "last but one"), ("popular", "last items, by popularity"))
    for key, name in names:
        shown.add_row(name, f"{found[key]['hr@10']:.4f}", f"{found[key]['ndcg@10']:.4f}", f"{found[key]['users']:,}")
    console.print(shown)
    left_out = "items that a user has had are left out" if found["configuration"]["known_left_out"] else "no item is left out"
    config, losses = found["configuration"]["embedding"], found["losses"]
    console.print(
        f"ranked among all items, {left_out}; seed {config['seed']}, {config['epochs']} epochs, "
        f"loss {losses[0]:.4f} in the first and {losses[-1]:.4f} in the last",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
