"""`tidemark archive run|status|verify`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from flows.archive.checking import coverage, stored_bytes, verify
from flows.archive.metrics import archive_metrics
from flows.archive.run import Archived, run_archiver
from flows.errors import DataDirectoryError
from flows.freed_memory import return_freed_memory
from flows.log import Log
from flows.metrics_option import metrics_options, serve_if_asked
from flows.open_log import log_exists, open_live_log
from flows.outputs import ACTIONS, LOGS
from flows.run.display import LiveDisplay, console_for_tables
from flows.settings import Settings

_LOG = click.option("--log", "logs", type=click.Choice(LOGS), multiple=True, help="Only this log (may be given several times).")


@click.group(epilog="Example: tidemark archive run")
def archive() -> None:
    """Parquet segments of the logs, for what a broker's retention takes: make them, and check them.

    They lie in archive/ of the data directory, or where the setting archive says (TIDEMARK_ARCHIVE=DIR). Every command that reads a log's past
    reads it from there where the log no longer has it; a range that neither has is an error.
    """


@archive.command(epilog="Example: tidemark archive run --follow --max-delay 900")
@_LOG
@click.option("--until-end/--follow", default=True, show_default=True, help="Up to where the logs end now, or on and on until stopped.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes; each owns a share of the partitions.")
@click.option(
    "--max-delay",
    type=click.FloatRange(1),
    default=3600.0,
    show_default=True,
    metavar="SECONDS",
    help="With --follow: publish what has waited so long, though the segment is small.",
)
@click.option("--leave-gap", is_flag=True, help="Go on where a log begins that has lost records before they were archived.")
@metrics_options()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
@click.pass_obj
def run(
    settings: Settings,
    logs: tuple[str, ...],
    until_end: bool,
    workers: int,
    max_delay: float,
    leave_gap: bool,
    metrics_port: int | None,
    metrics_address: str,
    as_json: bool,
) -> None:
    """Archive what the logs have and the archive lacks.

    Each record lands in one segment, once: stop this anywhere, by Ctrl-C, SIGTERM or SIGKILL, and run it again. Segments that are there are
    never written again; one that was deleted is made anew if the log still has its records.
    """
    if not until_end:
        return_freed_memory()
    with LiveDisplay(quiet=as_json) as display:
        serve_if_asked(archive_metrics(settings, logs), metrics_address, metrics_port, display.warn)
        done = run_archiver(settings, logs, not until_end, workers, max_delay, leave_gap, display)
    click.echo(json.dumps(asdict(done) | {"total": sum(done.records.values())}) if as_json else _summary(done, follow=not until_end))


def _summary(done: Archived, follow: bool) -> str:
    total = sum(done.records.values())
    if not total:
        if follow:
            return "nothing was archived meanwhile"
        return (
            "stopped before anything was archived; run again to continue"
            if done.stopped
            else "nothing new to archive; the archive is up to date"
        )
    each = ", ".join(f"{name} {number:,}" for name, number in done.records.items() if number)
    rate = f" ({total / done.seconds:,.0f}/s)" if done.seconds > 0 and not follow else ""
    stopped = "; stopped before the end, run again to continue" if done.stopped and not follow else ""
    return f"{total:,} records archived in {done.seconds:.1f} s{rate}: {each}{stopped}"


@archive.command(epilog="Example: tidemark archive status --json")
@_LOG
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def status(settings: Settings, logs: tuple[str, ...], as_json: bool) -> None:
    """What the archive covers of each partition, what is still to be archived, and what is missing for good."""
    rows = []
    for log in _opened(settings, logs):
        with log:
            rows += [coverage(settings, log, partition) for partition in range(log.partitions)]
    if as_json:
        click.echo(json.dumps({"archive": str(settings.archives), "partitions": [asdict(row) for row in rows]}))
        return
    table = Table(title=f"Archive {settings.archives}", title_justify="left")
    for name in ("log", "part", "from", "to", "files", "MB", "waiting", "log from", "missing"):
        table.add_column(name, justify="left" if name in ("log", "missing") else "right", no_wrap=name == "log")
    for row in rows:
        numbers = (row.partition, row.start, row.end, row.segments, row.bytes / 1e6, row.lag, row.live_start)
        written = (f"{n:,.1f}" if isinstance(n, float) else f"{n:,}" for n in numbers)
        table.add_row(row.log, *written, _ranges(row.missing))
    console_for_tables().print(table)


def _ranges(ranges: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{low:,} to {high - 1:,}" for low, high in ranges)


@archive.command("verify", epilog="Example: tidemark archive verify --log actions --compare")
@_LOG
@click.option("--compare", is_flag=True, help="Also read what the logs still have, and compare it record by record.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def verify_(ctx: click.Context, logs: tuple[str, ...], compare: bool, as_json: bool) -> None:
    """Read the archive whole: checksums, names, contents, gaps. Exit code 1 if anything is wrong."""
    settings: Settings = ctx.obj
    counts = {"segments": 0, "records": 0, "bytes": 0, "compared": 0}
    problems: list[str] = []
    console = Console(stderr=True)
    with Progress(console=console, disable=as_json or not console.is_terminal, transient=True) as progress:
        for log in _opened(settings, logs):
            with log:
                bar = progress.add_task(log.name, total=stored_bytes(settings, log.name))
                for partition in range(log.partitions):
                    for found in verify(settings, log, partition, compare):
                        for name in counts:
                            counts[name] += getattr(found, name)
                        progress.advance(bar, found.bytes)
                        if found.problem is not None:
                            problems.append(found.problem)
    if as_json:
        click.echo(json.dumps({"archive": str(settings.archives), **counts, "problems": problems}))
    else:
        for problem in problems:
            click.echo(problem)
        compared = f"; {counts['compared']:,} compared with the logs" if compare else ""
        click.echo(
            f"{counts['segments']:,} segments are sound, with {counts['records']:,} records in {counts['bytes'] / 1e6:,.1f} MB{compared}; "
            f"{len(problems)} problem{'s' * (len(problems) != 1)}"
        )
    if problems:
        ctx.exit(1)


def _opened(settings: Settings, logs: Sequence[str]) -> Iterator[Log]:
    """The live logs that were named, or all that are there."""
    if not logs and not log_exists(settings, ACTIONS):
        raise DataDirectoryError(f"there is no log in {settings.logs}; `tidemark ingest` makes one")
    for name in logs or [name for name in LOGS if log_exists(settings, name)]:
        yield open_live_log(settings, name, read_only=True)
