"""The Bytewax step that owns tasks: one per key, the key being the partition."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from bytewax.operators import StatefulBatchLogic

from flows import stopping
from flows.dataflow.aside import Holding
from flows.dataflow.lifecycle import Keeper, Lifecycle
from flows.dataflow.pace import AT_ONCE, Wait, worked
from flows.dataflow.progress import Applied, reporting, tell
from flows.dataflow.source import POLL, SOON, Part
from flows.errors import StateError


class TaskLogic(StatefulBatchLogic[Part, Applied, None]):
    """Feeds a task with the parts of its partition.

    Parameters
    ----------
    flow : str
    hold : callable
        Begins to open a partition's task. Bytewax tells a step's logic no key, so the first part does (OPEN, or whatever a resumed source sends).
    lifecycle : Lifecycle
        Told how far the task is.
    progress : int or None
        Where an error is told before it ends the process.
    """

    def __init__(self, flow: str, hold: Callable[[int], Holding], lifecycle: Lifecycle, progress: int | None) -> None:
        self._flow = flow
        self._progress = progress
        self._hold = hold
        self._holding: Holding | None = None
        self._lifecycle = lifecycle
        self._waiting: list[Part] = []
        self._partition = self._end = 0
        self._settling = False
        self._wait = Wait()

    def on_batch(self, values: list[Part]) -> tuple[Iterable[Applied], bool]:
        self._waiting += values
        self._partition, self._end = values[-1].partition, values[-1].end
        if self._holding is None:
            self._holding = self._hold(self._partition)
        return self._look(self._holding), False

    def notify_at(self) -> datetime | None:
        # One that is there is not asked: its source asks where somebody wants it, and whoever else is woken costs some ms of freshness.
        busy = self._waiting or self._settling or (self._holding is not None and self._holding.away)
        return AT_ONCE if busy else None

    def on_notify(self) -> tuple[Iterable[Applied], bool]:
        return self._look(self._holding) if self._holding is not None and self._wait.over() else [], False

    def _look(self, holding: Holding) -> list[Applied]:
        with reporting(self._progress):
            # While it opens, what other tasks have to do goes first; records are waited for, or they would pile up.
            task = holding.task(needed=any(part.batches for part in self._waiting))
            self._drop_if_away(holding)
            if task is None:
                self._wait.begin(POLL if holding.away else SOON)
                return []
            try:
                done = [self._work(task)] if self._waiting else []
                self._settling = not task.settled()
            except StateError as error:
                holding.lose(error)
                self._wait.begin(POLL)
                return []
            if holding.away and not self._waiting:
                holding.caught_up()
        if done:
            worked()
        # A task that settles is looked at so that a commit that fails ends the process even if no other record comes.
        self._wait.begin(SOON if self._waiting else POLL)
        return done

    def on_eof(self) -> tuple[Iterable[Applied], bool]:
        if self._holding is None:
            return [], True
        holding = self._holding
        done: list[Applied] = []

        def finish(task: Keeper) -> None:
            self._drop_if_away(holding)
            done.append(self._work(task, to_the_end=True))

        with reporting(self._progress):
            holding.end(finish, self._end)
        if stopping.requested():
            tell(self._progress, {"stopping": True})
        return done, True

    def snapshot(self) -> None:
        return None

    def _drop_if_away(self, holding: Holding) -> None:
        """What comes while a task is away must not pile up: it reads all that by itself, up to where the last has ended."""
        if holding.away:
            self._waiting = [Part(self._partition, self._end)]

    def _work(self, task: Keeper, to_the_end: bool = False) -> Applied:
        """Do what waits; of what the task must read by itself one stretch, and the rest at the next notification, if nothing waits behind it."""
        records, before, refused = 0, task.reached, task.refused
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
        advanced, now_refused = task.reached - before, task.refused - refused
        return Applied(self._flow, task.partition, task.reached, advanced, records, now_refused, task.seen, task.working_set_bytes)
