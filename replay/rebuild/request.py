"""What a user asks of a rebuild, and the plan that is made of it: which records change, which tasks are made anew for it."""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flows.corrections.history import History
from flows.corrections.record import Correction
from flows.errors import InputError, SettingsError
from flows.ingest.options import IngestOptions
from flows.log import Log
from flows.open_log import log_exists, open_log
from flows.outputs import ACTIONS, CORRECTIONS, REVISITS
from flows.partition import partition_of
from flows.settings import Settings
from flows.state.corrected_task import refuse_lost
from flows.vocabulary import Vocabulary
from replay.rebuild.filter import Filter
from replay.rebuild.plan import Part, Plan
from replay.rebuild.scan import Found, Scope, scan
from replay.tasks import TaskName

if TYPE_CHECKING:
    from replay.rebuild.patch import Patch

GENERATIONS = "generation"
"""Under this key the ledger of CORRECTIONS holds the newest number: of two operators who correct at once, one is refused."""


@dataclass(frozen=True)
class Request:
    """What is asked.

    Attributes
    ----------
    tasks : tuple of TaskName
        Only these; with a filter, a patch or an undo, only their partitions.
    exclude : str or None
        A filter, see `replay.rebuild.filter.Filter`: events that it takes don't count.
    patch : Path or None
        A file of corrected events.
    options : IngestOptions
        How that file is read.
    undo : tuple of int
        Corrections that no longer count.
    begin, end : callable or None
        (log, partition) → offset: only events from there on, and before there.
    scope : Scope
    """

    tasks: tuple[TaskName, ...]
    exclude: str | None = None
    patch: Path | None = None
    options: IngestOptions = field(default_factory=IngestOptions)
    undo: tuple[int, ...] = ()
    begin: Callable[[Log, int], int] | None = None
    end: Callable[[Log, int], int] | None = None
    scope: Scope = field(default_factory=Scope)

    @property
    def corrects(self) -> bool:
        """Whether it changes which events count."""
        return self.exclude is not None or self.patch is not None or bool(self.undo)

    def reason(self) -> str:
        """In words."""
        said = []
        if self.exclude is not None:
            said.append(f"exclude {self.exclude}")
        if self.patch is not None:
            said.append(f"patch {self.patch.name}")
        if self.undo:
            said.append(f"undo {', '.join(map(str, self.undo))}")
        for name, ids in (("users", self.scope.users), ("pins", self.scope.pins)):
            if ids is not None and self.corrects:
                said.append(f"of {len(ids)} {name}")
        return "; ".join(said) or "made anew"


