"""SIGTERM and Ctrl-C at the process that started workers: they are asked to stop, and waited for."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from flows.run.workers import Workers


class Stopping:
    """A request to stop, that may come before there are workers to hand it to."""

    def __init__(self) -> None:
        self._requested = False
        self._running: Workers | None = None

    def request(self, *_: object) -> None:
        """Ask for it; the handler of a signal."""
        self._requested = True
        if self._running is not None:
            self._running.stop()

    def begin(self, running: Workers) -> None:
        """There are workers now."""
        self._running = running
        if self._requested:
            running.stop()


@contextmanager
def stopping_on_signals() -> Iterator[Stopping]:
    """SIGTERM and Ctrl-C ask the workers to stop, and wait for them."""
    stopping = Stopping()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    previous = {number: signal.signal(number, stopping.request) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
