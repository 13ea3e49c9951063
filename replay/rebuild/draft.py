"""A task's state made anew beside the live one: from the newest checkpoint that the correction leaves right, or from nothing, and the log."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flows.corrections.history import History
from flows.decode import Decoder
from flows.directories import make_directory, sync, translated
from flows.errors import CorruptionError, DataDirectoryError
from flows.log import Log, LogBatch
from flows.outputs import ACTIONS, DEADLETTERS, LATE, REVISITS
from flows.settings import Settings
from flows.state.actions_task import ActionsTask, state_fingerprint
from flows.state.behind import Lanes
from flows.state.copy import write_state
from flows.state.revisits_task import RevisitsTask
from flows.state.task import Task, task_path
from flows.vocabulary import Vocabulary
from replay.checkpoints.check import Held, pairs
from replay.checkpoints.choose import Chooser
from replay.checkpoints.manifest import Manifest
from replay.in_place import delete
from replay.place import Place
from replay.rebuild.silent import SilentLog
from replay.tasks import TaskName

_BASE = ".base"


class Draft:
    """See the module.

    Parameters
    ----------
    settings : Settings
    vocabulary : Vocabulary
    task : TaskName
    directory : Path
        Where it lies while it is made.
    history : History
        With the correction that it follows, if there is one.
    logs : mapping of name to Log
        ACTIONS, REVISITS.
    """

    def __init__(
        self, settings: Settings, vocabulary: Vocabulary, task: TaskName, directory: Path, history: History, logs: Mapping[str, Log]
    ) -> None:
        self.name = task
        self.path = directory / task.flow / f"{task.partition:04d}"
        self.history = history
        self._settings = settings
        self._vocabulary = vocabulary
        self._log = logs[task.flow]
        self._outputs = {name: SilentLog(name, settings.partitions) for name in (REVISITS, LATE, DEADLETTERS)}

    def base(self, place: Place, before: int | None = None) -> Manifest | None:
        """The newest checkpoint to begin from, by its manifest; None: the beginning of the log.

        Parameters
        ----------
        before : int, optional
            Only checkpoints at or before this position.
        """
        return self._chooser(place).choose(before=before).manifest

    def begin(self, place: Place, manifest: Manifest | None) -> None:
        """Make the state that it begins from, unless an earlier attempt has; a kill leaves it whole or not there.

        Parameters
        ----------
        manifest : Manifest or None
            As `base` gave it; where it turns out to be damaged, the next older one is taken.
        """
        if self.path.exists() or manifest is None:
            return
        base = self.path.with_name(self.path.name + _BASE)

        def build(taken: Manifest) -> None:
            delete(base)
            held = Held(taken)
            write_state(base, held.passing(pairs(place, taken)))
            held.meta()

        try:
            with translated(f"state {self.path}: can't be made"):
                make_directory(base.parent.absolute())
                if self._chooser(place).choose(build, before=manifest.position).manifest is not None:
                    base.rename(self.path)
                    sync(self.path.parent)
        finally:
            shutil.rmtree(base, ignore_errors=True)

    def _chooser(self, place: Place) -> Chooser:
        return Chooser(place, self.name, self._log, state_fingerprint(self._settings, self._vocabulary), self.history)

    def open(self, lanes: Lanes) -> Task:
        """The task of this state."""
        if self.name.flow == ACTIONS:
            return ActionsTask(
                self._settings, self.name.partition, self._vocabulary, self._log, self._outputs, lanes, history=self.history, path=self.path
            )
        return RevisitsTask(self._settings, self.name.partition, self._vocabulary, self._log, lanes, path=self.path)

    def catch_up(self, task: Task, position: int, progress: Callable[[int], None]) -> None:
        """Apply the log up to a position; reads and decodes ahead.

        Parameters
        ----------
        progress : callable
            Called with numbers of offsets.
        """
        for batches, decoded in self._ahead(task.reached, position):
            before = task.reached
            task.apply(batches, decoded)
            progress(task.reached - before)
        task.settle()
        if task.reached != position:
            raise CorruptionError(
                f"log '{self._log.name}', partition {self.name.partition}, ends at {task.reached}, before position {position} of the live state"
            )

    def _ahead(self, at: int, position: int) -> Iterator[tuple[list[LogBatch], Any]]:
        decode = Decoder(self._vocabulary, (self.name.partition, self._settings.partitions)).decode if self.name.flow == ACTIONS else None

        def read(start: int) -> tuple[list[LogBatch], Any]:
            batches = self._log.read(self.name.partition, start, min(self._settings.batch_records, position - start))
            batches = [batch.between(start, position) for batch in batches if batch.first_offset < position]
            return batches, decode(*(batch.records for batch in batches)) if decode is not None and batches else None

        with ThreadPoolExecutor(1, thread_name_prefix="reading-ahead") as thread:
            waiting = thread.submit(read, at) if at < position else None
            while waiting is not None:
                batches, decoded = waiting.result()
                if not batches:
                    return
                end = batches[-1].end_offset
                waiting = thread.submit(read, end) if end < position else None
                yield batches, decoded

    def discard(self) -> None:
        """Delete it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def live_path(self) -> Path:
        """Of the state that it is to replace."""
        path = task_path(self._settings, self.name.flow, self.name.partition)
        if not (path / "CURRENT").exists():
            raise DataDirectoryError(f"{self.name} has no state yet: `tidemark run` makes it, with every correction that there is")
        return path
