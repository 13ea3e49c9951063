"""The Bytewax step that owns tasks: one per key, the key being the partition."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from datetime import datetime

from bytewax.operators import StatefulBatchLogic

from flows import stopping
from flows.dataflow.lifecycle import Keeper, Lifecycle
from flows.dataflow.pace import AT_ONCE, Wait, worked
from flows.dataflow.progress import Applied, reporting, tell
from flows.dataflow.source import POLL, SOON, Part


class TaskLogic(StatefulBatchLogic[Part, Applied, None]):
    """Feeds a task with the parts of its partition.

    Parameters
    ----------
    flow : str
    make : callable
        Opens the task of a partition. Bytewax tells a step's logic no key, so the first part does (OPEN, or whatever a resumed source sends).
    lifecycle : Lifecycle
        Opens and closes tasks.
    progress : int or None
        Where an error is told before it ends the process.
    """

    def __init__(self, flow: str, make: Callable[[int], Keeper], lifecycle: Lifecycle, progress: int | None) -> None:
        self._flow = flow
        self._progress = progress
        self._make = make
        self._opening: Future[Keeper] | None = None
        self._lifecycle = lifecycle
        self._waiting: list[Part] = []
        self._settling = False
        self._wait = Wait()

    def on_batch(self, values: list[Part]) -> tuple[Iterable[Applied], bool]:
        self._waiting += values
        if self._opening is None:
            self._opening = self._lifecycle.open(lambda: self._make(values[0].partition))
        return self._look()

    def notify_at(self) -> datetime | None:
        return AT_ONCE if self._waiting or self._settling else None

    def on_notify(self) -> tuple[Iterable[Applied], bool]:
        return self._look() if self._wait.over() else ([], False)

    def _look(self) -> tuple[Iterable[Applied], bool]:
        # While it opens, what other tasks have to do goes first; records are waited for, or they would pile up.
        if self._opening is None or not (self._opening.done() or any(part.batches for part in self._waiting)):
            self._wait.begin(SOON)
            return [], False
        with reporting(self._progress):
            task = self._opening.result()
            done = [self._work(task)] if self._waiting else []
            self._settling = not task.settled()
        if done:
            worked()
        # A task that settles is looked at so that a commit that fails ends the process even if no other record comes.
        self._wait.begin(SOON if self._waiting else POLL)
        return done, False

    def on_eof(self) -> tuple[Iterable[Applied], bool]:
        if self._opening is None:
            return [], True
        with reporting(self._progress):
            task = self._opening.result()
            done = self._work(task, to_the_end=True)
            self._lifecycle.close(task)
        if stopping.requested():
            tell(self._progress, {"stopping": True})
        return [done], True

    def snapshot(self) -> None:
        return None

    def _work(self, task: Keeper, to_the_end: bool = False) -> Applied:
        """Do what waits; of what the task must read by itself one stretch, and the rest at the next notification, if nothing waits behind it."""
        records, before = 0, task.reached
        while self._waiting and not stopping.requested():
            part = self._waiting[0]
            if part.batches:
                records += task.apply(part.batches, part.decoded)
            elif task.reached < part.start:
                records += task.catch_up(part.start)
                if len(self._waiting) == 1 and not to_the_end:
                    break
                continue
            del self._waiting[0]
        self._lifecycle.reached(task)
        return Applied(self._flow, task.partition, task.reached, task.reached - before, records, task.watermark)
