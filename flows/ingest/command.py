"""`tidemark ingest FILE...`: the options, the progress bar and the summary."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click
from click.core import ParameterSource
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flows.errors import TidemarkError
from flows.ingest.options import ARRIVALS, FORMATS, TARGETS, TIME_UNITS, IngestOptions
from flows.ingest.producer import Added, CheckedFile, check_file, ingest_file
from flows.log import Log
from flows.open_log import open_log, retention_of
from flows.settings import Settings

# Seconds of this century that are taken for ms are days of January 1970.
_YEAR_1971 = 31_536_000_000


@click.command(epilog="Example: tidemark ingest shop.csv --columns user_id=user,pin_id=item,event_time=ts --actions purchase=save")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--columns", multiple=True, metavar="OURS=THEIRS,...", help=f"Columns under other names. OURS: {', '.join(TARGETS)}.")
@click.option("--actions", multiple=True, metavar="THEIRS=OURS,...", help="Actions under other names; all others pass by their own name.")
@click.option("--surfaces", multiple=True, metavar="THEIRS=OURS,...", help="Surfaces under other names; all others pass by their own name.")
@click.option(
    "--surface-of", multiple=True, metavar="ACTION=SURFACE,...", help="Surface of rows with this action (ours, or theirs) that name none."
)
@click.option("--surface", metavar="SURFACE", help="Surface of all other rows that name none.")
@click.option("--time-unit", default="ms", show_default=True, metavar="|".join(TIME_UNITS), help="Unit of times given as numbers.")
@click.option(
    "--arrival",
    default="event-time",
    show_default=True,
    metavar="|".join(ARRIVALS),
    help="When a record counts as arrived, if the file has no arrival_time: at its event time (history), or now.",
)
@click.option("--format", metavar="|".join(FORMATS), help="Instead of going by the file's name.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def ingest(
    ctx: click.Context,
    files: tuple[Path, ...],
    columns: tuple[str, ...],
    actions: tuple[str, ...],
    surfaces: tuple[str, ...],
    surface_of: tuple[str, ...],
    surface: str | None,
    time_unit: str,
    arrival: str,
    format: str | None,
    as_json: bool,
) -> None:
    """Append the actions in Parquet, CSV and JSON lines files to the log.

    Columns are found by the names of the contract (user_id, pin_id, action, event_time, ...) or with --columns. A row that is no action
    is kept as it is and becomes a dead letter when the flows run. The same file twice adds nothing, and an interrupted ingest continues
    where it stopped when it is run again. Without event_id, ids are derived from the file's content and the row's number.
    """
    settings: Settings = ctx.obj
    options = IngestOptions.parse(settings.load_vocabulary(), columns, actions, surfaces, surface_of, surface, time_unit, arrival, format)
    started = time.monotonic()
    # All files are read to their ends before the first record is appended: a bad one leaves nothing half done.
    checked = [check_file(path, options) for path in files]
    with open_log(settings, "actions", create=True) as log:
        results = _ingest_all(log, checked, options, as_json or not sys.stderr.isatty(), retention_of(settings, "actions"))
    _report(results, time.monotonic() - started, as_json)
    if ctx.get_parameter_source("time_unit") is ParameterSource.DEFAULT:
        _warn_of_seconds(results)


def _ingest_all(log: Log, checked: list[CheckedFile], options: IngestOptions, quiet: bool, retention_ms: int | None) -> list[Added]:
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet,
        transient=True,
    )
    results = []
    with bar:
        for file in checked:
            task = bar.add_task(file.path.name, total=file.total, rate="")

            def advance(rows: int, task: int = task) -> None:
                bar.advance(task, rows)  # type: ignore[arg-type]
                speed = bar.tasks[task].speed
                bar.update(task, rate=f"{speed:,.0f} rows/s" if speed else "")  # type: ignore[arg-type]

            try:
                results.append(ingest_file(log, file, options, advance, retention_ms))
            except TidemarkError as error:
                entry = log.ledger_entry(file.key)
                done = entry.done if entry else 0
                state = f"{file.path}: {done} of {file.total} rows are in; run the same command again to continue"
                raise type(error)(f"{error} ({state})") from error
    return results


def _report(results: list[Added], seconds: float, as_json: bool) -> None:
    rows, raw = sum(r.rows for r in results), sum(r.raw for r in results)
    if as_json:
        click.echo(json.dumps({"files": [vars(r) for r in results], "rows": rows, "raw": raw, "seconds": round(seconds, 3)}))
        return
    for result in results:
        if result.rows == 0 and result.already:
            click.echo(f"{result.path}: already ingested, 0 added")
        else:
            # What can be written as an event may still be none: an unknown action, a time to come.
            notes = [f"at least {result.raw:,} dead letter{'s' * (result.raw != 1)}, `tidemark run` judges the rest"] * bool(result.raw)
            notes += [f"continued after {result.already:,}"] * bool(result.already)
            click.echo(f"{result.path}: {result.rows:,} rows added" + (f" ({'; '.join(notes)})" if notes else ""))
    if len(results) > 1:
        click.echo(f"{rows:,} rows added from {len(results)} files in {seconds:.1f} s")


def _warn_of_seconds(results: list[Added]) -> None:
    """Say which files may tell their times in seconds: nothing else would, for a time in 1970 is a time."""
    early = [one.path for one in results if one.newest is not None and one.newest < _YEAR_1971]
    if early:
        files = early[0] + (f" and {len(early) - 1} more" if len(early) > 1 else "")
        click.echo(
            f"tidemark: {files}: every event time is before 1971, read as ms; if these are seconds, ingest them into a new data directory "
            "with --time-unit s",
            err=True,
        )
