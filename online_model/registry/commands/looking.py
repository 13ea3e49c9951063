"""`tidemark models list | show | diff`: look at bases, and change nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click
import orjson
from rich.markup import escape
from rich.table import Column, Table

from flows.errors import TidemarkError
from flows.run.display import console_for_tables, moment
from flows.settings import Settings
from online_model.registry import snapshots
from online_model.registry.commands.options import BASE, JSON, working
from online_model.registry.current import Current
from online_model.registry.difference import Difference, difference, flat
from online_model.registry.errors import NoModelError
from online_model.registry.registry import Registry, describe_roles

# Hundreds of figures, of all heads and metrics, among which nobody would find what a base is.
_HUNDREDS = ("metrics.gate.candidate.", "metrics.gate.incumbent.", "metrics.gate.comparison.")
_TIMES = ("about.made_as_of", "about.cut.as_of", "about.cut.learned_until")


@click.command("list", epilog="Example: tidemark models list --verify")
@click.option("--verify", is_flag=True, help="Read all files of all bases, not their manifests alone.")
@JSON
@click.pass_context
def list_(ctx: click.Context, verify: bool, as_json: bool) -> None:
    """All bases, and what each is at present: served, canary, holdout, candidate.

    Exits with 1 if one that somebody gets can't be served.
    """
    settings: Settings = ctx.obj
    registry = Registry.of(settings)
    current = _current(registry)
    with working(as_json, "reading models"):
        rows = [_row(registry, current, number, verify) for number in registry.bases.numbers()]
    if as_json:
        click.echo(json.dumps({"models": str(registry.directory), "served": current.base if current else None, "bases": rows}))
    elif not rows:
        click.echo(f"there are no models in {registry.directory} yet")
    else:
        _print_rows(rows)
    if any(row["problem"] and row["roles"] for row in rows):
        ctx.exit(1)


def _row(registry: Registry, current: Current | None, number: int, verify: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"base": number, "roles": describe_roles(current, number), "problem": None, "snapshots": []}
    try:
        base = registry.bases.opened(number)
        about = base.manifest.about
        row |= {
            "made_as_of": about.made_as_of,
            "parent": about.parent,
            "bytes": sum(entry.bytes for entry in base.manifest.files.values()),
            "snapshots": snapshots.numbers(base),
            "metrics": about.metrics,
        }
        registry.bases.expected.check(about, f"base {number}")
        if verify:
            base.verify()
    except TidemarkError as error:
        row["problem"] = str(error)
    return row


def _print_rows(rows: list[dict[str, Any]]) -> None:
    table = Table("base", "is", "made as of", "parent", "MB", "snapshots", "newest delta", "problem")
    for row in rows:
        taken = row["snapshots"]
        table.add_row(
            str(row["base"]),
            ", ".join(row["roles"]),
            moment(row["made_as_of"]) if "made_as_of" in row else "",
            str(row.get("parent") or ""),
            f"{row['bytes'] / 1e6:,.1f}" if "bytes" in row else "",
            str(len(taken) or ""),
            str(taken[0]) if taken else "",
            escape(row["problem"] or ""),
        )
    console_for_tables().print(table)


@click.command(epilog="Example: tidemark models show 12 --json")
@click.argument("base", type=BASE, required=False)
@JSON
@click.pass_context
def show(ctx: click.Context, base: int | None, as_json: bool) -> None:
    """A base, read and checked whole; without a number the one that is served, with who gets what.

    Exits with 1 if it is damaged, or was made under other features, another vocabulary or a later format.
    """
    settings: Settings = ctx.obj
    registry = Registry.of(settings)
    current = _current(registry) if base is not None else registry.current()
    number = base if base is not None else registry.current().base
    opened = registry.bases.opened(number)
    problem = None
    with working(as_json, f"reading base {number}"):
        try:
            registry.base(number)
            if current is not None and (start := current.start_of(number)) is not None:
                registry.load(start)
        except TidemarkError as error:
            problem = str(error)
    told = {"problem": problem, "roles": describe_roles(current, number), "snapshots": snapshots.numbers(opened)}
    if as_json:
        whole = {**asdict(opened.manifest), **told, "current": asdict(current) if current is not None else None}
        click.echo(json.dumps(whole))
    else:
        _print_base(flat({**asdict(opened.manifest), **told}))
        if current is not None and base is None:
            _print_current(current)
        click.echo(problem or "all files are what was written")
    if problem:
        ctx.exit(1)


def _print_base(values: dict[str, Any]) -> None:
    table = Table(Column(overflow="fold"), Column(overflow="fold"), show_header=False, box=None)
    shown = [name for name in values if not name.startswith(tuple(f"about.{part}" for part in _HUNDREDS))]
    for name in shown:
        value = values[name]
        table.add_row(escape(name), moment(value) if name in _TIMES and isinstance(value, int) else escape(str(value)))
    console_for_tables().print(table)
    _print_left_out(len(values) - len(shown))


def _print_left_out(figures: int) -> None:
    if figures:
        click.echo(f"{figures:,} figures by which the gate judged are left out here: --json has them")


def _print_current(current: Current) -> None:
    for role, start in current.starts().items():
        share = {"canary": current.canary, "holdout": current.holdout}.get(role)
        users = ("everybody" + " else" * (len(current.starts()) > 1)) if share is None else f"{share.buckets / 100:g} % of the users"
        click.echo(f"{role}: base {start.base}, from delta {start.delta} at offset {start.position} of embeddings on, to {users}")
    for past in reversed(current.history):
        click.echo(f"  {moment(past.as_of)}: base {past.start.base} at delta {past.start.delta}: {past.reason}")


@click.command(epilog="Example: tidemark models diff 11 12")
@click.argument("a", type=BASE)
@click.argument("b", type=BASE, required=False)
@JSON
@click.pass_context
def diff(ctx: click.Context, a: int, b: int | None, as_json: bool) -> None:
    """What base B, or the one that is served, says otherwise than base A.

    Configuration, metrics, fingerprints, examples; of each table the rows that have come, gone or changed, and the greatest change of a weight. Exits
    with 1 if anything differs.
    """
    settings: Settings = ctx.obj
    registry = Registry.of(settings)
    other = b if b is not None else registry.current().base
    with working(as_json, "comparing"):
        found = difference(registry.bases.opened(a), registry.bases.opened(other))
    if as_json:
        # What has no measure (other shapes) is null: JSON knows no infinity.
        click.echo(orjson.dumps({"a": a, "b": other, "differs": bool(found), **asdict(found)}).decode())
    else:
        _print_difference(a, other, found)
    if found:
        ctx.exit(1)


def _print_difference(a: int, b: int, found: Difference) -> None:
    if not found:
        click.echo(f"base {a} and base {b} say the same")
        return
    table = Table(Column("", overflow="fold"), f"base {a}", f"base {b}")
    left_out = 0
    for part in ("about", "config", "cut", "build", "metrics"):
        for name, (one, other) in getattr(found, part).items():
            if f"{part}.{name}".startswith(_HUNDREDS):
                left_out += 1
            else:
                table.add_row(escape(f"{part}.{name}"), escape(str(one)), escape(str(other)))
    if table.row_count:
        console_for_tables().print(table)
    _print_left_out(left_out)
    for name, rows in found.tables.items():
        click.echo(
            f"{name} table: {rows.rows[0]:,} rows and {rows.rows[1]:,}; {rows.added:,} have come, {rows.removed:,} have gone, {rows.changed:,} have "
            f"changed, by {rows.max_change:.3g} at most; the default row by {rows.default_change:.3g}"
        )
    for name, change in found.dense.items():
        click.echo(f"dense {name}: changed by {change:.3g} at most")
    if found.calibrators:
        click.echo("calibrators differ")


def _current(registry: Registry) -> Current | None:
    try:
        return registry.current()
    except NoModelError:
        return None
