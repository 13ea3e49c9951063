"""What working sets take in this process just now: of its tasks, or of the partitions that a check goes through."""

from __future__ import annotations

import threading
from typing import Protocol
from weakref import WeakSet

from prometheus_client import CollectorRegistry, Gauge


class _Sized(Protocol):
    @property
    def size(self) -> int: ...


_known: WeakSet[_Sized] = WeakSet()
# Metrics are asked for in threads of their own, while others begin.
_lock = threading.Lock()


def remember(one: _Sized) -> None:
    """Count this, as long as it lives."""
    with _lock:
        _known.add(one)


def remembered_bytes() -> int:
    """Bytes that all of them take."""
    with _lock:
        return sum(one.size for one in _known)


def tell_remembered(registry: CollectorRegistry) -> None:
    """Have Prometheus told."""
    gauge = Gauge(
        "tidemark_working_set_bytes",
        "Memory for what is remembered of the stream, of the partitions gone through just now.",
        registry=registry,
    )
    gauge.set_function(remembered_bytes)
