"""`tidemark replay restore`: tasks put back, from checkpoint and log."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from tempfile import TemporaryDirectory
from typing import Any

import click
from rich.table import Table

from flows.directories import translated
from flows.examples.record import EXAMPLES
from flows.log import LocalLog, Log
from flows.open_log import log_exists, open_log
from flows.outputs import ACTIONS, LOGS, OUTPUTS, SERVED
from flows.run.display import LiveDisplay, console_for_tables, moment
from flows.run.main_job import LeftOutError, run_flows
from flows.settings import Settings
from flows.state.lock import lock_beside_run
from flows.vocabulary import Vocabulary
from replay import tasks as task_names
from replay.arrived import Arrived
from replay.catching_up import await_run
from replay.checkpoints.choose import Choice
from replay.commands.options import DRY, JSON, TASK, bar, chosen, refuse_gone
from replay.commands.restore_log import restore_logs
from replay.place import Place
from replay.realtime import covered, first_time, realtime
from replay.restore import Restorer
from replay.verify import Problem, verify_state

# Of tasks that were restored, at most; of more than that their number.
_NAMED = 4


@click.command(epilog="Example: tidemark replay restore --task actions/3 --dry-run")
@TASK
@click.option("--all", "everything", is_flag=True, help="Every task.")
@click.option("--log", "damaged_logs", type=click.Choice(LOGS), multiple=True, help="This log's file, from its sound part and the archive.")
@click.option("--then-run/--no-run", default=True, show_default=True, help="Then run the flows up to where the log ends now.")
@DRY
@JSON
@click.pass_obj
def restore(
    settings: Settings,
    names: tuple[str, ...],
    everything: bool,
    damaged_logs: tuple[str, ...],
    then_run: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Put tasks back: the newest checkpoint that is sound, then the log from its position.

    Without --task or --all: those whose state `tidemark replay verify` finds damaged. The old state stays beside the new one
    (state/<flow>/<partition>.replaced) until the next time.

    A run that is on need not be stopped: it lets go of one task at a time, goes on with all others, and then catches up by itself. Tasks of
    examples are brought up by `tidemark examples run`.
    """
    if damaged_logs:
        if names or everything:
            raise click.UsageError("--log restores logs, --task and --all tasks: give them one after the other, the logs first")
        restore_logs(settings, damaged_logs, dry_run, as_json)
        return
    place, vocabulary = Place(settings.checkpoint_place), settings.load_vocabulary()
    asked = chosen(settings, names, task_names.KEPT)
    inputs = (SERVED, EXAMPLES) if any(task.flow == EXAMPLES for task in asked) else ()
    with ExitStack() as stack:
        beside_run = not dry_run and not stack.enter_context(lock_beside_run(settings.state))
        logs = {name: _opened(settings, name, dry_run, stack) for name in (ACTIONS, *OUTPUTS, *inputs)}
        if names or everything:
            wanted = task_names.every(settings, task_names.KEPT) if everything else asked
        else:
            arrived = Arrived(logs)
            with bar(as_json, "verify state") as advance:
                wanted = [task for task in asked if _damaged(verify_state(settings, vocabulary, task, logs, arrived, advance))]
        looking = Restorer(settings, place, vocabulary, logs)
        intended = [looking.intended(task) for task in wanted]
        if not as_json and not dry_run:
            _print_choices("To be restored", intended)
        size = sum(one.manifest.bytes for one in intended if one.manifest is not None)
        with bar(as_json, "read checkpoints" if dry_run else "restore", size) as advance:
            restorer = Restorer(settings, place, vocabulary, logs, advance)
            done = [restorer.plan(task) if dry_run else restorer.restore(task) for task in wanted]
        then = [one for one in done if one.task.flow != EXAMPLES] if then_run and not dry_run else []
        began = {one.task: _begins(settings, vocabulary, logs, one) for one in then if one.to_replay}
    if not as_json and dry_run:
        _print_choices("Would be restored", done)
    elif not as_json:
        _print_done(intended, done)
    caught_up = ran = others = None
    speed = 0.0
    if then:
        with LiveDisplay(quiet=as_json) as display:
            if beside_run:
                caught_up = await_run(settings, then, display)
            # None is on, or that which was on has ended.
            if not caught_up:
                try:
                    ran = run_flows(settings, "all", follow=False, workers=1, display=display)
                except LeftOutError as error:
                    if {str(one.task) for one in done} & set(error.tasks):
                        raise
                    # Tasks that were not to be restored are damaged too: those that were are well.
                    ran, others = error.done, str(error)
                speed = realtime(covered(settings, began), ran.seconds)
    if as_json:
        rows = [_as_row(one) for one in done]
        whole = {"place": place.url, "dry_run": dry_run, "restored": rows, "beside_run": beside_run, "ran": asdict(ran) if ran else None}
        whole |= {"realtime": round(speed, 1), "still_damaged": others}
        click.echo(json.dumps(whole))
    elif ran is not None:
        if others is not None:
            click.echo(f"tidemark: {others}", err=True)
        fast = (
            f": {ran.events / ran.seconds:,.0f} events/s, {speed:,.0f} times as fast as they happened" if ran.events and ran.seconds else ""
        )
        click.echo(f"then {ran.events:,} events and {ran.changes:,} revisit changes replayed in {ran.seconds:.1f} s{fast}")
    elif caught_up:
        click.echo("then caught up by the run that is on")
    elif beside_run and any(one.task.flow != EXAMPLES for one in done):
        click.echo("the run that is on goes on from there")
    if not as_json and not dry_run and (examples := [str(one.task) for one in done if one.task.flow == EXAMPLES]):
        click.echo(f"{', '.join(examples)}: `tidemark examples run` goes on from there, or the one that is on")


