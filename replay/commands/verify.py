"""`tidemark replay verify`: everything that is stored, read and checked."""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import asdict

import click

from flows.log import Log
from flows.open_log import log_exists, open_live_log
from flows.outputs import LOGS
from flows.settings import Settings
from replay.arrived import Arrived
from replay.commands.options import JSON, TASK, bar, chosen
from replay.place import Place
from replay.verify import Problem, open_sound, verify_checkpoints, verify_file, verify_log, verify_segments, verify_state


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
    repeats: dict[str, list[int]] = defaultdict(list)
    read = 0
    with ExitStack() as stack, bar(as_json, "verify") as show:

        def advance(size: int) -> None:
            nonlocal read
            read += size
            show(size)

        logs: dict[str, Log] = {}
        unreadable: list[str] = []
        for name in LOGS:
            if log_exists(settings, name) or (settings.archives / name).is_dir():
                log, found = open_sound(settings, name)
                problems += found
                if log is not None:
                    logs[name] = stack.enter_context(log)
                else:
                    unreadable.append(name)
        if not names:
            for name, log in logs.items():
                live = stack.enter_context(open_live_log(settings, name, read_only=True))
                problems += verify_file(live)
                for partition in range(log.partitions):
                    problems += verify_log(live, partition, advance, repeats[name].append)
                    problems += verify_segments(settings, live, partition, advance)
        # What is wrong with a log is told of the log, not of every task that writes to it.
        unreadable += [name for name in logs if any(problem.where.startswith(f"log {name}") for problem in problems)]
        arrived = Arrived(logs, unreadable)
        for task in wanted:
            if task.flow in logs:
                problems += verify_state(settings, vocabulary, task, logs, arrived, advance)
            problems += verify_checkpoints(place, task, logs, advance)
    repeated = {name: sum(numbers) for name, numbers in repeats.items() if sum(numbers)}
    if as_json:
        click.echo(json.dumps({"bytes": read, "problems": [asdict(problem) for problem in problems], "repeats": repeated}))
    else:
        for problem in problems:
            click.echo(f"{problem.where}: {problem.what}\n  → {problem.remedy}")
        for name, number in repeated.items():
            click.echo(f"log {name}: {number:,} records were put out again by a task that was killed or put back; readers take each once")
        click.echo(f"{read / 1e6:,.1f} MB read; {len(problems)} problem{'s' * (len(problems) != 1)}")
    if problems:
        ctx.exit(1)
