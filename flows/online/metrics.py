"""What `tidemark online sync --follow` tells Prometheus: how far Redis is, round by round."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from flows.metrics_http import new_registry
from flows.online.follower import Synced
from flows.outputs import ACTIONS, REVISITS

_TASK = ("flow", "partition")


class Metrics:
    """Of one follower."""

    def __init__(self) -> None:
        self.registry = own = new_registry()
        self._position = Gauge("tidemark_online_position", "Position of state that was brought to Redis.", _TASK, registry=own)
        values = Counter("tidemark_online_values", "Values written to Redis.", ("flow",), registry=own)
        self._values = {flow: values.labels(flow) for flow in (ACTIONS, REVISITS)}
        self._completed = Gauge(
            "tidemark_online_last_completed_timestamp_seconds",
            "When the last complete round ended; time() less this is its age.",
            registry=own,
        )
        self._failures = Counter("tidemark_online_failures", "Rounds that could not be completed.", registry=own)

    def synced(self, done: Synced) -> None:
        """A task was brought to where its state is, or was there."""
        self._position.labels(done.flow, str(done.partition)).set(done.position)
        self._values[done.flow].inc(done.fields)

    def completed(self) -> None:
        """A round has ended."""
        self._completed.set_to_current_time()

    def failed(self) -> None:
        """A round could not be completed."""
        self._failures.inc()
