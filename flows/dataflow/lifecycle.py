"""Tasks open and close beside each other and beside the kernels: both are mostly waiting for the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from flows.state.task import Task

_THREADS = 4


class Lifecycle:
    """Opens and closes the tasks of a process. A process must not end before all have closed: the last one waits for them."""

    def __init__(self) -> None:
        # In the order in which they are asked for: opening holds Python's lock, so the first task would wait for all.
        self._opener = ThreadPoolExecutor(max_workers=1, thread_name_prefix="opening")
        self._closer = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="closing")
        self._closing: list[Future[None]] = []
        self._lock = threading.Lock()
        self._open = 0

    def open(self, make: Callable[[], Task]) -> Future[Task]:
        """Open a task. Every one must be closed by `close`."""
        with self._lock:
            self._open += 1
        return self._opener.submit(make)

    def close(self, close: Callable[[], None]) -> None:
        """Close a task. The last one waits until all have closed, and raises what went wrong with any."""
        with self._lock:
            self._open -= 1
            self._closing.append(self._closer.submit(close))
            last = self._closing if self._open == 0 else []
        for closing in last:
            closing.result()
