"""Reading ahead: one thread per process that reads and decodes what partitions will ask for, beside the kernels.

Compiled loops hold no lock of Python's, nor do SQLite, lz4 and numpy's loops for most of what they do here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")

DEPTH = 2
"""Stretches that may lie read and not taken, over all partitions: what bounds memory. Two keep the kernels busy."""


class Ahead(Generic[T]):
    """Does jobs in the order in which they were given; no more than DEPTH lie done and untaken unless somebody waits for a later one."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[Callable[[], T], Future[T]]] = SimpleQueue()
        self._changed = threading.Condition()
        self._untaken = 0
        self._awaited = 0
        self._started = False

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Have a job done. Its future must be given once to `take` or `drop`."""
        with self._changed:
            if not self._started:
                self._started = True
                # A daemon: it only reads, and a process that fails must not wait for it.
                threading.Thread(target=self._run, name="reading-ahead", daemon=True).start()
        future: Future[T] = Future()
        self._jobs.put((job, future))
        return future

    def take(self, future: Future[T]) -> T:
        """What a job gave, or raise what it raised; waits for it."""
        with self._changed:
            self._awaited += 1
            self._changed.notify()
        try:
            return future.result()
        finally:
            with self._changed:
                self._awaited -= 1
                self._untaken -= 1
                self._changed.notify()

    def drop(self, future: Future[T]) -> None:
        """Do without what a job gives."""
        if not future.cancel():
            with suppress(Exception):
                self.take(future)

    def _run(self) -> None:
        while True:
            job, future = self._jobs.get()
            with self._changed:
                self._changed.wait_for(lambda: self._untaken < DEPTH or self._awaited > 0)
                if not future.set_running_or_notify_cancel():
                    continue
                self._untaken += 1
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)
            # Or the last stretch would be kept until the next job comes.
            del job, future
