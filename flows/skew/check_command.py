"""`tidemark skew check`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from flows import last_told, stopping
from flows.errors import TidemarkError
from flows.freed_memory import return_freed_memory, return_now
from flows.log import Log
from flows.metrics_http import write_metrics
from flows.metrics_option import metrics_options, serve_if_asked
from flows.number_option import Number
from flows.replaceable import refuse_unwritable
from flows.settings import Settings
from flows.skew import told
from flows.skew.check import Checked
from flows.skew.check import check as check_served
from flows.skew.metrics import Metrics
from flows.skew.names import Feature, named
from flows.skew.options import JSON, Sample, bars
from flows.skew.served import Question, open_served
from flows.time_option import Time

EXPLAINED = 2_000
"""Users, pins and topics of each stretch of SERVED whose rows are looked into, unless all are asked for: a mistake leaves its mark on many rows."""


@click.command(
    "check",
    epilog="Example: tidemark skew check --from 2026-11-28 --sample 1% --html skew.html; "
    "for ever: tidemark skew check --every 300 --metrics-port 9465",
)
@click.option("--from", "first", type=Time(), help="Requests from this time on: ISO 8601, or ms since 1970.")
@click.option("--to", "until", type=Time(), help="Requests before this time.")
@click.option("--sample", type=Sample(), help="So many of the records, or this share of them (0.01, 1%); all without it.")
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of the sample: the same seed draws the same records."
)
@click.option(
    "--feature", "names", multiple=True, metavar="NAME", help="Only this feature (view:feature, or a view); may be given several times."
)
@click.option(
    "--explain-all",
    is_flag=True,
    help=f"Look into every row that differs, not {EXPLAINED:,} users, pins and topics at most of each stretch.",
)
@JSON
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write a page with plots, too.")
@click.option("--every", type=Number(1), metavar="SECONDS", help="Round after round, each over what was served since, until stopped.")
@metrics_options("--every")
@click.option(
    "--metrics-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write Prometheus metrics to a file, after each round.",
)
@click.pass_context
def check(
    ctx: click.Context,
    first: int | None,
    until: int | None,
    sample: int | float | None,
    seed: int,
    names: tuple[str, ...],
    explain_all: bool,
    as_json: bool,
    html: Path | None,
    every: float | None,
    metrics_port: int | None,
    metrics_address: str,
    metrics_file: Path | None,
) -> None:
    """Recompute served rows from the log, each at the positions and the time that it was logged with, and compare them bit by bit.

    What was served must be what the log says at the same prefix: a difference is told with its cause, found by trying known mistakes on the
    events that bear on the row. Reads SERVED and ACTIONS with their archives; neither state nor Redis, and changes nothing.

    Exits with 1 if anything was found: any difference whose cause is not that the row says itself that it holds defaults, or that it was
    served under another fingerprint. docs/skew.md says what each cause means.
    """
    settings: Settings = ctx.obj
    features = named(names)
    question = Question(first, until, sample, seed)
    if every is None and metrics_port is not None:
        raise click.UsageError("--metrics-port is of use with --every alone; --metrics-file writes them once")
    if every is not None and (until is not None or html is not None):
        raise click.UsageError("--every has no end and no page: leave out --to and --html")
    refuse_unwritable(html, metrics_file)
    metrics, explained = Metrics(), None if explain_all else EXPLAINED
    with open_served(settings) as served:
        if every is None:
            found = _once(settings, served, question, features, explained, as_json, html, metrics)
            if metrics_file is not None:
                write_metrics(metrics.registry, metrics_file)
        else:
            stopping.listen()
            return_freed_memory()
            serve_if_asked(metrics.registry, metrics_address, metrics_port, lambda line: click.echo(line, err=True))
            found = _for_ever(settings, served, question, features, explained, as_json, every, metrics, metrics_file)
    if found:
        ctx.exit(1)


def _once(
    settings: Settings,
    served: Log,
    question: Question,
    features: tuple[Feature, ...],
    explained: int | None,
    as_json: bool,
    html: Path | None,
    metrics: Metrics,
) -> bool:
    """Check once, tell it, and whether anything was found."""
    with bars(as_json) as progress:
        checked = check_served(settings, served, question, features, progress, explained)
    metrics.observe(checked)
    last_told.tell(settings, last_told.SKEW, told.in_short(checked))
    if html is not None:
        # Matplotlib takes most of a second to import, and only pages need it.
        from flows.skew.page import write_check

        write_check(settings, served, checked, html)
    _tell(checked, as_json, html)
    return checked.findings > 0


def _tell(checked: Checked, as_json: bool, html: Path | None = None) -> None:
    if as_json:
        click.echo(json.dumps(told.as_json(checked)))
        return
    told.show(checked)
    if checked.unproved:
        where = "the causes above say why" if checked.records else "see `tidemark serve`"
        click.echo(f"{checked.unproved}; {where}, or choose another --from and --to", err=True)
    if html is not None:
        click.echo(f"{html}: open it in a browser")


def _for_ever(
    settings: Settings,
    served: Log,
    question: Question,
    features: tuple[Feature, ...],
    explained: int | None,
    as_json: bool,
    every: float,
    metrics: Metrics,
    metrics_file: Path | None,
) -> bool:
    """Round after round until a stop is asked for; whether anything was ever found, or could not be checked."""
    found = False
    # By place in SERVED and not by time: a server may log a request long after it.
    since: tuple[int, ...] | None = None
    said: set[str] = set()
    while True:
        try:
            checked = check_served(settings, served, question, features, explained=explained, since=since)
            metrics.observe(checked)
            last_told.tell(settings, last_told.SKEW, told.in_short(checked))
            found |= checked.findings > 0
            click.echo(json.dumps(told.as_json(checked)) if as_json else told.summary(checked))
            since = checked.ends
        except TidemarkError as error:
            # A log that is being restored, an archive that is away: the next round may go well, and takes up this one's time too.
            metrics.failed()
            last_told.tell(settings, last_told.SKEW, {"problem": str(error)})
            found = True
            if str(error) not in said:
                said.add(str(error))
                click.echo(f"not checked: {error}", err=True)
        if metrics_file is not None:
            write_metrics(metrics.registry, metrics_file)
        return_now()
        if stopping.wait(every):
            return found
