"""`tidemark replay rebuild`: state made anew beside the live one, what that changes, and the switch to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from flows.errors import LockedError, SettingsError, TidemarkError
from flows.events import id_of
from flows.ingest.options import IngestOptions
from flows.log import Log
from flows.open_log import open_log
from flows.run.display import console_for_tables, moment
from flows.settings import Settings
from flows.state.lock import run_lock
from flows.vocabulary import Vocabulary
from replay import tasks as task_names
from replay.commands.options import DRY, JSON, TASK, chosen, records_bar
from replay.commands.showing import print_difference
from replay.place import Place
from replay.rebuild.difference import Difference
from replay.rebuild.filter import time_of
from replay.rebuild.plan import Workplace
from replay.rebuild.rebuild import Built, Rebuild
from replay.rebuild.request import Request, plan
from replay.rebuild.scan import Found, Scope
from replay.rebuild.switch import Switch, recorded


@click.command(epilog="Example: tidemark replay rebuild --exclude \"producer == 'v13' and event_time >= '2026-03-01T00:00Z'\"")
@click.option("--exclude", metavar="FILTER", help="Events that FILTER takes don't count, as if they had never been.")
@click.option(
    "--patch",
    type=click.Path(path_type=Path, exists=True),
    help="A file of corrected events; each counts in place of the one with its user_id and event_id.",
)
@click.option("--columns", multiple=True, metavar="NAME=COLUMN,…", help="How columns of the patch are called, as for `tidemark ingest`.")
@click.option("--undo", type=int, multiple=True, metavar="N", help="Correction N no longer counts (may be given several times).")
@click.option("--user", "users", multiple=True, metavar="ID", help="Only events of this user (may be given several times).")
@click.option("--pin", "pins", multiple=True, metavar="ID", help="Only events on this pin (may be given several times).")
@TASK
@click.option("--from", "begin", metavar="OFFSET|TIME", help="Only events from this offset, or this arrival time, on.")
@click.option("--to", "end", metavar="OFFSET|TIME", help="Only events before it; by default, those that are in the log by now.")
@click.option("--yes", is_flag=True, help="Switch without asking.")
@click.option("--resume", is_flag=True, help="Go on with the rebuild that was begun.")
@click.option("--discard", is_flag=True, help="Give up the rebuild that was begun; nothing has changed by it.")
@DRY
@JSON
@click.pass_obj
def rebuild(
    settings: Settings,
    exclude: str | None,
    patch: Path | None,
    columns: tuple[str, ...],
    undo: tuple[int, ...],
    users: tuple[str, ...],
    pins: tuple[str, ...],
    names: tuple[str, ...],
    begin: str | None,
    end: str | None,
    yes: bool,
    resume: bool,
    discard: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make state anew beside the live one, show what that changes, and switch.

    With --exclude, --patch or --undo it becomes a correction: a record of the log 'corrections', which every later restore, audit, read and
    rebuild follows. Only tasks with such events are made anew, from the newest checkpoint before the first of them; what pins had of it is taken
    back by records of 'revisits'. Without: the tasks that --task names, from the beginning of the log or the last checkpoint before --from.

    FILTER compares fields of an event: event_id, user_id, pin_id, action, surface, topic, event_time, duration_ms, producer, request_id, arrival,
    offset, partition; with ==, !=, <, <=, >, >=, in [...], and, or, not, producer.startswith('v1'). Times are ms or ISO 8601.

    With --user or --pin nothing but what those events say of their users and pins changes: the watermark stays what it was.

    The flows may run meanwhile; for the switch they let go of these tasks for a moment. The states that it replaces stay beside the new ones
    (state/<flow>/<partition>.replaced).
    Stop a producer that still writes what is wrong first: what comes later is not part of a correction.
    """
    place, vocabulary = Place(settings.checkpoint_place), settings.load_vocabulary()
    asked = chosen(settings, names)
    workplace = Workplace.of(settings)
    try:
        under_way = workplace.plan()
    except TidemarkError:
        if not discard or dry_run:
            raise
        with _alone(workplace):
            workplace.discard()
        told = "given up: a rebuild whose plan can't be read; if its correction was recorded already, `tidemark replay status` lists it"
        _say(as_json, {"discarded": None}, told)
        return
    options = (exclude, patch, columns, undo, begin, end, users, pins, names)
    narrowing = {"--from": begin, "--to": end, "--user": users, "--pin": pins, "--task": names}
    if discard or resume:
        if any(options) or (discard and resume):
            raise SettingsError(f"--{'discard' if discard else 'resume'} goes alone: what was begun says what it is")
        if under_way is None:
            raise SettingsError(f"no rebuild has been begun in {settings.data}")
    elif under_way is not None and not dry_run:
        raise SettingsError(f"a rebuild has been begun ({under_way.reason}): go on with it by --resume, or give it up by --discard")
    elif undo and any(narrowing.values()):
        raise SettingsError(
            f"--undo takes a correction back as a whole: {', '.join(name for name, given in narrowing.items() if given)} can't narrow it"
        )
    elif columns and not patch:
        raise SettingsError("--columns says how columns of a --patch are called")
    elif not any((exclude, patch, undo)) and any((end, users, pins)):
        raise SettingsError("--to, --user and --pin narrow a correction: give them with --exclude or --patch")
    elif not any((exclude, patch, undo, names)):
        raise SettingsError("say what to change (--exclude, --patch, --undo), or which tasks to make anew (--task); see --help")
    with ExitStack() as stack:
        if not dry_run:
            stack.enter_context(_alone(workplace))
        if discard and under_way is not None:
            if recorded(settings, under_way):
                raise SettingsError("its correction is recorded already: end it by --resume, then take it back by --undo")
            if not dry_run:
                workplace.discard()
            _say(as_json, {"discarded": under_way.reason}, f"{'would give' if dry_run else 'given'} up: {under_way.reason}")
            return
        logs = {name: stack.enter_context(open_log(settings, name, create=not dry_run)) for name in task_names.FLOWS}
        found: dict[int, Found] = {}
        if under_way is None or not resume:
            request = Request(
                tuple(asked),
                exclude,
                patch,
                IngestOptions.parse(vocabulary, columns),
                undo,
                _at("--from", begin),
                _at("--to", end),
                Scope(_ids(users), _ids(pins)),
            )
            with records_bar(as_json, "search") as (advance, total):
                planned, corrections, found = plan(settings, vocabulary, logs, request, advance, total)
            if not planned.parts:
                _say(as_json, {"plan": asdict(planned), "switched": False}, "no event is taken: nothing to change")
                return
            rebuild = Rebuild(settings, vocabulary, logs, workplace, planned, corrections)
        else:
            rebuild = Rebuild(settings, vocabulary, logs, workplace, under_way)
        run = _Run(settings, vocabulary, workplace, place, rebuild, found, as_json)
        if resume and not dry_run and recorded(settings, rebuild.plan):
            run.switch()
            return
        # Before anything is written down: whether every task has a state, and something to begin from.
        run.show_plan()
        if dry_run:
            run.end({"dry_run": True})
            return
        if not resume:
            workplace.begin(planned, corrections)
        run.go(yes)


