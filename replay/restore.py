"""Putting a task back: its newest checkpoint that is sound and that the log continues; in the end, nothing, for the log has it all."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from flows.corrections.history import History
from flows.errors import LogError
from flows.log import Log
from flows.outputs import ACTIONS, REVISITS
from flows.settings import Settings
from flows.state.copy import write_state
from flows.state.corrected_task import refuse_lost
from flows.state.handover import task_taken
from flows.told_positions import tell_none
from flows.vocabulary import Vocabulary
from replay.arrived import Arrived, DamagedLogError
from replay.checkpoints.check import Held, pairs
from replay.checkpoints.choose import Choice, Chooser
from replay.checkpoints.manifest import Manifest, UnfitError
from replay.in_place import delete, put_in_place
from replay.place import Place
from replay.tasks import TaskName, mark_of
from replay.verify import ahead_of

RESTORING = ".restoring"


class Restorer:
    """Restores tasks of a data directory. A run that is on lets go of a task for so long, and goes on with all others.

    Parameters
    ----------
    settings : Settings
    place : Place
    vocabulary : Vocabulary
    logs : mapping of name to Log
        All of them, with their archives.
    advance : callable, optional
        Called with bytes that were read back.
    """

    def __init__(
        self,
        settings: Settings,
        place: Place,
        vocabulary: Vocabulary,
        logs: Mapping[str, Log],
        advance: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._settings = settings
        self._place = place
        self._vocabulary = vocabulary
        self._logs = logs
        self._arrived = Arrived(logs)
        self._advance = advance

    def intended(self, task: TaskName) -> Choice:
        """What `restore` will take if it is sound, by its manifest alone.

        Raises
        ------
        RetentionError, LogError, PlaceError
            As of `plan`.
        """
        return self._first(task, lambda manifest: None)

    def plan(self, task: TaskName) -> Choice:
        """What `restore` would take, with every piece of it read and checked.

        Raises
        ------
        RetentionError
            No checkpoint is sound, and the log doesn't go back to its beginning.
        LogError
            A log can't be read.
        PlaceError
            The place of the checkpoints can't.
        """

        def read_through(manifest: Manifest) -> None:
            held = Held(manifest)
            deque(held.passing(pairs(self._place, manifest, self._advance)), maxlen=0)
            self._refuse_ahead(held, manifest)

        return self._first(task, read_through)

    def restore(self, task: TaskName) -> Choice:
        """Put a task back; what was there lies beside it until the next time.

        A kill at any moment leaves the old state, the new one, or none, from which a run starts at the beginning of the log.

        Raises
        ------
        LockedError
            Another command is at this task, or a run doesn't let go of it.
        StorageFullError, DataDirectoryError
            The state can't be written.
        RetentionError, LogError, PlaceError
            As of `plan`.
        """
        with task_taken(self._settings, task.flow, task.partition) as path:
            return self._restore(task, path)

    def _restore(self, task: TaskName, path: Path) -> Choice:
        new = path.with_name(path.name + RESTORING)

        def build(manifest: Manifest) -> None:
            # What a kill has left.
            delete(new)
            held = Held(manifest)
            write_state(new, held.passing(pairs(self._place, manifest, self._advance)))
            self._refuse_ahead(held, manifest)

        try:
            chosen = self._first(task, build)
            put_in_place(new if chosen.manifest is not None else None, path)
            if chosen.manifest is None:
                tell_none(self._settings, self._logs[task.source], task.flow, task.partition)
        finally:
            # Of a restore that failed: nobody else would delete it, and a disk that is full would stay so.
            shutil.rmtree(new, ignore_errors=True)
        return chosen

    def _first(self, task: TaskName, use: Callable[[Manifest], None]) -> Choice:
        history = History.of(self._settings, task.partition) if task.flow == ACTIONS else History()
        if task.flow == ACTIONS:
            refuse_lost(history, self._logs[REVISITS], task.partition)
        mark = mark_of(self._settings, self._vocabulary, task.flow)
        return Chooser(self._place, task, self._logs[task.source], mark, history).choose(use)

    def _refuse_ahead(self, held: Held, manifest: Manifest) -> None:
        """Refuse what no log continues: it reflects more of an input than there is, needs what is gone, or has put out what is lost.

        From an older checkpoint the task puts out again what a log no longer has.
        """
        meta = held.meta()
        where = f"checkpoint of {manifest.flow}/{manifest.partition} at position {manifest.position}"
        if (ahead := next(ahead_of(meta, self._logs[TaskName(meta.flow, meta.partition).source], self._logs), None)) is not None:
            raise UnfitError(f"{where} {ahead}")
        for name, (begin, _) in meta.anchor_inputs.items():
            if begin < (start := self._logs[name].start_positions()[meta.partition]):
                raise UnfitError(f"{where} needs log '{name}' from offset {begin}, and it begins at {start}")
        try:
            gone = next(self._arrived.missing(held, meta), None)
        except DamagedLogError as error:
            # An older checkpoint would be no better.
            raise LogError(
                f"{error}; restore that log first, by `tidemark replay restore --log {error.log}`, then run this again"
            ) from error
        if gone is not None:
            raise UnfitError(f"{where} {gone}")
