"""`tidemark report`: what the history says and what moves over time, as a page, as JSON, or for ever as metrics."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from flows import stopping
from flows.errors import TidemarkError
from flows.freed_memory import return_freed_memory
from flows.metrics_http import write_metrics
from flows.metrics_option import metrics_options, serve_if_asked
from flows.number_option import Number
from flows.open_log import log_exists
from flows.outputs import ACTIONS
from flows.reading import FeatureReader
from flows.replaceable import refuse_unwritable
from flows.report import gather as gather_history
from flows.report import told as history_told
from flows.report.values import Report
from flows.run.display import RateColumn, console_for_tables, moment
from flows.settings import DAY_MS, HOUR_MS, Settings
from flows.skew.drift import ENOUGH, MOVED
from flows.skew.options import JSON
from flows.skew.options import Period as PeriodOption
from flows.time_option import Time
from flows.trends import told
from flows.trends.actions import CODES
from flows.trends.following import Following, Round
from flows.trends.gathering import Progress as Reading
from flows.trends.gathering import gather, nothing_there
from flows.trends.metrics import Metrics
from flows.trends.sums import MINUTE_MS, Counting, Period
from flows.trends.values import Trends

_BY = {"minute": MINUTE_MS, "hour": HOUR_MS, "day": DAY_MS, "week": 7 * DAY_MS}
PAGE = Path("report.html")


@click.command(
    epilog="Example: tidemark report --html report.html; of a week: tidemark report --from 2026-11-21 --to 2026-11-28 --json; "
    "for ever: tidemark report --every 300 --metrics-port 9469"
)
@click.option(
    "--html", "--out", "html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help=f"Page to write; without --json and --every {PAGE}.",
)  # fmt: skip
@JSON
@click.option(
    "--from", "first", type=Time(), help="Only what came, was served or became known from this time on: ISO 8601, or ms since 1970."
)
@click.option("--to", "until", type=Time(), help="Only before this time.")
@click.option(
    "--reference", type=PeriodOption(), help="The period that all is held against, e.g. 2026-11-01..2026-11-08; by default the first half."
)
@click.option("--by", type=click.Choice(list(_BY)), help="Width of a stretch of time; by default so that there are 400 at most.")
@click.option(
    "--as-of",
    type=int,
    metavar="MS",
    help="Labels and clicks of the history at this time, ms UTC; by default the greatest accepted event time.",
)
@click.option(
    "--compare/--no-compare", default=False, show_default=True, help="Set the figures beside the published ones of Pinterest's users."
)
@click.option("--fail-above", type=Number(0), metavar="PSI", help=f"Exit with 1 if actions have moved further; {MOVED} is a large move.")
@click.option("--every", type=Number(1), metavar="SECONDS", help="Round after round over what comes, the last day against the week before.")
@metrics_options("--every")
@click.option(
    "--metrics-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="With --every: write Prometheus metrics to a file, after each round.",
)
@click.pass_context
def report(
    ctx: click.Context,
    html: Path | None,
    as_json: bool,
    first: int | None,
    until: int | None,
    reference: tuple[int | None, int | None] | None,
    by: str | None,
    as_of: int | None,
    compare: bool,
    fail_above: float | None,
    every: float | None,
    metrics_port: int | None,
    metrics_address: str,
    metrics_file: Path | None,
) -> None:
    """Write a self-contained page: what the history says, and what moves over time.

    Of all the history, out of task state and the log: label rates, revisit decay, events by day, late and dead letters. Over time, out of the logs
    alone: shares of actions and how far they have drifted, coverage of features, rates of labels by head and topic, volume. With --from or --to
    only the second, of that period.

    Exits with 1 if --fail-above is given and actions have moved further, or too few to say; or if a round of --every could not be completed.
    """
    settings: Settings = ctx.obj
    _check(first, until, reference, by, as_of, compare, fail_above, html, every, metrics_port, metrics_file)
    page = html if html is not None or as_json or every is not None else PAGE
    refuse_unwritable(page, metrics_file)
    if every is not None:
        metrics = Metrics()
        stopping.listen()
        return_freed_memory()
        serve_if_asked(metrics.registry, metrics_address, metrics_port, lambda line: click.echo(line, err=True))
        if _for_ever(settings, metrics, every, as_json, metrics_file):
            ctx.exit(1)
        return
    counting = Counting(Period(first, until), Period(*reference) if reference is not None else None, _BY[by] if by is not None else None)
    if not log_exists(settings, ACTIONS):
        raise nothing_there(settings)
    history = None
    with _bars(as_json) as bars:
        trends = gather(settings, counting, Reading(bars.total, bars.read))
        if first is None and until is None:
            history = _history(settings, as_of, bars)
    _tell(trends, history, page, compare, as_json)
    if fail_above is not None and not trends.psi_now <= fail_above:
        click.echo(_failed(trends, fail_above), err=True)
        ctx.exit(1)


def _check(
    first: int | None, until: int | None, reference: tuple[int | None, int | None] | None, by: str | None, as_of: int | None, compare: bool,
    fail_above: float | None, html: Path | None, every: float | None, metrics_port: int | None, metrics_file: Path | None,
) -> None:  # fmt: skip
    """Refuse options that say nothing together."""
    if every is None and (metrics_port is not None or metrics_file is not None):
        raise click.UsageError("--metrics-port and --metrics-file are of use with --every alone")
    once = {
        "--from": first, "--to": until, "--reference": reference, "--by": by, "--as-of": as_of, "--compare": compare or None,
        "--fail-above": fail_above, "--html": html,
    }  # fmt: skip
    if every is not None and (given := [name for name, value in once.items() if value is not None]):
        raise click.UsageError(f"--every goes on with the last day and the week before it, and has no page: leave out {', '.join(given)}")
    if (first is not None or until is not None) and (as_of is not None or compare):
        raise click.UsageError("--as-of and --compare are of the whole history: leave out --from and --to")


def _failed(trends: Trends, fail_above: float) -> str:
    if not math.isnan(trends.psi_now):
        return f"actions have moved by a PSI of {trends.psi_now:.3f}, more than {fail_above:g}"
    before, now = (int(side[:CODES].sum()) for side in (trends.actions.reference, trends.actions.now))
    return (
        f"whether actions have moved is unknown: {now:,} records are held against {before:,} of the reference, and --fail-above needs {ENOUGH} "
        "of both; look at --from, --to and --reference, and whether anything came"
    )


class _Bars:
    """A bar for each log."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self._tasks: dict[str, TaskID] = {}

    def total(self, log: str, offsets: int) -> None:
        """There are so many."""
        self._tasks[log] = self._shown.add_task(log, total=offsets)

    def read(self, log: str, offsets: int) -> None:
        """So many more were read."""
        self._shown.advance(self._tasks[log], offsets)