class _Run:
    """The steps after the plan."""

    def __init__(
        self,
        settings: Settings,
        vocabulary: Vocabulary,
        workplace: Workplace,
        place: Place,
        rebuild: Rebuild,
        found: dict[int, Found],
        as_json: bool,
    ) -> None:
        self._settings = settings
        self._vocabulary = vocabulary
        self._workplace = workplace
        self._place = place
        self._rebuild = rebuild
        self._plan = rebuild.plan
        self._found = found
        self._quiet = as_json
        self._replays: dict[task_names.TaskName, tuple[int, int]] = {}
        self._told: dict[str, Any] = {"plan": asdict(self._plan), "dry_run": False, "switched": False}

    def show_plan(self) -> None:
        """What changes, and what is made anew for it, from where."""
        self._replays = self._rebuild.to_replay(self._place)
        self._told["tasks"] = [{"task": str(task), "position": at, "log_end": end} for task, (at, end) in self._replays.items()]
        if not self._quiet:
            self._print_plan()

    def go(self, yes: bool) -> None:
        """Make the states, show what they say differently, and switch to them if that is wanted."""
        with records_bar(self._quiet, "rebuild") as (advance, total):
            total(sum(end for _, end in self._replays.values()))
            built = self._rebuild.build(self._place, advance)
            difference = self._rebuild.compare(advance)
        self._print_built(built)
        self._print_difference(difference)
        if not self._changes_log() and not difference:
            self._workplace.discard()
            self.end({}, "the live states say the very same: there is nothing to switch to")
            return
        if not (yes or (not self._quiet and Console().is_terminal and click.confirm("Switch to it?"))):
            self.end({}, "nothing has changed yet: switch by `tidemark replay rebuild --resume --yes`, give it up by --discard")
            return
        self.switch()

    def switch(self) -> None:
        """Switch, or end a switch in whose middle something has been killed."""
        with records_bar(self._quiet, "switch") as (advance, _):
            emitted = Switch(self._settings, self._vocabulary, self._rebuild, self._workplace).make(advance)
        line = f"switched to {', '.join(str(part.task) for part in self._plan.parts)}, made anew; {emitted:,} changes went out to pins"
        if self._changes_log():
            line = (
                f"switched: correction {self._plan.generation} counts from now on ({self._plan.reason}); {emitted:,} changes went out to pins. "
                f"Take it back by `tidemark replay rebuild --undo {self._plan.generation}`"
            )
        self.end({"switched": True, "correction": self._plan.generation, "emitted": emitted}, line)

    def end(self, more: dict[str, Any], line: str = "") -> None:
        """Say what has come of it."""
        _say(self._quiet, {**self._told, **more}, line)

    def _changes_log(self) -> bool:
        return bool(self._plan.undoes) or any(part.excluded or part.patched for part in self._plan.parts)

    def _print_plan(self) -> None:
        table = Table(title=f"{self._plan.reason}: correction {self._plan.generation}", title_justify="left", box=box.SIMPLE)
        for name in ("task", "excluded", "patched", "users", "between offsets", "event times", "made from", "log end"):
            table.add_column(name, justify="left" if name in ("task", "event times") else "right")
        for part in self._plan.parts:
            here = self._found.get(part.partition)
            offsets = f"{here.offsets[0]:,} and {here.offsets[1]:,}" if here and here.offsets else "-"
            times = " to ".join(moment(t) for t in here.times) if here and here.times else "-"
            counts = (f"{n:,}" for n in (part.excluded, part.patched, part.users))
            table.add_row(str(part.task), *counts, offsets, times, *(f"{n:,}" for n in self._replays[part.task]))
        console_for_tables().print(table)
        if future := sum(here.future for here in self._found.values()):
            click.echo(f"{future:,} events of the patch lie too far ahead of their arrival: they will not count")

    def _print_built(self, built: Built) -> None:
        self._told["built"] = {**asdict(built), "realtime": round(built.realtime, 1)}
        if not self._quiet and built.replayed:
            click.echo(
                f"{built.replayed:,} records replayed in {built.seconds:.1f} s: {built.replayed / built.seconds:,.0f}/s, "
                f"{built.realtime:,.0f} times as fast as they happened"
            )

    def _print_difference(self, difference: Difference) -> None:
        self._told["difference"] = asdict(difference)
        if not self._quiet:
            print_difference(difference)


@contextmanager
def _alone(workplace: Workplace) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(run_lock(workplace.directory))
        except LockedError as error:
            raise LockedError(f"another rebuild is at work in {workplace.directory}; wait for it, or stop it and --resume") from error
        yield


def _at(option: str, text: str | None) -> Callable[[Log, int], int] | None:
    if text is None:
        return None
    if text.isdecimal():
        offset = int(text)
        return lambda log, partition: offset
    try:
        time = time_of(text)
    except ValueError:
        raise SettingsError(f"{option}: '{text}' is neither an offset nor a time such as 2026-03-01T12:00Z") from None
    return lambda log, partition: log.position_for_time(partition, time)


def _ids(texts: tuple[str, ...]) -> np.ndarray | None:
    return np.array(sorted({id_of(text) for text in texts}), np.int64) if texts else None


def _say(as_json: bool, told: dict[str, Any], line: str) -> None:
    if as_json:
        click.echo(json.dumps(told))
    elif line:
        click.echo(line)
