"""Which checkpoint a task begins from: the newest that is sound and that its log continues; else nothing, for the log has it all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flows.corrections.history import History
from flows.errors import CorruptionError, RetentionError
from flows.log import Log
from flows.outputs import ACTIONS
from flows.state.meta import FORMAT, READABLE
from replay.checkpoints.manifest import Manifest, UnfitError, listed, read
from replay.place import Place
from replay.tasks import TaskName


@dataclass(frozen=True)
class Choice:
    """What a task begins from.

    Attributes
    ----------
    task : TaskName
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
    passed_over: list[str]

    @property
    def position(self) -> int:
        """Where the log goes on from."""
        return self.manifest.position if self.manifest is not None else 0

    @property
    def to_replay(self) -> int:
        """Offsets of the log behind the checkpoint."""
        return self.log_end - self.position


class Chooser:
    """Chooses among a task's checkpoints.

    Parameters
    ----------
    place : Place
    task : TaskName
    log : Log
        Its input, with its archive.
    fingerprint : str
        Of the present features and settings.
    history : History
        The corrections that the task is to follow.
    """

    def __init__(self, place: Place, task: TaskName, log: Log, fingerprint: str, history: History) -> None:
        self._place = place
        self._task = task
        self._log = log
        self._fingerprint = fingerprint
        self._history = history
        # Before any checkpoint is looked at: a log that can't be read is not the fault of one.
        self._start, self._end = log.start_positions()[task.partition], log.end_position(task.partition)

    def choose(self, use: Callable[[Manifest], None] = lambda manifest: None, before: int | None = None) -> Choice:
        """The newest checkpoint that fits, and that `use` takes.

        Parameters
        ----------
        use : callable, optional
            Raises CorruptionError or UnfitError where a checkpoint can't be used: then the next older one is taken. Whatever else is raised says
            nothing of the checkpoint (a disk that is full, a place that is away, a log that can't be read), and ends the choice.
        before : int, optional
            Only checkpoints at or before this position.

        Raises
        ------
        RetentionError
            None can be used, and the log doesn't go back to its beginning.
        """
        passed_over: list[str] = []
        for named in listed(self._place, self._task.flow, self._task.partition):
            try:
                manifest = read(self._place, named)
                self._refuse_unfit(manifest, before)
                use(manifest)
            except (CorruptionError, UnfitError) as error:
                passed_over.append(str(error))
                continue
            return Choice(self._task, manifest, self._end, passed_over)
        if self._start > 0:
            raise RetentionError(
                f"{self._task}: no checkpoint in {self._place.url} can be used, and log '{self._log.name}', partition {self._task.partition}, "
                f"begins at {self._start}; bring back its archive (`tidemark archive status`) or a checkpoint"
                + "".join(f"; passed over: {reason}" for reason in passed_over)
            )
        return Choice(self._task, None, self._end, passed_over)

    def _refuse_unfit(self, manifest: Manifest, before: int | None) -> None:
        where = f"checkpoint of {self._task} at position {manifest.position}"
        if manifest.fingerprint != self._fingerprint:
            raise UnfitError(
                f"{where} was made under other features or settings (fingerprint {manifest.fingerprint}, now {self._fingerprint})"
            )
        if manifest.state_format not in READABLE:
            raise UnfitError(f"{where} is of state of format {manifest.state_format}; this Tidemark reads format {FORMAT}")
        if manifest.position > self._end:
            raise UnfitError(f"{where} is ahead of its log, which ends at {self._end}")
        if manifest.needs_from < self._start:
            raise UnfitError(f"{where} needs the log from offset {manifest.needs_from}, and it begins at {self._start}")
        if self._task.flow == ACTIONS:
            right = self._history.right_up_to(manifest.generation)
            if manifest.position > right:
                raise UnfitError(f"{where} is older than a correction that changes records from offset {right} on")
        if before is not None and manifest.position > before:
            raise UnfitError(f"{where} lies behind position {before}, before which it is to begin")
