"""`tidemark learn`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from flows import stopping
from flows.duration_option import Duration
from flows.freed_memory import return_freed_memory
from flows.metrics_option import metrics_options, serve_if_asked
from flows.run.display import LiveDisplay
from flows.settings import Settings
from flows.time_option import Time

if TYPE_CHECKING:
    from online_model.learner.run import Done

_DAY_MS = 86_400_000
_MANY = 1_000


class _Begin(Time):
    """A time, or one end of the log."""

    name = "start|end|T"

    def convert(  # type: ignore[override]
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        end = str(value).lower()
        if end in ("start", "end"):
            return end
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            self.fail(f"{error.message}, or start or end of the log", param, ctx)


@click.command(epilog="Example: tidemark learn --follow --publish-every 20s --metrics-port 9466")
@click.option("--once/--follow", default=True, show_default=True, help="What the log has now, or on and on until stopped.")
@click.option(
    "--ended",
    is_flag=True,
    help="With --once: of a history that has ended. Records are learned too before which an earlier one could still come.",
)
@click.option("--base", type=click.IntRange(1), help="This base, instead of the one that is served; nobody is served it by that.")
@click.option(
    "--from", "begin", type=_Begin(), help="Where a base that was never learned on begins; by default behind what it was trained on."
)
@click.option(
    "--delayed-labels",
    type=click.Choice(["fake-negative", "wait", "positives-first"]),
    help="What to make of labels that come late. Default fake-negative; of a base that was learned on before, as it was.",
)
@click.option("--learning-rate", type=click.FloatRange(0, 1000, min_open=True), help="Of row-wise Adagrad. Default 0.05, or as it was.")
@click.option("--batch", "batch_rows", type=click.IntRange(1, 65_536), help="Records that are learned at once. Default 1024, or as it was.")
@click.option("--fingerprint", metavar="HEX", help="Learn from examples of these definitions, though the base was trained under others.")
@click.option("--publish-every", type=Duration(_DAY_MS), default="20s", show_default=True, help="How often a delta is put out.")
@click.option("--snapshot-every", type=Duration(_DAY_MS), default="5m", show_default=True, help="How often all rows are kept.")
@click.option("--keep-snapshots", type=click.IntRange(1), default=3, show_default=True, metavar="N", help="Of each base.")
@click.option(
    "--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Of torch. Rows learned with others differ in last bits."
)
@metrics_options()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
@click.pass_obj
def learn(
    settings: Settings,
    once: bool,
    ended: bool,
    base: int | None,
    begin: int | str | None,
    delayed_labels: str | None,
    learning_rate: float | None,
    batch_rows: int | None,
    fingerprint: str | None,
    publish_every: int,
    snapshot_every: int,
    keep_snapshots: int,
    threads: int,
    metrics_port: int | None,
    metrics_address: str,
    as_json: bool,
) -> None:
    """Learn online: rows of users and pins follow what is seen and done, on the base that is served.

    Reads the log 'examples' in one order, whatever its partitions, and puts out what has changed as numbered deltas. Nothing else of the base
    changes. Stop it anywhere, by Ctrl-C, SIGTERM or SIGKILL, and run it again: it goes on at its last snapshot, and rows at a position are the
    same to the byte. Following, it goes over to another base once that is served.
    """
    if ended and not once:
        raise click.UsageError("--ended is of use with --once alone: a log that is followed has not ended")
    # Not before it is needed: torch takes a second to load.
    from online_model.learner.delayed import DelayedLabels
    from online_model.learner.metrics import Metrics
    from online_model.learner.run import Options
    from online_model.learner.run import learn as learn_until_done

    stopping.listen()
    return_freed_memory()
    metrics = Metrics()
    changes = {
        "delayed_labels": None if delayed_labels is None else DelayedLabels(delayed_labels),
        "learning_rate": learning_rate,
        "batch_rows": batch_rows,
    }
    options = Options(
        follow=not once,
        ended=ended,
        base=base,
        asked={name: value for name, value in changes.items() if value is not None},
        begin=begin,
        fingerprint=fingerprint,
        publish_every_s=publish_every / 1000,
        snapshot_every_s=snapshot_every / 1000,
        keep_snapshots=keep_snapshots,
        threads=threads,
    )
    with LiveDisplay(quiet=as_json) as display:
        serve_if_asked(metrics.registry, metrics_address, metrics_port, display.warn)
        done = learn_until_done(settings, options, display, metrics)
    click.echo(json.dumps(asdict(done)) if as_json else summary(done, follow=not once))


def summary(done: Done, follow: bool = False) -> str:
    """For people."""
    waits = (
        f"; {done.waiting:,} records wait, for an earlier one could still come or they make no whole micro-batch" if done.waiting else ""
    )
    at = f"base {done.base}, delta {done.delta}"
    if not done.records:
        return ("stopped before anything was learned" if done.stopped else "nothing new to learn") + f" ({at})" + waits
    rate = f" ({done.records / done.busy_s:,.0f}/s)" if done.busy_s > 0 else ""
    keep_up = f"; keeps up with {_times(done.keep_up)} times what arrives" if done.keep_up is not None else ""
    stopped = "; stopped before the end, run again to continue" if done.stopped and not follow else ""
    return (
        f"{done.examples:,} examples learned from {done.records:,} records in {done.busy_s:.1f} s{rate}, {done.deltas} deltas put out ({at}); "
        f"{done.users:,} users and {done.pins:,} pins have rows ({done.admitted:,} new, {done.expired:,} expired){keep_up}{waits}{stopped}"
    )


def _times(keep_up: float) -> str:
    # Of a log with long pauses, or one that is read at once, it is millions, and says nothing more.
    return f"{keep_up:,.1f}" if keep_up < _MANY else f"more than {_MANY:,}"
