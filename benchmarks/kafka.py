"""JSON messages of Kafka → durable state, beside a bare confluent-kafka consumer that only decodes the same messages.

`python -m benchmarks.kafka [--json] [--quick] [--events N] [--repeats R] [--seed S]`. A real broker on loopback, whose own work is on the same
cores for both. Each run has topics of its own; state is compared with that of the embedded log before anything is timed.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from contextlib import ExitStack, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from confluent_kafka import Producer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import _measure, _outcome, _stream
from benchmarks._worker import Worker
from flows.decode_values import rows_as_json
from flows.log import LocalLog
from flows.outputs import ACTIONS
from flows.settings import Settings
from flows.topics_command import topics

NOTES = {
    "kafka_flow": "one Bytewax worker, both flows: topic of JSON to closed, synced state, REVISITS through the broker; start-up not counted",
    "kafka_consumer": "consume(10 000) over all partitions and orjson.loads of each value; keeps nothing",
}


def measure(events: int, users: int, repeats: int, seed: int, scratch: Path, servers: str, console: Console) -> dict[str, Any]:
    """Check, then time.

    Raises
    ------
    CheckFailedError
        State over Kafka differs from state over the embedded log.
    """
    local = _stream.make(scratch / "stream", events, users, seed)
    messages = _messages(local)
    settings = replace(local, data=scratch / "none", kafka=servers)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in NOTES}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(f"_{name}", settings, scratch)) for name in NOTES}
        embedded = stack.enter_context(Worker("_tidemark", local, scratch))
        for k in track(range(repeats + 1), "runs", console=console):
            prefix = f"bench{k}."
            _fill(replace(settings, kafka_prefix=prefix), messages)
            told = {name: worker.run(prefix=prefix) for name, worker in workers.items()}
            if k == 0:
                embedded.run()
                outcome = embedded.outcome()
                _outcome.check_equal(workers["kafka_flow"].outcome(), outcome, "over Kafka and over the embedded log")
                continue
            for name, run in told.items():
                runs[name].append(run)
    rates = {name: [run["events_per_s"] for run in ran] for name, ran in runs.items()}
    return {
        "benchmark": "kafka",
        "results": {
            "events": len(messages),
            "bytes_per_message": round(sum(len(value) for _, value, _ in messages) / len(messages)),
            "values_compared": _outcome.values(outcome),
            **{
                name: {
                    "note": NOTES[name],
                    "events_per_s": _measure.spread(rates[name], 0),
                    "events_per_cpu_s": _measure.spread([run["events_per_cpu_s"] for run in ran], 0),
                    "peak_rss_mb": round(max(run["peak_rss_mb"] for run in ran)),
                }
                for name, ran in runs.items()
            },
        },
        "ratios": {"vs_bare_consumer": _measure.ratio(rates["kafka_flow"], rates["kafka_consumer"])},
        "machine": _measure.machine(),
        "seed": seed,
    }


def _messages(settings: Settings) -> list[tuple[int, bytes, int]]:
    """(partition, value, timestamp) of every record of the embedded log, as a producer of JSON would send it."""
    out = []
    with LocalLog.open(settings.logs, ACTIONS, read_only=True) as log:
        for partition, end in enumerate(log.end_positions()):
            for batch in log.read(partition, 0, end):
                raw = batch.records.schema.names == ["value", "timestamp"]
                values = batch.records["value"].to_pylist() if raw else list(rows_as_json(batch.records))
                out += [(partition, value, stamp) for value, stamp in zip(values, batch.records["timestamp"].to_pylist(), strict=True)]
    return out


def _fill(settings: Settings, messages: list[tuple[int, bytes, int]]) -> None:
    with redirect_stdout(io.StringIO()):
        topics.main(["create"], obj=settings, standalone_mode=False)
    options = {"linger.ms": 50, "batch.size": 1 << 20, "compression.type": "lz4", "enable.idempotence": True}
    producer = Producer({"bootstrap.servers": settings.kafka, **options})
    for partition, value, stamp in messages:
        while True:
            try:
                producer.produce(settings.kafka_prefix + ACTIONS, value=value, partition=partition, timestamp=stamp)
                break
            except BufferError:
                producer.poll(0.1)
    if producer.flush(120):
        raise RuntimeError("the broker did not take the messages")


def show(result: dict[str, Any], console: Console) -> None:
    """The figures for a reader."""
    table = Table("", "events/s", "min", "max", "per CPU s", "peak MiB", title="kafka")
    for name in NOTES:
        of = result["results"][name]
        rate = of["events_per_s"]
        numbers = (rate["median"], rate["min"], rate["max"], of["events_per_cpu_s"]["median"], of["peak_rss_mb"])
        table.add_row(name, *(f"{number:,.0f}" for number in numbers))
    console.print(table)
    _measure.show_ratios(result, console)
    for name, note in NOTES.items():
        console.print(f"{name}: {note}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quick", is_flag=True, help="50 000 events; ends within a minute.")
@click.option("--events", type=click.IntRange(1_000), help="Default 1 000 000.")
@click.option("--users", type=click.IntRange(10), help="Default a tenth of the events.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True)
def main(as_json: bool, quick: bool, events: int | None, users: int | None, repeats: int, seed: int) -> None:
    """JSON messages of Kafka to durable state, beside a bare consumer that only decodes them. Starts a broker of its own (java, mvn)."""
    from tests.kafka.broker import Broker

    events = events or (50_000 if quick else 1_000_000)
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-") as scratch:
        try:
            broker = Broker(Path(scratch) / "kafka")
        except RuntimeError as error:
            print(f"benchmarks.kafka: {error}", file=sys.stderr)
            sys.exit(1)
        try:
            result = measure(events, users or events // 10, repeats, seed, Path(scratch), broker.servers, Console(stderr=True))
        except _measure.CheckFailedError as error:
            print(f"benchmarks.kafka: {error}", file=sys.stderr)
            sys.exit(1)
        finally:
            broker.stop()
    if as_json:
        print(json.dumps(result))
    else:
        show(result, _measure.console())


if __name__ == "__main__":
    main()
