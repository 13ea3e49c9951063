"""What working sets take in this process just now: of its tasks, or of the partitions that a check goes through."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Protocol
from weakref import WeakSet

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


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
    registry.register(_Told())


class _Told(Collector):
    # Not the client's own gauge: it would make a file wherever PROMETHEUS_MULTIPROC_DIR is set, as Feast sets it.
    def collect(self) -> Iterator[Metric]:
        meaning = "Memory for what is remembered of the stream, of the partitions gone through just now."
        yield GaugeMetricFamily("tidemark_working_set_bytes", meaning, value=remembered_bytes())
