"""`tidemark replay verify`: everything that is stored, read and checked."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict

import click

from flows.log import Log
from flows.open_log import log_exists, open_live_log, open_log
from flows.outputs import LOGS
from flows.settings import Settings
from replay.commands.options import JSON, TASK, bar, chosen
from replay.place import Place
from replay.verify import Problem, verify_checkpoints, verify_log, verify_segments, verify_state


@click.command(epilog="Example: tidemark replay verify --json")
@TASK
@JSON
@click.pass_context
def verify(ctx: click.Context, names: tuple[str, ...], as_json: bool) -> None:
    """Read everything that is stored, and check it: logs, archive, state, checkpoints, and how they fit each other.

    Changes nothing, and nobody has to stop. Exits with 1 if anything is wrong, and says what to do about it. With --task: the state and the
    checkpoints of that task alone.
    """
    settings: Settings = ctx.obj
    place, vocabulary = Place(settings.checkpoint_place), settings.load_vocabulary()
    wanted = chosen(settings, names)
    problems: list[Problem] = []
    read = 0
    with ExitStack() as stack, bar(as_json, "verify") as show:

        def advance(size: int) -> None:
            nonlocal read
            read += size
            show(size)

        logs: dict[str, Log] = {}
        for name in LOGS:
            if log_exists(settings, name):
                logs[name] = stack.enter_context(open_log(settings, name, read_only=True))
        if not names:
            for name, log in logs.items():
                live = stack.enter_context(open_live_log(settings, name, read_only=True))
                for partition in range(log.partitions):
                    problems += verify_log(live, partition, advance)
                    problems += verify_segments(settings, live, partition, advance)
        for task in wanted:
            if task.flow in logs:
                problems += verify_state(settings, vocabulary, task, logs, advance)
            problems += verify_checkpoints(place, task, advance)
    if as_json:
        click.echo(json.dumps({"bytes": read, "problems": [asdict(problem) for problem in problems]}))
    else:
        for problem in problems:
            click.echo(f"{problem.where}: {problem.what}\n  → {problem.remedy}")
        click.echo(f"{read / 1e6:,.1f} MB read; {len(problems)} problem{'s' * (len(problems) != 1)}")
    if problems:
        ctx.exit(1)
