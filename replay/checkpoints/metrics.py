"""What `tidemark replay checkpoint --every` tells Prometheus: how old each task's newest checkpoint is."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from flows.metrics_http import new_registry
from replay.checkpoints.manifest import Manifest
from replay.tasks import TaskName

_TASK = ("flow", "partition")


class Metrics:
    """Of one process, for tasks that it makes checkpoints of."""

    def __init__(self) -> None:
        self.registry = own = new_registry()
        self._made = Gauge(
            "tidemark_checkpoint_checked_timestamp_seconds",
            "When the newest checkpoint was last found to be where state is; time() less this is how far back a restore goes.",
            _TASK,
            registry=own,
        )
        self._position = Gauge("tidemark_checkpoint_position", "Position of the newest checkpoint.", _TASK, registry=own)
        self._bytes = Gauge(
            "tidemark_checkpoint_size_bytes", "What the newest checkpoint holds, shared with older ones or not.", _TASK, registry=own
        )
        self._written = Counter("tidemark_checkpoint_written_bytes", "Written for checkpoints.", _TASK, registry=own)
        self._failures = Counter("tidemark_checkpoint_failures", "Checkpoints of a task that could not be made.", _TASK, registry=own)

    def begin(self, task: TaskName) -> None:
        """A task that will be told of: from 0 on, or its first failure would be no increase."""
        self._failures.labels(task.flow, str(task.partition))

    def made(self, task: TaskName, manifest: Manifest, written: int) -> None:
        """A task's newest checkpoint is where its state was a moment ago; so many bytes were written for it, none if it was there."""
        labels = (task.flow, str(task.partition))
        self._made.labels(*labels).set_to_current_time()
        self._position.labels(*labels).set(manifest.position)
        self._bytes.labels(*labels).set(manifest.bytes)
        self._written.labels(*labels).inc(written)

    def failed(self, task: TaskName) -> None:
        """One could not be made."""
        self._failures.labels(task.flow, str(task.partition)).inc()
