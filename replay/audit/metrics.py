"""What an audit that goes on and on tells Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from flows.metrics_http import new_registry
from flows.remembered import tell_remembered
from replay.audit.audit import Audited
from replay.audit.pace import Pace
from replay.audit.said import ENTITIES

_TASK = ("flow", "partition")


class Metrics:
    """Counters and gauges of one process.

    Parameters
    ----------
    pace : Pace
        Whose share of a core is told.
    """

    def __init__(self, pace: Pace) -> None:
        self.registry = new_registry()
        self._entities = Counter("tidemark_audit_entities", "Entities recomputed from the log and compared.", _TASK, registry=self.registry)
        self._mismatches = Counter(
            "tidemark_audit_mismatches", "Entities of which state and log said different things.", (*_TASK, "table"), registry=self.registry
        )
        self._failures = Counter("tidemark_audit_failures", "Audits of a task that could not be completed.", _TASK, registry=self.registry)
        self._completed = Gauge(
            "tidemark_audit_last_completed_timestamp_seconds",
            "When the task's last complete audit ended; time() less this is its age.",
            _TASK,
            registry=self.registry,
        )
        self._position = Gauge("tidemark_audit_position", "Position of state at the last complete audit.", _TASK, registry=self.registry)
        share = Gauge("tidemark_audit_cpu_ratio", "Share of one core used since the audit began.", registry=self.registry)
        share.set_function(lambda: pace.share)
        tell_remembered(self.registry)

    def observe(self, done: Audited) -> None:
        """Take in a task's audit."""
        task = (done.task.flow, str(done.task.partition))
        self._entities.labels(*task).inc(done.entities)
        self._failures.labels(*task).inc(int(done.problem is not None))
        for table in ENTITIES[done.task.flow]:
            # From 0 on, or the first one would be no increase.
            self._mismatches.labels(*task, table.name)
        for mismatch in done.mismatches:
            self._mismatches.labels(*task, mismatch.table).inc()
        if done.complete:
            self._completed.labels(*task).set_to_current_time()
            self._position.labels(*task).set(done.position or 0)
