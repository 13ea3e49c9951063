"""The Bytewax step that owns tasks: one per key, the key being the partition."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from bytewax.operators import StatefulBatchLogic

from flows.dataflow import stopping
from flows.dataflow.draining import DRAINED
from flows.dataflow.progress import Applied, reporting, tell
from flows.dataflow.source import Part
from flows.log import Log
from flows.outputs import ACTIONS
from flows.state.task import Task

GROUP_COMMIT_SECONDS = 1.0


class TaskLogic(StatefulBatchLogic[Part, Applied, None]):
    """Feeds a task with the parts of its partition.

    Parameters
    ----------
    flow : str
    make : callable
        Opens the task of a partition. Bytewax tells a step's logic no key, so the first part does (OPEN, or whatever a resumed source sends).
    log : Log
        The input, for the committed positions of the consumer group.
    group : str
    progress : int or None
        Where an error is told before it ends the process.
    """

    def __init__(self, flow: str, make: Callable[[int], Task], log: Log, group: str, progress: int | None) -> None:
        self._flow = flow
        self._progress = progress
        self._make = make
        self._task: Task | None = None
        self._log = log
        self._group = group
        self._told = 0.0

    def on_batch(self, values: list[Part]) -> tuple[Iterable[Applied], bool]:
        records = 0
        with reporting(self._progress):
            task = self._task = self._task or self._make(values[0].partition)
            for part in values:
                records += task.apply(part.batches) if part.batches else task.catch_up(part.start)
            # A hint for lag tools and for where to start; how often it is written changes no result.
            if time.monotonic() - self._told > GROUP_COMMIT_SECONDS:
                self._told = time.monotonic()
                task.afterwards(self._tell)
        return [self._applied(task, records)], False

    def on_eof(self) -> tuple[Iterable[Applied], bool]:
        if self._task is None:
            return [], True
        # Told once the outbox is empty and the state is committed: a reader downstream takes it for the end.
        with reporting(self._progress):
            self._task.close()
            self._tell()
            if self._flow == ACTIONS:
                self._log.commit_group(DRAINED, {self._task.partition: self._task.position})
        if stopping.requested():
            tell(self._progress, {"stopping": True})
        return [self._applied(self._task, 0)], True

    def snapshot(self) -> None:
        return None

    def _tell(self) -> None:
        if self._task is not None:
            self._log.commit_group(self._group, {self._task.partition: self._task.position})

    def _applied(self, task: Task, records: int) -> Applied:
        return Applied(self._flow, task.partition, task.reached, records, task.watermark)
