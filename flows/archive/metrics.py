"""What `tidemark archive run` tells Prometheus: what of each log is archived, what waits, and what neither has. It never ends the archiver."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flows.archive.checking import Coverage, coverage
from flows.errors import TidemarkError
from flows.log import Log
from flows.metrics_http import new_registry, scraped
from flows.open_log import log_exists, open_live_log
from flows.outputs import LOGS
from flows.settings import Settings

# An archive of months has some 100 000 segments, whose names are all read.
_LOOK_S = 15.0


def archive_metrics(settings: Settings, logs: Sequence[str]) -> CollectorRegistry:
    """The metrics of an archiver of some logs, or of all that there may be."""
    registry = new_registry()
    errors = Counter(
        "tidemark_archive_read_errors", "Times that a log or its archive could not be read for these metrics.", registry=registry
    )
    registry.register(_Covered(settings, logs or LOGS, errors))
    return registry


class _Covered(Collector):
    """What is covered, looked up when somebody asks, which comes in a thread of its own."""

    def __init__(self, settings: Settings, logs: Sequence[str], errors: Counter) -> None:
        self._settings, self._names, self._errors = scraped(settings), logs, errors
        self._asked = threading.Lock()
        self._logs: dict[str, Log] = {}
        self._found: list[Coverage] = []
        self._looked = -_LOOK_S

    def describe(self) -> Iterator[Metric]:
        """Their names; asked for without reading anything."""
        return _families([])

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        with self._asked:
            if time.monotonic() - self._looked >= _LOOK_S:
                self._look()
                self._looked = time.monotonic()
            return _families(self._found)

    def _look(self) -> None:
        found = []
        try:
            for name in self._names:
                if name not in self._logs and log_exists(self._settings, name):
                    self._logs[name] = open_live_log(self._settings, name, read_only=True)
                if name in self._logs:
                    found += [coverage(self._settings, self._logs[name], p) for p in range(self._logs[name].partitions)]
        except (TidemarkError, OSError):
            # What was known stands.
            self._errors.inc()
        else:
            self._found = found


def _families(found: Sequence[Coverage]) -> Iterator[Metric]:
    for name, text, of in (
        ("position", "Where the last segment ends.", lambda one: one.end),
        ("lag_records", "Offsets that the log has and the archive lacks.", lambda one: one.lag),
        ("missing_records", "Offsets that neither has, behind the first that either has.", lambda one: sum(b - a for a, b in one.missing)),
        ("segments", "Segments.", lambda one: one.segments),
        ("size_bytes", "What they take.", lambda one: one.bytes),
    ):
        family = GaugeMetricFamily(f"tidemark_archive_{name}", text, labels=("log", "partition"))
        for one in found:
            family.add_metric((one.log, str(one.partition)), of(one))
        yield family
