"""`tidemark status`: where every task stands."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import click
from rich.table import Table

from flows.errors import StateError, TidemarkError
from flows.examples.record import EXAMPLES
from flows.examples.task import ExamplesTask
from flows.open_log import open_log
from flows.outputs import ACTIONS, DEADLETTERS, LATE, REVISITS, SERVED
from flows.run.display import NOTHING_APPLIED, console_for_tables, moment
from flows.run.standing import Standing, inputs
from flows.settings import Settings
from flows.state.actions_task import ActionsTask, state_fingerprint
from flows.state.revisits_task import RevisitsTask
from flows.state.task import Task, task_path
from flows.told_positions import gone, told_positions


@click.command(epilog="Example: tidemark status --digest")
@click.option(
    "--digest", is_flag=True, help="Add a digest of each task's logical state: equal digests mean equal state. Nothing may be running."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def status(settings: Settings, digest: bool, as_json: bool) -> None:
    """Positions, lag and watermark of every task, and what became of the records."""
    problems: dict[str, str] = {}
    rows, counts = _look(settings, problems)
    if digest:
        for row in rows:
            try:
                row["digest"] = digest_of(settings, row["flow"], row["partition"])
            except StateError as error:
                row["digest"] = None
                problems.setdefault(f"{row['flow']}/{row['partition']}", str(error))
    for row in rows:
        row["problem"] = problems.pop(f"{row['flow']}/{row['partition']}", None)
    if as_json:
        click.echo(json.dumps({"tasks": rows, "counts": counts}))
    else:
        _print(rows, counts)
    # Of logs there is no row.
    damaged = [row["problem"] for row in rows if row["problem"] is not None]
    if damaged or problems:
        raise TidemarkError("; ".join(dict.fromkeys([*damaged, *problems.values()])))


def _look(settings: Settings, problems: dict[str, str]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """A row for each task, and what became of the records; what can't be read is told by the name of its task or log."""
    if not (settings.kafka and settings.state.is_dir()):
        # Says what is missing, or that it is of other settings. Brokers may be away: what state tells needs none.
        open_log(settings, ACTIONS, read_only=True).close()
    flows = (ACTIONS, REVISITS, *([EXAMPLES] if (settings.state / EXAMPLES).exists() else []))
    standing = Standing(settings, flows, lambda what, error: problems.update({what: str(error)}))
    try:
        metas = standing.look()
        for (flow, partition), why in standing.aside.items():
            problems.setdefault(f"{flow}/{partition}", why)
        for (flow, partition), reached in told_positions(settings, {flow: inputs(flow)[0] for flow in flows}).items():
            if reached and (flow, partition) not in metas:
                problems.setdefault(f"{flow}/{partition}", gone(settings, flow, partition, reached))
        fingerprint = state_fingerprint(settings, settings.load_vocabulary())
        for (flow, partition), one in metas.items():
            if flow != EXAMPLES:
                one.check_fingerprint(fingerprint, task_path(settings, flow, partition))
        rows, counts = [], Counter[str]()
        for flow in flows:
            # Of examples, in ACTIONS; `tidemark examples status` tells where they are in SERVED.
            ends = standing.ends.get(inputs(flow)[0])
            for partition in range(settings.partitions):
                meta = metas.get((flow, partition))
                known = meta is not None or f"{flow}/{partition}" not in problems
                position = (meta.position if meta is not None else 0) if known else None
                end = ends[partition] if ends is not None else None if inputs(flow)[0] in problems else 0
                rows.append(
                    {
                        "flow": flow,
                        "partition": partition,
                        "position": position,
                        "end": end,
                        "lag": end - position if end is not None and position is not None else None,
                        "watermark": meta.watermark if meta is not None else None,
                    }
                )
                if meta is not None and flow == ACTIONS:
                    counts.update(meta.counts)
    finally:
        standing.close()
    return rows, dict(sorted(counts.items()))


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
    columns = [name for name in rows[0] if name not in ("digest", "problem")]
    table = Table(*columns, title="Tasks", title_justify="left")
    for row in rows:
        shown = {**row, "watermark": moment(row["watermark"]) if row["position"] is not None else "damaged"}
        told = ("" if value is None else f"{value:,}" if isinstance(value, int) else str(value) for value in map(shown.get, columns))
        table.add_row(*told)
    console.print(table)
    if "digest" in rows[0]:
        # By themselves: a digest that is cut says nothing.
        for row in rows:
            click.echo(f"{row['flow']}/{row['partition']} {row['digest']}")
    if not counts:
        click.echo(NOTHING_APPLIED)
        return
    read = [row["position"] is not None for row in rows if row["flow"] == ACTIONS]
    of_some = "" if all(read) else f", of {sum(read)} of {len(read)} tasks"
    counted = Table("records", "number", title=f"Records of ACTIONS{of_some}", title_justify="left")
    for name, number in counts.items():
        counted.add_row(name, f"{number:,}")
    console.print(counted)
