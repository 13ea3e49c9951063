"""SIGTERM, Ctrl-C and the end of whoever reads our progress, as a flag that sources look at, and whoever waits for long.

Untreated, SIGTERM ends a Bytewax process undrained, and an exception in a handler panics it. So the handler only sets a flag; sources then end,
tasks commit and save their working set, and the process exits with 0.
"""

from __future__ import annotations

import select
import signal
import threading
import time
from typing import Any

# No threading.Event: a second signal may come while the handler of the first holds the event's lock, and would wait for it for ever.
_requested = False
_requested_at = 0.0


def requested() -> bool:
    """Whether this process was asked to stop."""
    return _requested


def overdue(begun: float, seconds: float) -> bool:
    """Whether this process was asked to stop, and what began at a time of the monotonic clock has waited for so long since both."""
    return _requested and time.monotonic() - max(begun, _requested_at) > seconds


def wait(seconds: float) -> bool:
    """Wait until this process is asked to stop, or for so long; whether it was asked."""
    end = time.monotonic() + seconds
    while not _requested and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))
    return _requested


def request() -> None:
    """Ask this process to stop."""
    _set()


def listen() -> None:
    """Take SIGTERM and SIGINT as requests to stop; a second SIGINT interrupts as usual. Only the main thread can."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _request)
        signal.signal(signal.SIGINT, _request)


def stop_without_reader(descriptor: int | None) -> None:
    """Take it as a request to stop when nobody reads a pipe any more: a run that was killed must not leave workers behind."""
    if descriptor is not None:
        threading.Thread(target=_await_end, args=(descriptor,), name="awaiting-the-readers-end", daemon=True).start()


def _await_end(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, 0)  # nothing but the end is told
    if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll()):
        _set()


def _set() -> None:
    global _requested, _requested_at
    if not _requested:
        _requested_at = time.monotonic()
    _requested = True


def _request(number: int, frame: Any) -> None:
    _set()
    if number == signal.SIGINT:
        signal.signal(signal.SIGINT, signal.default_int_handler)
