"""`tidemark backfill`: the options, the progress bar and the summary."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flows.corrections.history import History
from flows.duration_option import Duration
from flows.errors import InputError
from flows.examples.backfill.drafts import What
from flows.examples.backfill.ours import OurRequests
from flows.examples.backfill.run import Backfill, Found
from flows.examples.backfill.served import ServedFile
from flows.examples.backfill.target import ExampleFiles, ExamplesLog, whole_directory
from flows.examples.record import EXAMPLES
from flows.open_log import log_exists, open_log
from flows.outputs import ACTIONS, SERVED
from flows.settings import DAY_MS, Settings
from flows.state.actions_task import state_fingerprint
from flows.time_option import Time


@click.command(epilog="Example: tidemark backfill --from 2026-01-01 --feature-delay 1s --out examples")
@click.option(
    "--kinds",
    type=click.Choice(["final", "all"]),
    default="final",
    show_default=True,
    help="Labels that can't change any more, for a retrain; or also the negatives and positives of online learning.",
)
@click.option("--from", "first", type=Time(), help="First time of a request, ISO 8601 or ms.")
@click.option("--to", "until", type=Time(), help="Time of a request that is no longer wanted.")
@click.option(
    "--feature-delay",
    type=Duration(30 * DAY_MS),
    default="0ms",
    show_default=True,
    help="How old features were when they were used: 250ms, 1s, 5m.",
)
@click.option(
    "--served",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Parquet file of what was served: request_id, user_id, maybe request_time, lists candidates, slots, maybe propensities and explored.",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Write Parquet files into a new directory, instead of the log.")
@click.option("--dry-run", is_flag=True, help="Count examples and labels; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def backfill(
    settings: Settings,
    kinds: str,
    first: int | None,
    until: int | None,
    feature_delay: int,
    served: Path | None,
    out: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make training examples of a history that was not served by Tidemark: of impressions, and what followed them.

    Impressions of one request, or without request_id of one user and time, are what was served then. Features are those of that moment, from
    events that had happened and arrived; labels are those of `tidemark examples run`. Appended to the log 'examples', which must hold no others,
    without the requests that the log 'served' has: `tidemark examples run` makes those, from there on. Run again after a stop it continues, and once
    it is done it adds nothing.
    """
    if first is not None and until is not None and until <= first:
        raise click.UsageError("--to must be later than --from")
    started = time.monotonic()
    what = What(feature_delay, kinds == "all", first, until)
    file = ServedFile(served) if served is not None else None
    options = _options(settings, what, served)
    with _Bar(quiet=as_json) as bar, open_log(settings, ACTIONS, read_only=True) as log:
        if out is not None or dry_run:
            with Backfill(settings, log, log.end_positions(), what, file, progress=bar) as made:
                if out is None or dry_run:
                    found, added = made.prepare(), 0
                else:
                    found, added = _to_files(made, out, log.partitions, options)
        else:
            found, added = _to_log(settings, log, what, file, options, bar)
    _report(settings, found, added, out, dry_run, time.monotonic() - started, as_json)


def _to_files(made: Backfill, out: Path, partitions: int, options: dict[str, Any]) -> tuple[Found, int]:
    with whole_directory(out) as directory:
        found = made.prepare()
        files = ExampleFiles(directory, partitions, options)
        try:
            for span in made.spans():
                files.put(span)
        finally:
            files.close()
    return found, found.rows


def _to_log(settings: Settings, log: Any, what: What, file: ServedFile | None, options: dict[str, Any], bar: _Bar) -> tuple[Found, int]:
    target = ExamplesLog(settings, options)
    try:
        ends = {ACTIONS: target.ends(ACTIONS, log.end_positions()), SERVED: [0] * log.partitions}
        with ExitStack() as stack:
            ours = None
            if log_exists(settings, SERVED):
                served = stack.enter_context(open_log(settings, SERVED, read_only=True))
                ends[SERVED] = target.ends(SERVED, served.end_positions())
                ours = OurRequests(served, ends[SERVED])
            made = stack.enter_context(Backfill(settings, log, ends[ACTIONS], what, file, ours, bar))
            found = made.prepare()
            begin = target.begin(ends, made.counts(), made.until())
            for span in made.spans(begin):
                target.put(span)
        return found, found.rows - sum(begin)
    finally:
        target.close()


def _options(settings: Settings, what: What, served: Path | None) -> dict[str, Any]:
    """Whatever decides the result, besides the log."""
    digest = None
    if served is not None:
        try:
            with served.open("rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        except OSError as error:
            raise InputError(f"{served} can't be read ({error.strerror or error})") from error
    corrected = [history.generation for history in History.every(settings)]
    fingerprint = state_fingerprint(settings, settings.load_vocabulary())
    return {"fingerprint": fingerprint, "corrected_to": corrected, "served": digest, **asdict(what)}


def _report(settings: Settings, found: Found, added: int, out: Path | None, dry_run: bool, seconds: float, as_json: bool) -> None:
    where = str(out) if out is not None else f"log '{EXAMPLES}' of {settings.data}"
    if as_json:
        click.echo(
            json.dumps(
                {
                    **asdict(found),
                    "kinds": dict(found.kinds),
                    "added": added,
                    "out": None if dry_run else where,
                    "seconds": round(seconds, 3),
                }
            )
        )
        return
    kinds = ", ".join(f"{count:,} {name}" for name, count in found.kinds.items() if count)
    click.echo(f"{found.examples:,} pins seen, {found.rows:,} records" + (f": {kinds}" if kinds else ""))
    for head, (said, came) in found.labels.items():
        click.echo(f"  {head:<10} {came:>12,} of {said:,} known" + (f" ({came / said:.2%})" if said else ""))
    if found.served:
        click.echo(f"  slots of {found.served:,} pins from the file of what was served")
    if found.outlasted:
        click.echo(
            f"note: {found.outlasted:,} pins were seen more than a day after their request, and make none; is request_id the name of something "
            "longer, such as a session?"
        )
    if found.open:
        click.echo(
            f"note: of {found.open:,} pins a label is still to come (a save's takes a week): a backfill that begins later has it, nothing else"
        )
    if dry_run:
        click.echo("nothing was written (--dry-run)")
    elif not found.rows:
        click.echo(f"{where}: nothing to add; a label is known when the watermark has passed 30 minutes and the allowed lateness")
    elif not added:
        click.echo(f"{where}: all of them are there already, 0 added")
    else:
        rate = f", {added / seconds:,.0f}/s" if seconds > 0 else ""
        click.echo(f"{where}: {added:,} records added in {seconds:.1f} s{rate}")


class _Bar:
    """A bar for each stage, on a terminal's standard error."""

    def __init__(self, quiet: bool) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
            transient=True,
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task({"reading": "records", "making": "examples"}[stage], total=total, rate="")
        task = self._tasks[stage]
        speed = self._bar.tasks[task].speed
        self._bar.update(task, completed=done, total=total, rate=f"{speed:,.0f}/s" if speed else "")
