"""`tidemark run`."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from flows.freed_memory import return_freed_memory
from flows.metrics_option import metrics_options, serve_if_asked
from flows.run.display import LiveDisplay, refusals
from flows.run.main_job import FLOWS, Done, run_flows, tasks_of
from flows.run.metrics import Metrics
from flows.settings import Settings


@click.command(epilog="Example: tidemark run --flow all --until-end --workers 2; in production: tidemark run --follow --metrics-port 9460")
@click.option("--flow", type=click.Choice(FLOWS), default="all", show_default=True, help="Which flow.")
@click.option("--until-end/--follow", default=True, show_default=True, help="Up to where the log ends now, or on and on until stopped.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes; each owns a share of the partitions.")
@metrics_options()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
@click.pass_obj
def run(
    settings: Settings, flow: str, until_end: bool, workers: int, metrics_port: int | None, metrics_address: str, as_json: bool
) -> None:
    """Run the flows: the ACTIONS log into sequences, labels and counters.

    State is durable at every instant: stop it anywhere, by Ctrl-C, SIGTERM or SIGKILL, and run it again, with any number of workers;
    the result is the same to the byte.
    """
    if not until_end:
        # Here states are opened again and again, to say where they stand.
        return_freed_memory()
    metrics = Metrics(settings, tasks_of(flow))
    with LiveDisplay(quiet=as_json) as display:
        serve_if_asked(metrics.registry, metrics_address, metrics_port, display.warn)
        done = run_flows(settings, flow, not until_end, workers, display, metrics)
    if as_json:
        click.echo(json.dumps(asdict(done)))
        return
    click.echo(summary(done, follow=not until_end))
    if done.refused:
        click.echo(refusals(done.refused, done.events))


def summary(done: Done, follow: bool = False) -> str:
    """One line for people."""
    if not done.events and not done.changes:
        if follow:
            return "nothing was applied meanwhile"
        return "stopped before anything was applied; run again to continue" if done.stopped else "nothing new to apply; state is up to date"
    # Whoever follows mostly waits: a rate would tell how much came.
    timed = done.seconds > 0 and not follow
    rate = f" ({done.events / done.seconds:,.0f}/s on {done.workers} worker{'s' * (done.workers > 1)})" if timed else ""
    stopped = "; stopped before the end, run again to continue" if done.stopped and not follow else ""
    return f"{done.events:,} events and {done.changes:,} revisit changes applied in {done.seconds:.1f} s{rate}{stopped}"
