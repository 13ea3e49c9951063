"""`tidemark online sync|status`."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict

import click
from rich.table import Table

from flows import stopping
from flows.errors import SettingsError, StateError, TidemarkError
from flows.freed_memory import return_freed_memory
from flows.metrics_option import metrics_options, serve_if_asked
from flows.online.follower import Follower, Outcome, Synced, standings
from flows.online.metrics import Metrics
from flows.run.display import console_for_tables
from flows.settings import Settings

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group(epilog="Example: tidemark online sync")
def online() -> None:
    """Redis beside task state, for who serves features without the data directory: fill it, and see where it stands.

    TIDEMARK_ONLINE=redis://host:port/database names it; `tidemark features` and Feast then read from there. Task state stays the truth: a Redis
    that is away holds up no flow, and one that was emptied is filled again.
    """


@online.command(epilog="Example: tidemark online sync --follow --metrics-port 9462")
@click.option("--once/--follow", default=True, show_default=True, help="Up to where state is now, or on and on until stopped.")
@click.option(
    "--every", type=click.FloatRange(0.01), default=1.0, show_default=True, metavar="SECONDS", help="With --follow: between two looks."
)
@click.option(
    "--anew", is_flag=True, help="With --once: follow this data directory even if Redis holds more of the same log, as of a newer copy."
)
@metrics_options("--follow")
@_json
@click.pass_obj
def sync(settings: Settings, once: bool, every: float, anew: bool, metrics_port: int | None, metrics_address: str, as_json: bool) -> None:
    """Bring Redis to where task state is, beside a run or without one.

    Each task's rows and the position that they reflect are written at once, and never over newer ones: stop this anywhere, by Ctrl-C, SIGTERM
    or SIGKILL, run it again, or run two. An older copy of the data directory is refused, unless --anew asks for it. What Redis lacks, or has of
    another history, is written anew and takes the old one's place in one step.
    """
    if anew and not once:
        raise click.UsageError("--anew is for one round: leave out --follow, and follow afterwards")
    if once and metrics_port is not None:
        raise click.UsageError("--metrics-port is of use with --follow alone")
    began = time.monotonic()
    done: list[Synced] = []
    if once:
        with Follower(settings, anew) as follower:
            done = list(follower.round())
    else:
        stopping.listen()
        return_freed_memory()
        metrics = Metrics()
        serve_if_asked(metrics.registry, metrics_address, metrics_port, lambda line: click.echo(line, err=True))
        done = _follow(settings, every, metrics)
    left = [one for one in done if one.outcome is Outcome.OVERTAKEN]
    if as_json:
        click.echo(json.dumps({"tasks": [asdict(one) for one in done], "seconds": round(time.monotonic() - began, 3)}))
    else:
        click.echo(_summary(done, time.monotonic() - began))
    if once and left:
        raise TidemarkError(
            f"Redis {settings.online}: another follower goes on writing {len(left)} tasks at the same time; if it is of another data directory, "
            "give one of the two another online_prefix"
        )


def _follow(settings: Settings, every: float, metrics: Metrics) -> list[Synced]:
    """Round after round until asked to stop; what goes wrong is said once, and tried again. Returns what was written of each task, summed up."""
    total: dict[tuple[str, int], Synced] = {}
    follower: Follower | None = None
    said = ""
    while not stopping.requested():
        try:
            follower = follower or Follower(settings)
            for one in follower.round():
                metrics.synced(one)
                before = total.get((one.flow, one.partition))
                fields = one.fields + (before.fields if before else 0)
                total[one.flow, one.partition] = Synced(one.flow, one.partition, one.outcome, one.position, fields)
                if stopping.requested():
                    break
            if said:
                click.echo("tidemark: going on", err=True)
            said = ""
            metrics.completed()
        except SettingsError:
            raise
        except TidemarkError as error:
            metrics.failed()
            # State is opened anew too: it may be another. Of a damaged task the reader sees by itself that it was put back.
            if follower is not None and not isinstance(error, StateError):
                follower.close()
                follower = None
            if str(error) != said:
                said = str(error)
                click.echo(f"tidemark: {said}; trying again", err=True)
        stopping.wait(every)
    if follower is not None:
        follower.close()
    return list(total.values())


def _summary(done: list[Synced], seconds: float) -> str:
    outcomes = Counter(one.outcome for one in done)
    words = {
        Outcome.KEPT: "stand where state does",
        Outcome.CHANGED: "were brought there",
        Outcome.ANEW: "were written anew",
        Outcome.AHEAD: "are ahead of a state that was put back, and stay so",
        Outcome.OVERTAKEN: "are being written by another follower",
    }
    told = ", ".join(f"{outcomes[outcome]} {text}" for outcome, text in words.items() if outcomes[outcome])
    return f"{sum(one.fields for one in done):,} values written in {seconds:.1f} s; of {len(done)} tasks {told or 'none was reached'}"


@online.command(epilog="Example: tidemark online status --json")
@_json
@click.pass_obj
def status(settings: Settings, as_json: bool) -> None:
    """Where each task stands in Redis, how far behind its state, and what it takes there."""
    rows = [
        asdict(one) | {"behind": None if one.online is None or one.position is None else one.position - one.online}
        for one in standings(settings)
    ]
    if as_json:
        click.echo(json.dumps({"online": settings.online, "tasks": rows}))
        return
    table = Table(
        "flow", "partition", "position", "in Redis", "behind", "values", "MB", title=f"Redis {settings.online}", title_justify="left"
    )
    for row in rows:
        here, behind = (
            ("damaged" if row["position"] is None else f"{row['position']:,}"),
            ("" if row["behind"] is None else f"{row['behind']:,}"),
        )
        told = ["nothing", ""] if row["online"] is None else [f"{row['online']:,}", behind]
        table.add_row(row["flow"], str(row["partition"]), here, *told, f"{row['fields']:,}", f"{row['bytes'] / 1e6:,.1f}")
    console_for_tables().print(table)
