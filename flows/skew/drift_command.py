"""`tidemark skew drift`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from flows.errors import InputError
from flows.number_option import Number
from flows.replaceable import refuse_unwritable
from flows.run.display import RateColumn, console_for_tables, moment
from flows.settings import Settings
from flows.skew import drift as drifts
from flows.skew.drift import MOVED, MOVING, Drift
from flows.skew.options import JSON, Period
from flows.skew.served import Question, open_served
from flows.skew.sides import Side, of_period
from flows.skew.training import of_training
from flows.state.actions_task import state_fingerprint

_SHOWN = 20


@click.command(
    epilog="Example: tidemark skew drift --reference 2026-11-01..2026-11-08 --current 2026-11-08..; "
    "in CI: tidemark skew drift --training train.parquet --fail-above 0.2"
)
@click.option("--reference", type=Period(), help="The period of served rows that all is held against, e.g. 2026-11-01..2026-11-08.")
@click.option(
    "--training",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A training set instead: Parquet of get_historical_features, best with full_feature_names=True.",
)
@click.option("--current", type=Period(), default="..", show_default="all", help="The period of served rows that may have moved.")
@click.option("--any-fingerprint", is_flag=True, help="Take rows too that were made under other features or settings.")
@click.option("--fail-above", type=Number(0), metavar="PSI", help=f"Exit with 1 if any feature has moved further; {MOVED} is a large move.")
@JSON
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write a page with plots, too.")
@click.pass_context
def drift(
    ctx: click.Context,
    reference: tuple[int | None, int | None] | None,
    training: Path | None,
    current: tuple[int | None, int | None],
    any_fingerprint: bool,
    fail_above: float | None,
    as_json: bool,
    html: Path | None,
) -> None:
    """How the distributions of features have moved: between two periods of what was served, or from a training set to what is served.

    Per feature the population stability index, the Kolmogorov-Smirnov distance, and coverage; and the share of each action over time. A PSI
    below 0.1 is taken for no move, above 0.2 for a large one. That something moves is no mistake: whether values are right is what
    `tidemark skew check` says.

    Rows that were made under other features or settings are refused, for their values mean something else, unless --any-fingerprint asks
    for them.
    """
    settings: Settings = ctx.obj
    if (reference is None) == (training is None):
        raise click.UsageError("give what to compare with: --reference FROM..TO, or --training FILE")
    refuse_unwritable(html)
    vocabulary = settings.load_vocabulary()
    fingerprint = None if any_fingerprint else state_fingerprint(settings, vocabulary)
    names = vocabulary.action_names(), vocabulary.surface_names()
    questions = [Question(*period) for period in (reference, current) if period is not None]
    with open_served(settings) as served, _bar(as_json) as told:

        def period(question: Question) -> Side:
            return of_period(served, question, _named(question), fingerprint, names, told)

        before = of_training(training, fingerprint, told) if training is not None else period(questions[0])
        after = period(questions[-1])
    for side in (before, after):
        if not side.records:
            raise InputError(
                f"{side.name} holds no rows, so there is nothing to compare; choose another period (`tidemark serve` logs what it serves)"
            )
    found = drifts.drift(before, after)
    if html is not None:
        # Matplotlib takes most of a second to import, and only pages need it.
        from flows.skew.page import write_drift

        write_drift(found, html)
    if as_json:
        click.echo(json.dumps(drifts.as_json(found)))
    else:
        _show(found)
        if html is not None:
            click.echo(f"{html}: open it in a browser")
    if fail_above is not None and (above := found.above(fail_above)):
        click.echo(
            f"{len(above)} features have moved by more than a PSI of {fail_above:g}: {', '.join(one.name for one in above[:5])}", err=True
        )
        ctx.exit(1)


def _named(question: Question) -> str:
    if question.first is None and question.until is None:
        return "all that was served"
    first = moment(question.first) if question.first is not None else "the beginning"
    return f"what was served from {first} to {moment(question.until) if question.until is not None else 'now'}"


@contextmanager
def _bar(quiet: bool) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as shown:
        bar = shown.add_task("rows", total=0)
        yield lambda n: shown.update(bar, total=(shown.tasks[0].total or 0) + n), lambda n: shown.advance(bar, n)


def _show(found: Drift) -> None:
    console = console_for_tables()
    table = Table(title=f"{found.current}, held against {found.reference}", title_justify="left", box=box.SIMPLE)
    table.add_column("feature", no_wrap=True)
    for heading in ("PSI", "KS", "found before", "now", "non-zero before", "now"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for one in found.features[:_SHOWN]:
        covered = ["", "", "", ""]
        if one.reference is not None and one.current is not None:
            sides = (one.reference, one.current)
            covered = [f"{100 * side.share(n):.1f} %" for name in ("found", "nonzero") for side in sides for n in (getattr(side, name),)]
        table.add_row(
            one.name, f"{one.psi:.3f}", f"{one.ks:.3f}" if one.ks is not None else "", *covered, one.verdict if not found.few else "too few"
        )
    console.print(table)
    if len(found.features) > _SHOWN:
        console.print(
            f"and {len(found.features) - _SHOWN} features that moved less, or that one side lacks (--json has all)", highlight=False
        )
    shares = found.over_time
    if len(shares.starts):
        table = Table(title="Share of actions in served sequences", title_justify="left", box=box.SIMPLE)
        table.add_column("from", no_wrap=True)
        for name in shares.actions[:6]:
            table.add_column(name, justify="right")
        table.add_column("PSI", justify="right")
        step = max(1, -(-len(shares.starts) // _SHOWN))
        for start, counts, value in list(zip(shares.starts.tolist(), shares.counts.tolist(), shares.psi.tolist(), strict=True))[::step]:
            total = max(1, sum(counts))
            table.add_row(moment(start), *(f"{100 * n / total:.1f} %" for n in counts[:6]), f"{value:.3f}" if math.isfinite(value) else "–")
        console.print(table)
    if found.few:
        console.print(found.few, highlight=False, soft_wrap=True)
        return
    verdicts = [one.verdict for one in found.features]
    console.print(
        f"{len(found.features)} features: {verdicts.count('moved')} moved (PSI ≥ {MOVED}), {verdicts.count('moving')} moving (≥ {MOVING}), "
        f"{verdicts.count('stable')} stable, {verdicts.count('unknown')} unknown; {found.records[0]:,} and {found.records[1]:,} records",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
