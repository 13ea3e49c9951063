"""`tidemark status`: where every task stands."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.table import Table

from flows.examples.record import EXAMPLES
from flows.examples.run import stands
from flows.examples.task import ExamplesTask
from flows.open_log import log_exists, open_log
from flows.outputs import ACTIONS, DEADLETTERS, LATE, REVISITS, SERVED
from flows.reading import FeatureReader
from flows.run.display import NOTHING_APPLIED, console_for_tables, moment
from flows.settings import Settings
from flows.state.actions_task import ActionsTask
from flows.state.revisits_task import RevisitsTask
from flows.state.task import Task


@click.command(epilog="Example: tidemark status --digest")
@click.option(
    "--digest", is_flag=True, help="Add a digest of each task's logical state: equal digests mean equal state. Nothing may be running."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def status(settings: Settings, digest: bool, as_json: bool) -> None:
    """Positions, lag and watermark of every task, and what became of the records."""
    rows: list[dict[str, Any]] = []
    with FeatureReader(settings) as reader:
        counts = reader.counts()
        for flow in (ACTIONS, REVISITS):
            ends = _ends(settings, flow)
            for partition in range(settings.partitions):
                meta = reader.meta(flow, partition)
                position = meta.position if meta else 0
                rows.append(
                    {
                        "flow": flow,
                        "partition": partition,
                        "position": position,
                        "end": ends[partition],
                        "lag": ends[partition] - position,
                        "watermark": meta.watermark if meta else None,
                    }
                )
    rows += _examples(settings)
    if digest:
        for row in rows:
            row["digest"] = digest_of(settings, row["flow"], row["partition"])
    if as_json:
        click.echo(json.dumps({"tasks": rows, "counts": counts}))
        return
    _print(rows, counts)


def _examples(settings: Settings) -> list[dict[str, Any]]:
    """The tasks of examples, where there are any: their positions in ACTIONS. `tidemark examples status` tells those in SERVED."""
    if not (settings.state / EXAMPLES).exists():
        return []
    return [
        {
            "flow": EXAMPLES,
            "partition": one.partition,
            "position": one.position,
            "end": one.end,
            "lag": one.end - one.position,
            "watermark": one.watermark,
        }
        for one in stands(settings)
    ]


def _ends(settings: Settings, flow: str) -> list[int]:
    """Where a flow's input ends; asking makes no log where none is yet."""
    if not log_exists(settings, flow):
        return [0] * settings.partitions
    with open_log(settings, flow, read_only=True) as log:
        return log.end_positions()


def digest_of(settings: Settings, flow: str, partition: int) -> str:
    """Digest of one task's state, which must not be running."""
    vocabulary = settings.load_vocabulary()
    names = (ACTIONS, SERVED, EXAMPLES) if flow == EXAMPLES else (ACTIONS, REVISITS, LATE, DEADLETTERS)
    logs = {name: open_log(settings, name, create=True) for name in names}
    task: Task
    if flow == EXAMPLES:
        task = ExamplesTask(settings, partition, vocabulary, logs[ACTIONS], logs[SERVED], logs[EXAMPLES])
    elif flow == ACTIONS:
        task = ActionsTask(settings, partition, vocabulary, logs[ACTIONS], {name: logs[name] for name in (REVISITS, LATE, DEADLETTERS)})
    else:
        task = RevisitsTask(settings, partition, vocabulary, logs[REVISITS])
    try:
        return task.digest()
    finally:
        task.abandon()
        for log in logs.values():
            log.close()


def _print(rows: list[dict[str, Any]], counts: dict[str, int]) -> None:
    console = console_for_tables()
    columns = [name for name in rows[0] if name != "digest"]
    table = Table(*columns, title="Tasks", title_justify="left")
    for row in rows:
        shown = {**row, "watermark": moment(row["watermark"])}
        table.add_row(*(f"{shown[name]:,}" if isinstance(shown[name], int) else str(shown[name]) for name in columns))
    console.print(table)
    if "digest" in rows[0]:
        # By themselves: a digest that is cut says nothing.
        for row in rows:
            click.echo(f"{row['flow']}/{row['partition']} {row['digest']}")
    if not counts:
        click.echo(NOTHING_APPLIED)
        return
    counted = Table("records", "number", title="Records of ACTIONS", title_justify="left")
    for name, number in counts.items():
        counted.add_row(name, f"{number:,}")
    console.print(counted)
