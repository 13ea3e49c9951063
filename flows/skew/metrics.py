"""What checks tell Prometheus. Counters add up over the rounds of a process; gauges are of the last round that was completed."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from flows.metrics_http import new_registry
from flows.skew.causes import CAUSES
from flows.skew.check import Checked
from flows.skew.names import VIEWS


class Metrics:
    """Counters and gauges of one process."""

    def __init__(self) -> None:
        self.registry = new_registry()
        self._rows = Counter("tidemark_skew_rows", "Served rows recomputed and compared.", ("view",), registry=self.registry)
        self._causes = Counter(
            "tidemark_skew_mismatches",
            "Served rows that differ, or could not be compared, by cause.",
            ("view", "cause"),
            registry=self.registry,
        )
        self._failures = Counter("tidemark_skew_failures", "Checks that could not be completed.", registry=self.registry)
        self._match = Gauge("tidemark_skew_match_ratio", "Share of rows that are equal to the bit.", ("feature",), registry=self.registry)
        self._difference = Gauge("tidemark_skew_max_difference", "Greatest absolute difference.", ("feature",), registry=self.registry)
        self._smape = Gauge(
            "tidemark_skew_smape", "Symmetric mean absolute percentage error, 0 to 2.", ("feature",), registry=self.registry
        )
        self._findings = Gauge("tidemark_skew_findings", "Rows with a cause that says that something is wrong.", registry=self.registry)
        self._completed = Gauge(
            "tidemark_skew_last_completed_timestamp_seconds",
            "When the last complete check ended; time() less this is its age.",
            registry=self.registry,
        )
        for view in VIEWS.values():
            self._rows.labels(view)
            for cause in CAUSES:
                # From 0 on, or the first one would be no increase.
                self._causes.labels(view, cause.name)

    def observe(self, checked: Checked) -> None:
        """Take in a check."""
        for kind, rows in checked.rows.items():
            self._rows.labels(VIEWS[kind]).inc(rows)
        for found in checked.causes:
            for kind, rows in found.rows.items():
                self._causes.labels(VIEWS[kind], found.cause.name).inc(rows)
        for one in checked.figures:
            if not one.rows:
                continue
            self._match.labels(one.feature.name).set(one.match_rate)
            if one.max_difference is not None and one.smape is not None:
                self._difference.labels(one.feature.name).set(one.max_difference)
                self._smape.labels(one.feature.name).set(one.smape)
        self._findings.set(checked.findings)
        self._completed.set_to_current_time()

    def failed(self) -> None:
        """A check could not be completed."""
        self._failures.inc()
