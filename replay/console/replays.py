"""Checkpoints of every task and how much of the log lies behind them; what is being put back, made anew or corrected; corrections in force."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from flows.errors import TidemarkError
from flows.log import Log
from flows.metrics_http import scraped
from flows.open_log import log_exists, open_live_log
from flows.outputs import CORRECTIONS
from flows.settings import Settings
from flows.state.lock import run_is_on
from flows.state.task import task_path
from flows.state.task_lock import beside, is_held, is_wanted
from replay import tasks as task_names
from replay.checkpoints.at_work import CHECKPOINT
from replay.checkpoints.manifest import listed as checkpoints_of
from replay.corrections import listed as corrections_of
from replay.place import Place
from replay.rebuild.plan import Workplace
from replay.restore import RESTORING
from replay.tasks import TaskName

_CORRECTIONS = 10


@dataclass(frozen=True)
class TaskKept:
    """A task's checkpoints.

    Attributes
    ----------
    kept : int
        How many there are.
    newest, made_at : int or None
        Position of the newest, and when it was made, ms.
    to_replay : int or None
        Offsets that a restore would go through again.
    """

    task: str
    kept: int
    newest: int | None
    made_at: int | None
    to_replay: int | None


@dataclass(frozen=True)
class Work:
    """What is under way, or was begun and stopped.

    Attributes
    ----------
    kind : str
        checkpoint, restore or rebuild.
    what : str
        In words.
    running : bool
        Whether somebody is at it.
    begun_at : int or None
        ms.
    """

    kind: str
    what: str
    running: bool
    begun_at: int | None


@dataclass(frozen=True)
class Correction:
    """A correction: events that don't count, or count otherwise."""

    number: int
    made_at: int
    author: str
    reason: str
    in_force: bool
    excluded: int
    patched: int


@dataclass(frozen=True)
class Replays:
    """All of it.

    Attributes
    ----------
    place : str
        Where checkpoints lie.
    corrections : list of Correction
        The newest first, ten at most.
    """

    place: str
    tasks: list[TaskKept]
    work: list[Work]
    corrections: list[Correction]
    more_corrections: int


class ReplaysSection:
    """See the module.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = scraped(settings)
        self._place: Place | None = None
        # A store is asked for a list of each task.
        self.every_s = 30.0 if "://" in settings.checkpoint_place else 5.0
        self._corrections: tuple[list[int], list[Correction]] | None = None

    def look(self) -> Replays:
        """Look again."""
        if self._place is None:
            self._place = Place(self._settings.checkpoint_place)
        names = task_names.every(self._settings, task_names.KEPT)
        with ExitStack() as stack:
            logs = {
                name: stack.enter_context(open_live_log(self._settings, name, read_only=True))
                for name in task_names.FLOWS
                if log_exists(self._settings, name)
            }
            tasks = [_kept(self._place, name, logs.get(name.source)) for name in names]
        corrections = self._all_corrections()
        return Replays(
            place=without_credentials(self._place.url),
            tasks=tasks,
            work=[*self._at_work(names)],
            corrections=corrections[:_CORRECTIONS],
            more_corrections=max(0, len(corrections) - _CORRECTIONS),
        )

    def close(self) -> None:
        """Nothing is open between looks."""

    def _all_corrections(self) -> list[Correction]:
        """The newest first; read where their log has grown."""
        if not log_exists(self._settings, CORRECTIONS):
            return []
        with open_live_log(self._settings, CORRECTIONS, read_only=True) as log:
            ends = log.end_positions()
        if self._corrections is None or self._corrections[0] != ends:
            found = [
                Correction(one.generation, one.made_at, one.author, one.reason, one.in_force, one.excluded, one.patched)
                for one in reversed(corrections_of(self._settings))
            ]
            self._corrections = ends, found
        return self._corrections[1]

    def _at_work(self, names: list[TaskName]) -> Iterator[Work]:
        workplace = Workplace.of(self._settings)
        try:
            plan = workplace.plan()
        except TidemarkError as error:
            yield Work("rebuild", str(error), False, None)
        else:
            if plan is not None:
                what = f"{plan.reason}, by {plan.author}: {len(plan.parts)} tasks"
                yield Work("rebuild", what, run_is_on(workplace.directory), plan.made_at)
        for name in names:
            path = task_path(self._settings, name.flow, name.partition)
            if is_wanted(path):
                yield Work("restore", f"{name} is being replaced", True, None)
            elif beside(path, RESTORING).is_dir():
                yield Work("restore", f"{name}: a restore was stopped; the same command begins it again", False, None)
            if is_held(beside(path, CHECKPOINT), fcntl.LOCK_SH):
                yield Work("checkpoint", f"a checkpoint of {name} is being made", True, None)


def _kept(place: Place, name: TaskName, log: Log | None) -> TaskKept:
    found = checkpoints_of(place, name.flow, name.partition)
    newest = found[0] if found else None
    to_replay = None
    if log is not None:
        to_replay = log.end_position(name.partition) - (newest.position if newest else log.start_positions()[name.partition])
    return TaskKept(str(name), len(found), newest.position if newest else None, newest.made_at if newest else None, to_replay)


def without_credentials(url: str) -> str:
    """A URL without what may stand before the host's @."""
    scheme, sign, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{sign}{host.rpartition('@')[2]}{slash}{path}" if sign else url
