"""SIGTERM and Ctrl-C as a flag that sources look at.

Untreated, SIGTERM ends a Bytewax process undrained, and an exception in a handler panics it. So the handler only sets a flag; sources then end,
tasks commit and save their working set, and the process exits with 0.
"""

from __future__ import annotations

import signal
import threading
from typing import Any

_requested = threading.Event()


def requested() -> bool:
    """Whether this process was asked to stop."""
    return _requested.is_set()


def listen() -> None:
    """Take SIGTERM and SIGINT as requests to stop; a second SIGINT interrupts as usual. Only the main thread can."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _request)
        signal.signal(signal.SIGINT, _request)


def _request(number: int, frame: Any) -> None:
    _requested.set()
    if number == signal.SIGINT:
        signal.signal(signal.SIGINT, signal.default_int_handler)
