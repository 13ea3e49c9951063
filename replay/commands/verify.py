"""`tidemark replay verify`: everything that is stored, read and checked."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict

import click

from flows.errors import TidemarkError
from flows.log import Log
from flows.open_log import log_exists, open_live_log
from flows.outputs import EMBEDDINGS, LOGS
from flows.settings import Settings
from replay import extent as extents
from replay.arrived import Arrived
from replay.commands.options import JSON, TASK, bar, chosen
from replay.extent import Extent
from replay.place import Place
from replay.tasks import KEPT, TaskName
from replay.verify import Problem, open_sound, verify_checkpoints, verify_file, verify_log, verify_segments, verify_state
from replay.verify_models import models_size, verify_models


@click.command(epilog="Example: tidemark replay verify --json")
@TASK
@click.option("--dry-run", is_flag=True, help="Say what would be read, and how much it is.")
@JSON
@click.pass_context
def verify(ctx: click.Context, names: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Read everything that is stored, and check it: logs, archive, models, state, checkpoints, and how they fit each other.

    Changes nothing, and nobody has to stop. Exits with 1 if anything is wrong, and says what to do about it. With --task: the state and the
    checkpoints of that task alone.
    """
    settings: Settings = ctx.obj
    place, vocabulary = Place(settings.checkpoint_place), settings.load_vocabulary()
    wanted = chosen(settings, names, KEPT)
    problems: list[Problem] = []
    repeats: dict[str, list[int]] = defaultdict(list)
    with ExitStack() as stack:
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
        live = {} if names else {name: stack.enter_context(open_live_log(settings, name, read_only=True)) for name in logs}
        sizes = _sizes(settings, place, live, wanted)
        if not names and (size := models_size(settings)):
            sizes["models"] = size
        if dry_run:
            _print_plan(sizes, as_json)
            return
        extent = Extent(sizes, stack.enter_context(bar(as_json, "verify", sum(sizes.values()))))
        for name, log in live.items():
            problems += verify_file(log)
            for partition in range(log.partitions):
                with extent.part(f"log {name}/{partition}") as advance:
                    problems += verify_log(log, partition, advance, repeats[name].append)
                with extent.part(f"archive {name}/{partition}") as advance:
                    problems += verify_segments(settings, log, partition, advance)
        if not names:
            with extent.part("models") as advance:
                problems += verify_models(settings, logs.get(EMBEDDINGS), advance)
        # What is wrong with a log is told of the log, not of every task that writes to it.
        unreadable += [name for name in logs if any(problem.where.startswith(f"log {name}") for problem in problems)]
        arrived = Arrived(logs, unreadable)
        for task in wanted:
            if task.source in logs:
                with extent.part(f"state {task}") as advance:
                    problems += verify_state(settings, vocabulary, task, logs, arrived, advance)
            with extent.part(f"checkpoints {task}") as advance:
                problems += verify_checkpoints(place, task, logs, advance)
    repeated = {name: sum(numbers) for name, numbers in repeats.items() if sum(numbers)}
    if as_json:
        click.echo(json.dumps({"bytes": extent.read, "problems": [asdict(problem) for problem in problems], "repeats": repeated}))
    else:
        for problem in problems:
            click.echo(f"{problem.where}: {problem.what}\n  → {problem.remedy}")
        for name, number in repeated.items():
            click.echo(f"log {name}: {number:,} records were put out again by a task that was killed or put back; readers take each once")
        click.echo(f"{extent.read / 1e6:,.1f} MB read; {len(problems)} problem{'s' * (len(problems) != 1)}")
    if problems:
        ctx.exit(1)


def _sizes(settings: Settings, place: Place, logs: Mapping[str, Log], tasks: list[TaskName]) -> dict[str, int]:
    """Bytes, about, of each part of what will be read. A log that can't say how long it is counts for nothing: it will be found damaged."""
    sizes: dict[str, int] = {}
    for name, log in logs.items():
        for partition in range(log.partitions):
            with suppress(TidemarkError):
                sizes[f"log {name}/{partition}"] = extents.of_log(log, partition)
            sizes[f"archive {name}/{partition}"] = extents.of_segments(settings, name, partition)
    for task in tasks:
        sizes[f"state {task}"] = extents.of_state(settings, task)
        sizes[f"checkpoints {task}"] = extents.of_checkpoints(place, task)
    return sizes


def _print_plan(sizes: Mapping[str, int], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"dry_run": True, "bytes_to_read": sum(sizes.values()), "parts": sizes}))
        return
    together: Counter[str] = Counter()
    for name, size in sizes.items():
        together[name.rpartition("/")[0]] += size
    for name, size in (+together).items():
        click.echo(f"{name}: {size / 1e6:,.1f} MB")
    click.echo(f"would read and check about {sum(sizes.values()) / 1e6:,.1f} MB; nothing was read")
