"""`tidemark evaluate scores`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flows.errors import InputError
from flows.replaceable import refuse_unwritable
from flows.run.display import RateColumn
from online_model.evaluation.bootstrap import RESAMPLES, compare, refuse_other_rows
from online_model.evaluation.metrics import HIGHER_IS_BETTER, METRICS, OF_ROWS
from online_model.evaluation.report import comparison_json, report, report_json, verdict
from online_model.evaluation.scored_file import read_scored
from online_model.evaluation.told import show_comparison, show_parts, show_report

_FILE = click.Path(path_type=Path, dir_okay=False)


class HeadMetric(click.ParamType):
    """`HEAD:METRIC`, of a metric that is better one way."""

    name = "HEAD:METRIC"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        head, _, metric = str(value).partition(":")
        known = [name for name in METRICS if HIGHER_IS_BETTER[name] is not None]
        if not head or metric not in known:
            self.fail(f"'{value}' is no HEAD:METRIC, as save:hit@3; metrics are {', '.join(known)}", param, ctx)
        return head, metric


@click.command(
    epilog="Example: tidemark evaluate scores scored.parquet --against before.parquet --html evaluation.html; "
    "in CI: --fail-if-worse save:hit@3"
)
@click.argument("file", type=_FILE)
@click.option("--against", type=_FILE, metavar="FILE2", help="Another scoring of the same rows, from which differences are taken.")
@click.option("--rank-by-head", is_flag=True, help="Rank requests by each head's own score, also where there is a column `score`.")
@click.option(
    "--by", type=click.Choice(["time", "topic", "age"]), help="Show a metric by time of the request, topic, or age of the user, too."
)
@click.option("--metric", type=click.Choice(METRICS), default="auc", show_default=True, help="The metric for --by.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="What fixes the resamples of users.")
@click.option("--resamples", type=click.IntRange(100, 100_000), default=RESAMPLES, show_default=True, help="How often users are drawn.")
@click.option(
    "--fail-if-worse",
    type=HeadMetric(),
    multiple=True,
    help="Exit with 1 if this is worse than FILE2 by more than chance (the interval is on the worse side of 0). May be given more than once.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--html", type=_FILE, metavar="FILE", help="Write a page with plots, too.")
@click.pass_context
def scores(
    ctx: click.Context,
    file: Path,
    against: Path | None,
    rank_by_head: bool,
    by: str | None,
    metric: str,
    seed: int,
    resamples: int,
    fail_if_worse: tuple[tuple[str, str], ...],
    as_json: bool,
    html: Path | None,
) -> None:
    """Metrics of the scored rows in FILE, and how they differ from those of another scoring.

    FILE is Parquet, a row for each pin that a request showed: user_id, request_id, pin_id, request_time (ms); of each head its label
    (label_HEAD: 0, 1, or -1 or null for not known) and its probability (score_HEAD); and where there are such, `score`, by which requests are
    ranked for all heads, topic, and first_action_time of the user.

    A difference is taken between two scorings of the same rows, in whatever order they lie.
    """
    if fail_if_worse and against is None:
        raise click.UsageError("--fail-if-worse asks for another scoring: give --against FILE2")
    if by == "topic" and metric not in OF_ROWS:
        raise click.UsageError(f"a request's pins are of several topics, so by topic there is no {metric}; choose {', '.join(OF_ROWS)}")
    refuse_unwritable(html)
    found = read_scored(file, rank_by_head)
    other = read_scored(against, rank_by_head) if against is not None else None
    comparison = None
    if other is not None:
        # Before anything that takes long.
        refuse_other_rows(found.rows, other.rows)
        for head, _ in fail_if_worse:
            if head not in found.rows.heads or head not in other.rows.heads:
                raise InputError(f"--fail-if-worse: there is no head '{head}' in both scorings; there are {', '.join(found.rows.heads)}")
        with _bar(as_json, resamples) as told:
            comparison = compare(found.rows, other.rows, seed, resamples, told)
    with Console(stderr=True).status("measuring"):
        reports = [report(one.rows, path.name) for one, path in ((found, file), (other, against)) if one is not None and path is not None]
    if html is not None:
        # Matplotlib takes most of a second to import, and only pages need it.
        from online_model.evaluation.page import write_page

        write_page(reports, comparison, html)
    age_since = "first_action_time" if found.first_action_time else "first request in the file"
    if as_json:
        out: dict[str, object] = {"age_since": age_since, "left_out": list(found.left_out), "scores": report_json(reports[0])}
        if comparison is not None:
            out |= {"against": report_json(reports[1]), "comparison": comparison_json(comparison)}
        click.echo(json.dumps(out, allow_nan=False))
    else:
        for one in reports:
            show_report(one)
        if found.left_out:
            click.echo(f"left out, for want of a label or a score: {', '.join(found.left_out)}")
        if by is not None:
            for one in reports:
                show_parts({"age": "age of the user"}.get(by, by), getattr(one.slices, by), metric)
            if by == "age":
                click.echo(f"age: whole days since {age_since}")
        if comparison is not None:
            show_comparison(comparison, (reports[0].name, reports[1].name))
        if html is not None:
            click.echo(f"{html}: open it in a browser")
    if comparison is not None:
        worse = [
            f"{one.head}:{one.metric}"
            for one in comparison.differences
            if (one.head, one.metric) in fail_if_worse and verdict(one) == "worse"
        ]
        if worse:
            click.echo(f"worse than {reports[1].name} by more than chance: {', '.join(worse)}", err=True)
            ctx.exit(1)


@contextmanager
def _bar(quiet: bool, total: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as shown:
        bar = shown.add_task("resamples", total=total)
        yield lambda n: shown.advance(bar, n)
