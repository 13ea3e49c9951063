"""`tidemark examples run|status`: the join, and where it stands."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
from rich.table import Table

from flows.errors import StateError
from flows.examples.record import EXAMPLES
from flows.examples.run import Made, Stands, put_away, run_examples, stands
from flows.freed_memory import return_freed_memory
from flows.metrics_option import metrics_options, serve_if_asked
from flows.outputs import ACTIONS, SERVED
from flows.run.display import LiveDisplay, console_for_tables, moment
from flows.run.metrics import Metrics
from flows.settings import Settings


@click.command(epilog="Example: tidemark examples run --follow --workers 2")
@click.option("--until-end/--follow", default=True, show_default=True, help="What both logs have now, or on and on until stopped.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes; each owns a share of the partitions.")
@click.option(
    "--served-ended", is_flag=True, help="Nothing is being served: let all actions pass, and not only those before the last request."
)
@metrics_options()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
@click.pass_obj
def run(
    settings: Settings,
    until_end: bool,
    workers: int,
    served_ended: bool,
    metrics_port: int | None,
    metrics_address: str,
    as_json: bool,
) -> None:
    """Join the logs 'served' and 'actions' into 'examples'.

    The two are merged by arrival, each partition up to where both have come: `tidemark serve` keeps 'served' going where nobody is served. State is
    durable at every instant: stop it anywhere, run it again, with any number of workers; the examples are the same. It may run beside `tidemark run`.
    """
    if not until_end:
        # Here states are opened again and again, to say where they stand.
        return_freed_memory()
    metrics = Metrics(settings, (EXAMPLES,))
    with LiveDisplay(quiet=as_json) as display:
        serve_if_asked(metrics.registry, metrics_address, metrics_port, display.warn)
        made = run_examples(settings, not until_end, workers, display, served_ended, metrics)
    click.echo(json.dumps(asdict(made)) if as_json else _summary(made, follow=not until_end))


@click.command(epilog="Example: tidemark examples status --json")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def status(settings: Settings, as_json: bool) -> None:
    """Where every task of the examples stands in both logs, and what became of the records."""
    tasks = stands(settings)
    counts: dict[str, int] = {}
    for one in tasks:
        for name, n in one.counts.items():
            counts[name] = counts.get(name, 0) + n
    if as_json:
        rows = [{name: value for name, value in asdict(one).items() if name != "counts"} | {"waits_for": one.waits_for} for one in tasks]
        click.echo(json.dumps({"tasks": rows, "counts": dict(sorted(counts.items()))}))
        _raise_damage(tasks)
        return
    console = console_for_tables()
    table = Table("partition", "actions", "of", "served", "of", "watermark", title="Tasks", title_justify="left")
    for one in tasks:
        known = one.problem is None
        numbers = (one.position if known else "", one.end, one.served_position if known else "", one.served_end)
        table.add_row(str(one.partition), *(f"{n:,}" if n != "" else "" for n in numbers), moment(one.watermark) if known else "damaged")
    console.print(table)
    if waiting := sum(one.waits_for == SERVED for one in tasks):
        click.echo(
            f"{waiting} partitions have actions that wait until log 'served' has come as far: `tidemark serve` keeps it going; where nobody is "
            "served, `tidemark examples run --served-ended` lets them pass"
        )
    if waiting := sum(one.waits_for == ACTIONS for one in tasks):
        click.echo(f"{waiting} partitions have served rows that wait for actions that arrived after them")
    _raise_damage(tasks)
    if not counts:
        click.echo("nothing has been joined yet: `tidemark examples run` joins what is in the logs")
        return
    counted = Table("what", "number", title="Examples, and what made none", title_justify="left")
    for name, n in sorted(counts.items()):
        counted.add_row(name, f"{n:,}")
    console.print(counted)


@click.command(epilog="Example: tidemark examples restore --partition 3")
@click.option(
    "--partition", "partitions", type=click.IntRange(0), multiple=True, help="This task (may be given several times); all, without it."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def restore(settings: Settings, partitions: tuple[int, ...], as_json: bool) -> None:
    """Put tasks back whose state is damaged: the next run makes them anew from the logs.

    What a task puts out once more, readers leave out. The old state stays beside (state/examples/<partition>.replaced) until the next time.
    A run that is on lets go of one task at a time, and goes on with all others.
    """
    done = put_away(settings, partitions or tuple(range(settings.partitions)))
    if as_json:
        click.echo(json.dumps({"restored": done}))
    elif done:
        click.echo(f"{', '.join(done)} begin anew with the next `tidemark examples run`, or at once where one is on")
    else:
        click.echo("there is no state of these tasks: nothing to put back")


def _raise_damage(tasks: list[Stands]) -> None:
    if damaged := [one.problem for one in tasks if one.problem is not None]:
        raise StateError("; ".join(damaged))


def _summary(made: Made, follow: bool) -> str:
    waits = f"; {made.waiting:,} records wait for the other log (`tidemark examples status`)" if made.waiting and not made.stopped else ""
    if not made.records:
        if follow:
            return "nothing was joined meanwhile"
        if made.stopped:
            return "stopped before anything was joined; run again to continue"
        return "nothing new to join" + (waits or "; examples are up to date")
    timed = made.seconds > 0 and not follow
    rate = f" ({made.records / made.seconds:,.0f}/s on {made.workers} worker{'s' * (made.workers > 1)})" if timed else ""
    stopped = "; stopped before the end, run again to continue" if made.stopped and not follow else ""
    return (
        f"{made.examples:,} examples, {made.positives:,} positives and {made.finals:,} final labels from {made.records:,} records in "
        f"{made.seconds:.1f} s{rate}{waits}{stopped}"
    )
