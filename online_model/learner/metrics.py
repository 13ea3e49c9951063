"""What a learner tells Prometheus, and how fast it is beside what arrives. Clocks are read here and in `run.py`, and decide no row."""

from __future__ import annotations

import time

from prometheus_client import Counter, Gauge, Histogram

from flows.metrics_http import new_registry
from online_model.learner.learner import Learner
from online_model.learner.reading import Ready
from online_model.learner.step import Learned

_SECONDS = (1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 300.0, 900.0, 3600.0)


def now() -> int:
    """Wall clock, ms since 1970."""
    return time.time_ns() // 1_000_000


class Pace:
    """How fast records are learned, and how fast they arrive.

    Attributes
    ----------
    records, examples : int
        That were learned, and those among them that something was learned from.
    busy_s : float
        Spent on that.
    """

    def __init__(self) -> None:
        self.records, self.examples, self.busy_s = 0, 0, 0.0
        self._first = self._last = -1

    def add(self, ready: Ready, learned: Learned, seconds: float) -> None:
        """A micro-batch."""
        self.records += ready.records
        self.examples += learned.examples
        self.busy_s += seconds
        self._first, self._last = ready.first_ready if self._first < 0 else self._first, ready.last_ready

    @property
    def keep_up(self) -> float | None:
        """Records learned in a second that is spent on learning, by those that arrived in a second; above 1 a learner keeps up. None: unknown yet."""
        span = (self._last - self._first) / 1000
        return span / self.busy_s if span > 0 and self.busy_s > 0 else None


class Metrics:
    """Counters, gauges and a histogram of one learner."""

    def __init__(self) -> None:
        self.registry = own = new_registry()
        self._examples = Counter("tidemark_learner_examples", "Records of EXAMPLES that were learned from.", registry=own)
        self._records = Counter("tidemark_learner_records", "Records of EXAMPLES that were passed, learned from or not.", registry=own)
        self._admitted = Counter("tidemark_learner_admitted", "IDs that have got a row.", registry=own)
        self._expired = Counter("tidemark_learner_expired", "IDs that have lost their row.", registry=own)
        self._loss = Counter("tidemark_learner_loss", "Sum of the weighted losses before examples were learned from.", registry=own)
        self._freshness = Histogram(
            "tidemark_learner_freshness_seconds",
            "From when an example became known, the first of each micro-batch, to when a delta had it.",
            buckets=_SECONDS,
            registry=own,
        )
        self._deltas = Counter("tidemark_learner_deltas", "Deltas that were put out.", registry=own)
        self._gauges = {
            name: Gauge(f"tidemark_learner_{name}", text, registry=own)
            for name, text in (
                ("base", "The base that is learned on."),
                ("delta", "The last delta that was put out."),
                ("delta_published_timestamp_seconds", "When; time() less this is its age."),
                ("newest_event_timestamp_seconds", "Newest event time of what is learned."),
                ("lag_records", "Records of EXAMPLES that are not learned yet."),
                ("lag_seconds", "How long ago the last record that is learned became known, while others wait; 0 where none does."),
                ("keep_up_ratio", "Records learned in a second of work, by those that arrived in a second; below 1 it falls behind."),
            )
        }
        self._rows = Gauge("tidemark_learner_rows", "IDs that have a row.", ("table",), registry=own)

    def learned(self, ready: Ready, learned: Learned) -> None:
        """Count a micro-batch."""
        self._records.inc(ready.records)
        self._examples.inc(learned.examples)
        self._admitted.inc(learned.admitted)
        self._expired.inc(learned.expired)
        self._loss.inc(max(learned.loss, 0.0))

    def published(self, first_ready: list[int], at: int) -> None:
        """Count a delta; when the first record of each of its micro-batches became known, and the moment, ms."""
        self._deltas.inc()
        self._gauges["delta_published_timestamp_seconds"].set(at / 1000)
        for one in first_ready:
            self._freshness.observe(max(0, at - one) / 1000)

    def stands(self, learner: Learner, waiting: int, pace: Pace, at: int) -> None:
        """Where it stands."""
        said = {
            "base": learner.base.number,
            "delta": learner.delta,
            "newest_event_timestamp_seconds": learner.newest_event_time / 1000,
            "lag_records": waiting,
            "lag_seconds": max(0, at - learner.ready_time) / 1000 if waiting and learner.ready_time >= 0 else 0.0,
        }
        if pace.keep_up is not None:
            said["keep_up_ratio"] = pace.keep_up
        for name, value in said.items():
            self._gauges[name].set(value)
        for name, table in (("user", learner.tables.users), ("pin", learner.tables.pins)):
            self._rows.labels(name).set(len(table))