@contextmanager
def _bars(quiet: bool) -> Iterator[_Bars]:
    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as shown:
        yield _Bars(shown)


def _history(settings: Settings, as_of: int | None, bars: _Bars) -> Report:
    with FeatureReader(settings) as reader:
        bars.total("history", sum(reader.positions()[ACTIONS]))
        return gather_history(reader, as_of, progress=lambda records: bars.read("history", records))


def _tell(trends: Trends, history: Report | None, html: Path | None, compare: bool, as_json: bool) -> None:
    if html is not None:
        # Matplotlib takes most of a second to import, and only pages need it.
        from flows.trends.page import write

        write(trends, html, history, compare)
    if as_json:
        click.echo(json.dumps(told.as_json(trends) | {"history": history_told.as_json(history) if history is not None else None}))
        return
    told.show(trends, console_for_tables())
    for log, lacking in (("served", trends.coverage is None), ("examples", trends.labels is None)):
        if lacking:
            click.echo(
                f"there is no log '{log}', so nothing is said of {'coverage' if log == 'served' else 'labels by head and topic'}", err=True
            )
    click.echo(told.summary(trends))
    if html is not None:
        click.echo(f"{html}: open it in a browser")


def _for_ever(settings: Settings, metrics: Metrics, every: float, as_json: bool, metrics_file: Path | None) -> bool:
    """Round after round until a stop is asked for; whether any could not be completed."""
    failed = False
    said: set[str] = set()
    with closing(Following(settings)) as following:
        while True:
            try:
                found = following.round(int(time.time() * 1000))
                metrics.observe(found)
                click.echo(_line(found, as_json))
            except TidemarkError as error:
                # A log that is being restored, brokers that are away: the next round may go well.
                metrics.failed()
                failed = True
                if str(error) not in said:
                    said.add(str(error))
                    click.echo(f"not reported: {error}", err=True)
            if metrics_file is not None:
                write_metrics(metrics.registry, metrics_file)
            if stopping.wait(every):
                return failed


def _line(found: Round, as_json: bool) -> str:
    if as_json:
        return json.dumps({"psi": told.finite(found.psi), "until": {log: window.until for log, window in found.windows.items()}})
    psi = "unknown" if math.isnan(found.psi) else f"{found.psi:.3f} ({told.verdict(found.psi)})"
    ends = ", ".join(f"{log} up to {moment(window.until)}" for log, window in found.windows.items())
    return f"PSI of actions {psi}; {ends or 'nothing has come yet'}"
