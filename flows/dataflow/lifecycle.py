"""When the tasks of a flow open and close, and how far they say they are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol

from flows.errors import StateError
from flows.log import Log, LogBatch

_TELL_SECONDS = 1.0
# Closing is mostly waiting for the disk.
_CLOSERS = 4


class Keeper(Protocol):
    """What a partition's records are given to: a task with its state, or the archiver. See `flows.state.task.Task`."""

    partition: int
    reached: int
    seen: int | None
    refused: int

    @property
    def position(self) -> int: ...
    @property
    def working_set_bytes(self) -> int: ...
    def apply(self, batches: Sequence[LogBatch], decoded: Any = None) -> int: ...
    def catch_up(self, position: int) -> int: ...
    def settled(self) -> bool: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...


class Lifecycle:
    """Opens and closes the tasks of one flow in a process, beside their work, and commits their positions to consumer groups.

    Positions are a hint, for lag tools and for where to start: how often they are written changes no result. That is once for all tasks.

    Parameters
    ----------
    log : callable
        The flow's input.
    group : str
    drained : str or None
        A second group, committed when all have closed: then outboxes are empty, and a reader downstream may take it for the end. What has been left
        out counts as having come to its end there, for nobody must wait for it; not in `group`, which says how far state is.
    """

    def __init__(self, log: Callable[[], Log], group: str, drained: str | None) -> None:
        self._log = log
        self._group = group
        self._drained = drained
        # In the order in which they are asked for: opening keeps Python's lock, so the first task would only wait for the others.
        self._opener = ThreadPoolExecutor(max_workers=1, thread_name_prefix="opening")
        self._closer = ThreadPoolExecutor(max_workers=_CLOSERS, thread_name_prefix="closing")
        self._lock = threading.Lock()
        self._open = 0
        self._ended = False
        self._closing: list[Future[None]] = []
        self._moved: dict[int, Keeper] = {}
        self._closed: dict[int, int] = {}
        self._left_out: dict[int, int] = {}
        self._told: dict[int, int] = {}
        self._timer: threading.Timer | None = None
        self._telling: Future[None] | None = None

    def open(self, make: Callable[[], Keeper]) -> Future[Keeper]:
        """Open a task, to be closed by `close`."""
        with self._lock:
            self._open += 1
        return self._opener.submit(make)

    def reached(self, task: Keeper) -> None:
        """Note that a task has moved. Its position is told within a second or two of its commits, whether or not anything comes after them."""
        with self._lock:
            self._moved[task.partition] = task
            telling = self._telling
            self._tell_later()
        if telling is not None and telling.done():
            telling.result()

    def _tell_later(self) -> None:
        if self._timer is None and not self._ended:
            self._timer = threading.Timer(_TELL_SECONDS, self._tell)
            self._timer.daemon = True
            self._timer.start()

    def _tell(self) -> None:
        """Tell where tasks are that have moved, and look again as long as any of them has commits under way."""
        with self._lock:
            self._timer = None
            if self._ended:
                return
            free = self._telling is None or (self._telling.done() and self._telling.exception() is None)
            now = {partition: task.position for partition, task in self._moved.items()}
            new = {partition: position for partition, position in now.items() if self._told.get(partition) != position}
            if new and free:
                self._told |= new
                # Of a process that is about to end otherwise nothing is told.
                with suppress(RuntimeError):
                    # Beside the work: it waits for whoever appends to the log, and for the disk.
                    self._telling = self._opener.submit(self._commit_group, new)
            if (new and not free) or any(task.position < task.reached for task in self._moved.values()):
                self._tell_later()

    def _commit_group(self, positions: dict[int, int]) -> None:
        with self._lock:
            # Not of those that were let go of meanwhile: whoever asked for them may tell where they begin anew.
            positions = {partition: position for partition, position in positions.items() if partition in self._moved}
        if positions:
            self._log().commit_group(self._group, positions)

    def reopen(self, make: Callable[[], Keeper]) -> Future[Keeper]:
        """Open once more a task that was let go of."""
        return self._opener.submit(make)

    def let_go(self, partition: int, release: Callable[[], None]) -> Future[None]:
        """Close or abandon a task that is to be opened again, or left out; where it is is told no more until then."""
        with self._lock:
            self._moved.pop(partition, None)
            self._told.pop(partition, None)
        return self._closer.submit(release)

    def close(self, task: Keeper, damaged: Callable[[StateError], None]) -> None:
        """Close a task. The last one waits until all have closed, raises what went wrong with any, and tells their positions.

        Parameters
        ----------
        damaged : callable
            Given damage that is found only now; the task is left out then. May be called in another thread.
        """
        self._end(self._closer.submit(self._close, task, damaged))

    def leave_out(self, partition: int, end: int) -> None:
        """Do without a task from now on, where `close` would end it; `end` is where its input ends."""
        with self._lock:
            self._left_out[partition] = end
        self._end(None)

    def _end(self, closing: Future[None] | None) -> None:
        with self._lock:
            self._open -= 1
            if closing is not None:
                self._closing.append(closing)
            last = self._ended = self._open == 0
        if last:
            for one in self._closing:
                one.result()
            if self._telling is not None:
                self._telling.result()
            self._log().commit_group(self._group, dict(self._closed))
            if self._drained is not None:
                self._log().commit_group(self._drained, {**self._closed, **self._left_out})

    def _close(self, task: Keeper, damaged: Callable[[StateError], None]) -> None:
        try:
            task.close()
        except StateError as error:
            self._left_out[task.partition] = task.reached
            damaged(error)
        else:
            self._closed[task.partition] = task.position
