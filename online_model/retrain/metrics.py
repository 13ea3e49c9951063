"""What `tidemark retrain --schedule` tells Prometheus: how the last retrains ended, and when the next one is due."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from flows.metrics_http import new_registry

ENDS = ("published", "refused", "nothing_new", "failed", "passed_over")


class Metrics:
    """Of one scheduler. An alert's rule is `tidemark_retrain_refused == 1`, or that the last one published is too long ago."""

    def __init__(self) -> None:
        self.registry = own = new_registry()
        ended = Counter("tidemark_retrain_ended", "Retrains, by how they ended.", ("how",), registry=own)
        # From 0 on, or the first one would be no increase.
        self._ended = {how: ended.labels(how) for how in ENDS}
        self._refused = Gauge("tidemark_retrain_refused", "1 if the gate refused the last one that it judged, else 0.", registry=own)
        self._published = Gauge(
            "tidemark_retrain_last_published_timestamp_seconds", "Moment of the last retrain that was published; 0: none.", registry=own
        )
        self._base = Gauge("tidemark_retrain_last_base", "The base that it made.", registry=own)
        self._due = Gauge("tidemark_retrain_next_due_timestamp_seconds", "When the next one is due.", registry=own)

    def ended(self, how: str) -> None:
        """One has ended: one of ENDS."""
        self._ended[how].inc()
        if how in ("published", "refused"):
            self._refused.set(how == "refused")

    def published(self, base: int, as_of: int) -> None:
        """A base is served from now on."""
        self._base.set(base)
        self._published.set(as_of / 1000)

    def due(self, at: int | None) -> None:
        """When the next one is due, ms."""
        self._due.set(0 if at is None else at / 1000)
