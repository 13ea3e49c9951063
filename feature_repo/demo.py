"""`tidemark demo`: the main job from nothing to features, on simulated users, with the real commands and nothing else."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import time
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from feature_repo.command import counter_table
from flows.errors import DataDirectoryError
from flows.ingest.options import IngestOptions
from flows.ingest.producer import check_file, ingest_file
from flows.open_log import open_log
from flows.outputs import ACTIONS
from flows.reading import FeatureReader
from flows.report import Throughput, console_label_table, gather, write_html
from flows.run.command import summary
from flows.run.display import LiveDisplay, moment
from flows.run.main_job import run_flows
from flows.settings import Settings
from flows.simulate import simulate

_MARK = ".tidemark-demo"


@click.command(epilog="Example: tidemark demo --events 200000")
@click.option("--events", type=click.IntRange(1000), default=1_000_000, show_default=True, help="Events to simulate, about.")
@click.option("--users", type=click.IntRange(10), default=20_000, show_default=True, help="Users to simulate.")
@click.option("--seed", default=7, show_default=True, help="Same seed, same demo.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Worker processes of the flows.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("demo"), show_default=True, help="Where all of it goes."
)
@click.pass_obj
def demo(settings: Settings, events: int, users: int, seed: int, workers: int, out: Path) -> None:
    """Simulate a population, ingest what it does, run the flows, and look at what comes out.

    It keeps to itself: the data directory is OUT/data, not yours, and a former demo in OUT is replaced.
    """
    console = Console()
    started = time.monotonic()
    _fresh(out)
    settings = dataclasses.replace(settings, data=out / "data")
    console.rule("1. Simulate")
    truth = simulate(
        out / "simulated",
        users=users,
        events=events,
        seed=seed,
        partitions=settings.partitions,
        allowed_lateness_ms=settings.allowed_lateness_ms,
        dedup_horizon_ms=settings.dedup_horizon_ms,
        clock_skew_ms=settings.clock_skew_ms,
    )
    records = truth["records"]
    console.print(
        f"{users:,} users, {records['total']:,} records of {truth['parameters']['days']} days, among them {records['late']:,} late, "
        f"{records['duplicates']:,} duplicates and {records['bad']:,} bad ones; the truth is in {out / 'simulated' / 'truth.json'}"
    )
    console.rule("2. Ingest")
    _ingest(settings, out / "simulated", console)
    console.rule("3. Run the flows")
    with LiveDisplay() as display:
        done = run_flows(settings, "all", False, workers, display)
    console.print(summary(done))
    if done.stopped:
        raise click.Abort
    throughput = Throughput(done.events, done.seconds, done.workers)
    with FeatureReader(settings) as reader:
        found = gather(reader, throughput=throughput)
        user, pin = _examples(reader)
        counts = reader.counts()
    console.rule("4. Look, through Feast")
    _show_features(settings, user, pin, console)
    console.rule("5. Labels, beside the paper's")
    console.print(console_label_table(found))
    _compare(truth, counts, console)
    report = out / "report.html"
    write_html(found, report)
    console.rule("Done")
    on = f"{done.workers} worker{'s' * (done.workers > 1)}"
    console.print(f"In {time.monotonic() - started:.0f} s: {done.events:,} events at {throughput.per_second:,.0f}/s on {on}.")
    console.print(f"The report with plots: [bold]{report}[/bold] (open it in a browser)")
    console.print("Try next:")
    # As it was called, where the environment isn't active.
    us = "tidemark" if shutil.which("tidemark") else os.path.relpath(sys.argv[0])
    for line in (
        f"{us} features user {user} --data {settings.data}",
        f"{us} features pin {pin} --data {settings.data} --json",
        f"{us} deadletters list --data {settings.data}",
        f"{us} run --workers 2 --data {settings.data}   (nothing new: it says so)",
        f"{us} ingest YOUR_EVENTS.parquet --help",
    ):
        # A command that is wrapped can't be copied.
        console.print(f"  {line}", highlight=False, soft_wrap=True)


def _fresh(out: Path) -> None:
    """An empty directory: a former demo is removed, anything else is left alone."""
    if out.exists() and any(out.iterdir()):
        if not (out / _MARK).exists():
            raise DataDirectoryError(f"{out} is not empty and not a former demo; give another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARK).touch()


def _ingest(settings: Settings, directory: Path, console: Console) -> None:
    options = IngestOptions.parse(settings.load_vocabulary())
    files = [*sorted(directory.glob("events-*.parquet")), directory / "events-bad.jsonl"]
    with open_log(settings, ACTIONS, create=True) as log:
        for path in files:
            added = ingest_file(log, check_file(path, options), options, lambda rows: None)
            console.print(f"{path.name}: {added.rows:,} rows added")


def _examples(reader: FeatureReader) -> tuple[int, int]:
    """A user and a pin worth a look: those with the most revisits."""
    as_of = reader.default_as_of() or 0
    pins = np.concatenate(list(reader.pin_rows(as_of)))
    users, user_counts = np.unique(pins[:, 1], return_counts=True)
    names, pin_counts = np.unique(pins[:, 0], return_counts=True)
    return int(users[user_counts.argmax()]), int(names[pin_counts.argmax()])


def _show_features(settings: Settings, user: int, pin: int, console: Console) -> None:
    from feature_repo.reading import open_store, pin_features, user_features

    store = open_store(settings)
    row = user_features(store, user)
    table = Table(
        "event time (UTC)",
        "action",
        "surface",
        "pin_id",
        title=f"User {user}: the newest 8 of {len(row['sequence'])} actions",
        title_justify="left",
    )
    for action in row["sequence"][:8]:
        table.add_row(moment(action["event_time"]), action["action"], action["surface"], str(action["pin_id"]))
    console.print(table)
    shown = counter_table(pin_features(store, pin)["counters"], "users")
    shown.title = f"Pin {pin}: revisit counters"
    console.print(shown)


def _compare(truth: dict[str, object], counts: dict[str, int], console: Console) -> None:
    """What the simulator knows against what the flows found: equal, or it says so."""
    records: dict[str, int] = truth["records"]  # type: ignore[assignment]
    found = {
        "accepted": counts.get("accepted", 0),
        "late": counts.get("late", 0),
        "duplicates": counts.get("duplicate", 0),
        "bad": sum(n for name, n in counts.items() if name.startswith("deadletter.")),
    }
    wrong = {name: (n, records[name]) for name, n in found.items() if n != records[name]}
    if wrong:
        raise DataDirectoryError(f"the flows disagree with the simulator's truth: {json.dumps(wrong)} (found, true)")
    console.print("Recovered from the log, equal to the simulator's truth: " + ", ".join(f"{n:,} {name}" for name, n in found.items()))