def plan(
    settings: Settings,
    vocabulary: Vocabulary,
    logs: Mapping[str, Log],
    request: Request,
    progress: Callable[[int], None],
    total: Callable[[int], None] = lambda offsets: None,
) -> tuple[Plan, dict[int, Correction], dict[int, Found]]:
    """What a request comes to.

    Parameters
    ----------
    logs : mapping of name to Log
        ACTIONS, REVISITS.
    progress, total : callable
        Called with numbers of offsets that were searched; with how many there are.

    Returns
    -------
    plan : Plan
        Without parts where nothing is to be changed.
    corrections, found : dict by partition

    Raises
    ------
    SettingsError, InputError
        The filter, the patch, or what is named can't be.
    """
    partitions = _partitions(settings, request)
    histories = History.every(settings)
    for partition, history in enumerate(histories):
        refuse_lost(history, logs[REVISITS], partition)
    newest = max(newest_generation(settings), *(history.generation for history in histories))
    made = Plan(newest + 1, request.reason(), request.undo, _author(), time.time_ns() // 1_000_000, ())
    if not request.corrects:
        return _anew(made, logs, request)
    parts: list[Part] = []
    corrections: dict[int, Correction] = {}
    found: dict[int, Found] = {}
    undone = [p for p in partitions if any(c.generation in request.undo for c in histories[p].in_force(histories[p].generation))]
    _check_undo(request, histories)
    log = logs[ACTIONS]
    spans = {p: _span(log, p, request) for p in partitions}
    if request.exclude is not None or request.patch is not None:
        condition = Filter(request.exclude, vocabulary) if request.exclude is not None else None
        patches = _patches(settings, vocabulary, request)
        spans = {p: spans[p] for p in partitions if condition is not None or p in patches}
        total(sum(end - (0 if request.scope.as_it_was else begin) for begin, end in spans.values()))
        for partition, span in spans.items():
            history = _with_undone(histories[partition], made)
            found[partition] = scan(
                settings, vocabulary, log, partition, history, made.made(), span, condition, patches.get(partition), request.scope, progress
            )
        _check_patch(request, patches, found)
    for partition in partitions:
        here = found.get(partition)
        if partition not in undone and not here:
            continue
        correction = corrections[partition] = here.correction if here else Correction(made.made())
        users = len(here.users) if here else 0
        parts.append(Part(ACTIONS, partition, spans[partition], len(correction.excluded), len(correction.patched), users))
    return replace(made, parts=tuple(parts)), corrections, found


def newest_generation(settings: Settings) -> int:
    """The number of the newest correction that was made by a rebuild."""
    if not log_exists(settings, CORRECTIONS):
        return 0
    with open_log(settings, CORRECTIONS, read_only=True) as log:
        return newest_in(log)


def newest_in(log: Log) -> int:
    """The same, of the open log."""
    entry = log.ledger_entry(GENERATIONS)
    return entry.done if entry is not None else 0


def _anew(made: Plan, logs: Mapping[str, Log], request: Request) -> tuple[Plan, dict[int, Correction], dict[int, Found]]:
    parts = []
    for task in request.tasks:
        log = logs[task.flow]
        before = request.begin(log, task.partition) if request.begin is not None else 0
        parts.append(Part(task.flow, task.partition, (before, before), before=before))
    corrections = {part.partition: Correction(replace(made.made(), first=part.before)) for part in parts if part.flow == ACTIONS}
    return replace(made, parts=tuple(parts)), corrections, {}


def _partitions(settings: Settings, request: Request) -> list[int]:
    """Of ACTIONS that a correction may touch."""
    named = sorted({task.partition for task in request.tasks if task.flow == ACTIONS})
    if request.corrects and not named:
        raise SettingsError(
            f"a correction changes tasks of the flow '{ACTIONS}', and those of '{REVISITS}' follow by themselves: name {ACTIONS}/…"
        )
    if request.scope.users is not None:
        homes = set(partition_of(request.scope.users, settings.partitions).tolist())
        named = [p for p in named if p in homes]
    return named


def _span(log: Log, partition: int, request: Request) -> tuple[int, int]:
    start, end = log.start_positions()[partition], log.end_position(partition)
    begin = request.begin(log, partition) if request.begin is not None else start
    until = request.end(log, partition) if request.end is not None else end
    return min(max(begin, start), end), max(min(until, end), min(max(begin, start), end))


def _with_undone(history: History, made: Plan) -> History:
    """What a filter looks at, where it comes together with an undo."""
    return History([*history.corrections, Correction(made.made())]) if made.undoes else history


def _check_undo(request: Request, histories: Sequence[History]) -> None:
    in_force = {c.generation: c.made.reason for history in histories for c in history.in_force(history.generation)}
    for number in request.undo:
        if number not in in_force:
            known = ", ".join(f"{n} ({reason})" for n, reason in sorted(in_force.items())) or "there are none"
            raise SettingsError(f"correction {number} is not in force; those that are: {known}")


def _patches(settings: Settings, vocabulary: Vocabulary, request: Request) -> dict[int, Patch]:
    if request.patch is None:
        return {}
    # Not before it is needed: pandas takes half a second to load, and every other command of replay would wait for it.
    from replay.rebuild.patch import read_patch

    return read_patch(request.patch, request.options, vocabulary, settings.partitions)


def _check_patch(request: Request, patches: Mapping[int, Patch], found: Mapping[int, Found]) -> None:
    if request.patch is None:
        return
    missing = np.concatenate([np.empty((0, 2), np.int64), *(here.unmatched for here in found.values())])
    left_out = sum(len(patch.events) for p, patch in patches.items() if p not in found)
    if len(missing) or left_out:
        first = f", the first event {missing[0][0]} of user {missing[0][1]}" if len(missing) else ""
        raise InputError(
            f"{request.patch}: {len(missing) + left_out} of its events are not among those that may be changed{first}: a patch changes events that "
            "the log has, by their event_id and user_id; add others by `tidemark ingest`"
        )


def _author() -> str:
    with suppress(OSError, KeyError):
        return getpass.getuser()
    return ""
