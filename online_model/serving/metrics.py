"""What serving tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from prometheus_client import Counter, Gauge, Histogram, generate_latest

from flows.metrics_http import new_registry
from flows.served import Status
from online_model.serving.answer import Answer
from online_model.serving.rank_metrics import RankMetrics

ENDPOINTS = ("user", "pin", "topic", "batch", "rank", "retrieve", "healthz", "readyz", "metrics", "console", "other")
QUEUE_FULL, NOT_ENCODED, STOPPED = "queue_full", "not_encoded", "stopped"
"""Why a row was not kept."""
_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counters, gauges and histograms of one server."""

    def __init__(self) -> None:
        self.registry = own = new_registry()
        self.rank = RankMetrics(own)
        self._requests = Counter("tidemark_serving_requests", "Requests answered.", ("endpoint", "status"), registry=own)
        seconds = Histogram(
            "tidemark_serving_request_seconds",
            "From a request's head to the end of its answer.",
            ("endpoint",),
            buckets=_SECONDS,
            registry=own,
        )
        self._seconds = {endpoint: seconds.labels(endpoint) for endpoint in ENDPOINTS}
        rows = Counter("tidemark_serving_rows", "Entities whose features were served.", ("entity", "status"), registry=own)
        self._rows = {(kind, s): rows.labels(kind, s.name.lower()) for kind in ("user", "pin", "topic") for s in Status}
        self._errors = Counter("tidemark_serving_store_errors", "Requests that the store did not answer.", ("error",), registry=own)
        self._newest = Gauge(
            "tidemark_serving_newest_event_timestamp_seconds",
            "Greatest accepted event time that the last answer reflects; time() less this is how old features are.",
            registry=own,
        )
        self._position = Gauge(
            "tidemark_serving_position", "Position that the last answer reflects, of a task.", ("flow", "partition"), registry=own
        )
        self._kept = Counter("tidemark_served_log_rows", "Rows that are durable in SERVED.", registry=own)
        dropped = Counter("tidemark_served_log_dropped", "Rows that were served and are not in SERVED.", ("reason",), registry=own)
        # From 0 on, or the first one would be no increase.
        self._dropped = {reason: dropped.labels(reason) for reason in (QUEUE_FULL, NOT_ENCODED, STOPPED)}
        self._append = Histogram("tidemark_served_log_append_seconds", "Of one append, with its fsync.", buckets=_SECONDS, registry=own)
        self._append_errors = Counter("tidemark_served_log_append_errors", "Appends that failed, and were tried again.", registry=own)
        self._queues = {
            name: Gauge(f"tidemark_{name}", text, registry=own)
            for name, text in (
                ("served_log_waiting_rows", "Rows that wait to become durable."),
                ("served_log_waiting_bytes", "Memory that they take."),
                ("serving_waiting_requests", "Requests that wait for the store."),
                ("serving_rank_waiting_requests", "Requests that wait for a model."),
            )
        }

    def watch(self, name: str, value: Callable[[], float]) -> None:
        """Tell how much waits in a queue, whenever somebody asks."""
        self._queues[name].set_function(value)

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds[endpoint].observe(seconds)

    def answer(self, answer: Answer) -> None:
        """Count what was served."""
        for kind, statuses in (("user", answer.user_status), ("pin", answer.pin_status), ("topic", answer.topic_status)):
            if len(statuses):
                for status, number in zip(Status, np.bincount(statuses, minlength=len(Status)).tolist(), strict=True):
                    if number:
                        self._rows[kind, status].inc(number)

    def store_error(self, error: Exception) -> None:
        """Count a request that the store has not answered."""
        self._errors.labels(type(error).__name__).inc()

    def kept(self, rows: int, seconds: float) -> None:
        """Count an append."""
        self._kept.inc(rows)
        self._append.observe(seconds)

    def append_failed(self) -> None:
        """Count an append that failed."""
        self._append_errors.inc()

    def dropped(self, reason: str, rows: int) -> None:
        """Count rows that are not kept."""
        self._dropped[reason].inc(rows)

    def exposition(self, last: Answer | None) -> bytes:
        """All of them as text, with where the last answer stood."""
        if last is not None and last.prefix.positions is not None:
            if last.prefix.newest is not None:
                self._newest.set(last.prefix.newest / 1000)
            for flow, positions in last.prefix.positions.items():
                for partition, position in enumerate(positions):
                    self._position.labels(flow, str(partition)).set(position)
        return generate_latest(self.registry)
