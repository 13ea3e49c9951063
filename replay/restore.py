"""Putting a task back: its newest checkpoint that is sound and that the log continues; in the end, nothing, for the log has it all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flows.corrections.history import History
from flows.directories import sync
from flows.errors import CorruptionError, DataDirectoryError
from flows.log import Log
from flows.outputs import ACTIONS, REVISITS
from flows.settings import Settings
from flows.state.corrected_task import refuse_lost
from flows.state.handover import task_taken
from flows.state.store import FORMAT, READABLE, Meta, TaskView, write_state
from flows.state.task import task_path
from replay.arrived import Arrived
from replay.checkpoints.check import pairs
from replay.checkpoints.manifest import Manifest, listed, read
from replay.checkpoints.pieces import Pair
from replay.place import Place, PlaceError
from replay.tasks import TaskName

_RESTORING, _REPLACED = ".restoring", ".replaced"


@dataclass
class Restored:
    """What a task is restored from.

    Attributes
    ----------
    manifest : Manifest or None
        None: from nothing, the beginning of the log.
    log_end : int
        Of its input.
    passed_over : list of str
        Why newer checkpoints were not taken.
    """

    task: TaskName
    manifest: Manifest | None
    log_end: int
    passed_over: list[str] = field(default_factory=list)

    @property
    def position(self) -> int:
        """Where the log goes on from."""
        return self.manifest.position if self.manifest is not None else 0

    @property
    def to_replay(self) -> int:
        """Offsets of the log behind the checkpoint."""
        return self.log_end - self.position


class Restorer:
    """Restores tasks of a data directory. A run that is on lets go of a task for so long, and goes on with all others.

    Parameters
    ----------
    settings : Settings
    place : Place
    fingerprint : str
        Of the present features and settings.
    logs : mapping of name to Log
        All of them, with their archives.
    advance : callable, optional
        Called with bytes that were read back.
    """

    def __init__(
        self,
        settings: Settings,
        place: Place,
        fingerprint: str,
        logs: Mapping[str, Log],
        advance: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._settings = settings
        self._place = place
        self._fingerprint = fingerprint
        self._logs = logs
        self._arrived = Arrived(logs)
        self._advance = advance

    def plan(self, task: TaskName) -> Restored:
        """What `restore` would take, with every piece of it read and checked.

        Raises
        ------
        RetentionError
            No checkpoint is sound, and the log doesn't go back to its beginning.
        """
        return self._first(task, self._read_through)

    def restore(self, task: TaskName) -> Restored:
        """Put a task back; what was there lies beside it until the next time.

        A kill at any moment leaves the old state, the new one, or none, from which a run starts at the beginning of the log.

        Raises
        ------
        LockedError
            Another command is at this task, or a run doesn't let go of it.
        """
        with task_taken(self._settings, task.flow, task.partition) as path:
            return self._restore(task, path)

    def _restore(self, task: TaskName, path: Path) -> Restored:
        new, old = path.with_name(path.name + _RESTORING), path.with_name(path.name + _REPLACED)

        def build(manifest: Manifest) -> None:
            shutil.rmtree(new, ignore_errors=True)
            write_state(new, pairs(self._place, manifest, self._advance))
            _check(new, manifest)
            self._published(TaskView(new), manifest)

        restored = self._first(task, build)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        if restored.manifest is not None:
            new.rename(path)
        if path.parent.is_dir():
            sync(path.parent)
        return restored

    def _read_through(self, manifest: Manifest) -> None:
        where = task_path(self._settings, manifest.flow, manifest.partition)
        self._published(_Small(pairs(self._place, manifest, self._advance), where), manifest)

    def _first(self, task: TaskName, use: Callable[[Manifest], None]) -> Restored:
        """The first checkpoint, the newest first, that fits the log and that `use` takes without finding it damaged."""
        log = self._logs[task.flow]
        if task.flow == ACTIONS:
            refuse_lost(History.of(self._settings, task.partition), self._logs[REVISITS], task.partition)
        end = log.end_position(task.partition)
        passed_over: list[str] = []
        for named in listed(self._place, task.flow, task.partition):
            try:
                manifest = read(self._place, named)
                self._fits(manifest, log, end)
                use(manifest)
            except PlaceError:
                # No reason to go through the whole log instead.
                raise
            except (CorruptionError, DataDirectoryError) as error:
                passed_over.append(str(error))
                continue
            return Restored(task, manifest, end, passed_over)
        start = log.start_positions()[task.partition]
        if start > 0:
            raise CorruptionError(
                f"{task}: no checkpoint in {self._place.url} can be used, and log '{log.name}', partition {task.partition}, begins at {start}; "
                "bring back its archive (`tidemark archive status`) or a checkpoint" + "".join(f"\n  {reason}" for reason in passed_over)
            )
        return Restored(task, None, end, passed_over)

    def _fits(self, manifest: Manifest, log: Log, end: int) -> None:
        where = f"checkpoint of {manifest.flow}/{manifest.partition} at position {manifest.position}"
        if manifest.fingerprint != self._fingerprint:
            raise DataDirectoryError(
                f"{where} was made under other features or settings (fingerprint {manifest.fingerprint}, now {self._fingerprint})"
            )
        if manifest.state_format not in READABLE:
            raise DataDirectoryError(f"{where} is of state of format {manifest.state_format}; this Tidemark reads format {FORMAT}")
        if manifest.position > end:
            raise DataDirectoryError(f"{where} is ahead of its log, which ends at {end}")
        start = log.start_positions()[manifest.partition]
        if manifest.needs_from < start:
            raise DataDirectoryError(f"{where} needs the log from offset {manifest.needs_from}, and it begins at {start}")
        if manifest.flow == ACTIONS:
            right = History.of(self._settings, manifest.partition).right_up_to(manifest.generation)
            if manifest.position > right:
                raise DataDirectoryError(f"{where} is older than a correction that changes records from offset {right} on")

    def _published(self, kept: TaskView | _Small, manifest: Manifest) -> None:
        """Refuse what has put out records that a log no longer has: from an older checkpoint the task puts them out again."""
        try:
            if kept.meta is not None:
                for what in self._arrived.missing(kept, kept.meta):
                    raise DataDirectoryError(f"checkpoint of {manifest.flow}/{manifest.partition} at position {manifest.position} {what}")
        finally:
            kept.close()


def _check(path: Path, manifest: Manifest) -> None:
    view = TaskView(path)
    try:
        meta = view.meta
        if meta is None or (meta.flow, meta.partition, meta.position) != (manifest.flow, manifest.partition, manifest.position):
            raise CorruptionError(
                f"checkpoint of {manifest.flow}/{manifest.partition} at position {manifest.position} holds another state than it says"
            )
    finally:
        view.close()


class _Small:
    """What a checkpoint says of its place and its output, without its rows."""

    def __init__(self, pairs: Iterable[Pair], where: Path) -> None:
        self._pairs = [(key, value) for key, value in pairs if key == b"meta" or key.startswith(b"O")]
        data = dict(self._pairs).get(b"meta")
        self.meta = Meta.from_json(data, where) if data is not None else None

    def prefixed(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        return [(key, value) for key, value in self._pairs if key.startswith(prefix)]

    def close(self) -> None: ...