def _opened(settings: Settings, name: str, dry_run: bool, stack: ExitStack) -> Log:
    """A log; one that isn't there yet is made, empty, as a run would."""
    refuse_gone(settings, name)
    if dry_run and not log_exists(settings, name):
        # Elsewhere: a dry run leaves nothing behind.
        with translated("can't make a temporary directory (TMPDIR)"):
            elsewhere = stack.enter_context(TemporaryDirectory(prefix="tidemark-restore-"))
        return stack.enter_context(LocalLog.open(elsewhere, name, settings.partitions, create=True))
    return stack.enter_context(open_log(settings, name, create=not dry_run))


def _begins(settings: Settings, vocabulary: Vocabulary, logs: Mapping[str, Log], one: Choice) -> int | None:
    """The event time at which what a restored task has to replay begins."""
    if one.manifest is not None and one.manifest.watermark is not None:
        return one.manifest.watermark
    return first_time(settings, vocabulary, logs[one.task.flow], one.task)


def _damaged(problems: Iterable[Problem]) -> bool:
    """Whether more is wrong than that the log has to be applied again."""
    return any(problem.kind == "state" for problem in list(problems))


def _as_row(one: Choice) -> dict[str, Any]:
    return {
        "task": str(one.task),
        "position": one.position,
        "made_at": one.manifest.made_at if one.manifest else None,
        "log_end": one.log_end,
        "to_replay": one.to_replay,
        "passed_over": one.passed_over,
    }


def _print_choices(title: str, choices: list[Choice]) -> None:
    if not choices:
        click.echo("every task's state is sound: nothing to restore")
        return
    table = Table("task", "from", "position", "log end", "to replay", title=title, title_justify="left")
    for one in choices:
        made = f"checkpoint of {moment(one.manifest.made_at)}" if one.manifest else "nothing: the log from its beginning"
        table.add_row(str(one.task), made, f"{one.position:,}", f"{one.log_end:,}", f"{one.to_replay:,}")
    console_for_tables().print(table)
    for one in choices:
        for reason in one.passed_over:
            click.echo(f"{one.task}: passed over: {reason}")


def _print_done(intended: list[Choice], done: list[Choice]) -> None:
    """What was restored, and where that was not as intended."""
    if not done:
        return
    click.echo(f"restored {', '.join(str(one.task) for one in done) if len(done) <= _NAMED else f'{len(done)} tasks'}")
    for one, was in zip(done, intended, strict=True):
        for reason in one.passed_over[len(was.passed_over) :]:
            click.echo(f"{one.task}: passed over: {reason}")
        if one.manifest != was.manifest:
            click.echo(f"{one.task}: from position {one.position:,} instead; {one.to_replay:,} to replay")
