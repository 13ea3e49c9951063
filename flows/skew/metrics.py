"""What checks tell Prometheus. Counters add up over the rounds of a check; gauges are of the last round that was completed.

Numbers lie here and are told when they are asked for. In the client's own counters they would lie in files that all of a process share wherever
PROMETHEUS_MULTIPROC_DIR is set, as Feast sets it, and a check would begin with what another has counted.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flows.metrics_http import new_registry
from flows.remembered import tell_remembered
from flows.skew.causes import CAUSES
from flows.skew.check import Checked
from flows.skew.names import VIEWS


class Metrics(Collector):
    """Counters and gauges of one check."""

    def __init__(self) -> None:
        # From 0 on, or the first one would be no increase.
        self._rows: Counter[str] = Counter(dict.fromkeys(VIEWS.values(), 0))
        self._causes: Counter[tuple[str, str]] = Counter({(view, cause.name): 0 for view in VIEWS.values() for cause in CAUSES})
        self._failures = 0
        self._match: dict[str, float] = {}
        self._difference: dict[str, float] = {}
        self._smape: dict[str, float] = {}
        self._findings = 0
        self._completed = 0.0
        self.registry = new_registry()
        self.registry.register(self)
        tell_remembered(self.registry)

    def observe(self, checked: Checked) -> None:
        """Take in a check."""
        for kind, rows in checked.rows.items():
            self._rows[VIEWS[kind]] += rows
        for found in checked.causes:
            for kind, rows in found.rows.items():
                self._causes[VIEWS[kind], found.cause.name] += rows
        for one in checked.figures:
            if not one.rows:
                continue
            self._match[one.feature.name] = one.match_rate
            if one.max_difference is not None and one.smape is not None:
                self._difference[one.feature.name] = one.max_difference
                self._smape[one.feature.name] = one.smape
        self._findings = checked.findings
        self._completed = time.time()

    def failed(self) -> None:
        """A check could not be completed."""
        self._failures += 1

    def collect(self) -> Iterator[Metric]:
        """All of them, as the registry asks for them; a scrape comes in a thread of its own."""
        rows = CounterMetricFamily("tidemark_skew_rows", "Served rows recomputed and compared.", labels=("view",))
        for view, n in list(self._rows.items()):
            rows.add_metric((view,), n)
        yield rows
        causes = CounterMetricFamily(
            "tidemark_skew_mismatches", "Served rows that differ, or could not be compared, by cause.", labels=("view", "cause")
        )
        for labels, n in list(self._causes.items()):
            causes.add_metric(labels, n)
        yield causes
        yield CounterMetricFamily("tidemark_skew_failures", "Checks that could not be completed.", value=self._failures)
        for name, meaning, values in (
            ("match_ratio", "Share of rows that are equal to the bit.", self._match),
            ("max_difference", "Greatest absolute difference.", self._difference),
            ("smape", "Symmetric mean absolute percentage error, 0 to 2.", self._smape),
        ):
            gauge = GaugeMetricFamily(f"tidemark_skew_{name}", meaning, labels=("feature",))
            for feature, value in list(values.items()):
                gauge.add_metric((feature,), value)
            yield gauge
        yield GaugeMetricFamily("tidemark_skew_findings", "Rows with a cause that says that something is wrong.", value=self._findings)
        yield GaugeMetricFamily(
            "tidemark_skew_last_completed_timestamp_seconds",
            "When the last complete check ended; time() less this is its age.",
            value=self._completed,
        )
