"""What `tidemark run` and `tidemark examples run` tell Prometheus: where their tasks stand, what became of records, how long commits take.

Workers tell the run of each commit; all else is read from state and logs when somebody asks, so it is what a restart would find. It never ends a run.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flows.decode_values import REASONS
from flows.examples.record import EXAMPLES
from flows.metrics_http import new_registry
from flows.outputs import ACTIONS
from flows.run.standing import Standing, bytes_in
from flows.settings import Settings
from flows.state.meta import Meta
from flows.state.task import task_path

_COMMIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_FRESHNESS_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 86400.0)
_TASK = ("flow", "partition")


class Metrics:
    """Of one run.

    Parameters
    ----------
    settings : Settings
    flows : sequence of str
        Whose tasks the run has.
    """

    def __init__(self, settings: Settings, flows: Sequence[str]) -> None:
        self.registry = own = new_registry()
        commits = Histogram(
            "tidemark_flow_commit_seconds",
            "From when records are judged to when their commit is synced.",
            ("flow",),
            buckets=_COMMIT_SECONDS,
            registry=own,
        )
        self._commits = {flow: commits.labels(flow) for flow in flows}
        freshness = Histogram(
            "tidemark_flow_freshness_seconds",
            "From when an event arrived, the oldest of each commit, to when features have it.",
            ("flow",),
            buckets=_FRESHNESS_SECONDS,
            registry=own,
        )
        self._freshness = {flow: freshness.labels(flow) for flow in flows if flow != EXAMPLES}
        self._working_sets = Gauge(
            "tidemark_flow_working_set_bytes",
            "Memory for what a task remembers of the stream: IDs within the dedup horizon, open saves, requests that are not decided.",
            _TASK,
            registry=own,
        )
        aside = Gauge("tidemark_flow_tasks_aside", "Tasks that are set aside, for their state is damaged.", ("flow",), registry=own)
        self._aside = {flow: aside.labels(flow) for flow in flows}
        errors = Counter("tidemark_flow_read_errors", "Times that state or a log could not be read for these metrics.", registry=own)
        own.register(_Standing(settings, flows, errors))

    def commit(self, message: Mapping[str, Any], at: float) -> None:
        """Take in what a worker tells of a commit (see `flows.dataflow.progress.tell_commit`), at a time of the wall clock, seconds."""
        self._commits[message["flow"]].observe(message["commit_s"])
        if message["arrived"] is not None and message["flow"] in self._freshness:
            self._freshness[message["flow"]].observe(max(0.0, at - message["arrived"] / 1000))

    def applied(self, message: Mapping[str, Any]) -> None:
        """Take in what a worker tells of what a task has just done (see `flows.dataflow.progress.Applied`)."""
        self._working_sets.labels(message["flow"], message["partition"]).set(message["working_set"])

    def aside(self, tasks: Collection[str]) -> None:
        """Which tasks are set aside now."""
        for flow, gauge in self._aside.items():
            gauge.set(sum(task.startswith(f"{flow}/") for task in tasks))


class _Standing(Collector):
    """Where tasks stand, read when somebody asks, which comes in a thread of its own."""

    def __init__(self, settings: Settings, flows: Sequence[str], errors: Counter) -> None:
        self._settings, self._flows = settings, flows
        self._standing = Standing(settings, flows, lambda what, error: errors.inc())
        self._asked = threading.Lock()

    def describe(self) -> Iterator[Metric]:
        """Their names; asked for without reading anything."""
        return iter(self._families({}))

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        with self._asked:
            return iter(self._families(self._standing.look()))

    def _families(self, metas: Mapping[tuple[str, int], Meta]) -> list[Metric]:
        position = GaugeMetricFamily("tidemark_flow_position", "Next offset to read of its input, of what is committed.", labels=_TASK)
        lag = GaugeMetricFamily("tidemark_flow_lag_records", "Offsets of its input that are not committed yet.", labels=_TASK)
        watermark = GaugeMetricFamily(
            "tidemark_flow_watermark_timestamp_seconds", "Greatest event time applied; time() less this is its lag.", labels=_TASK
        )
        size = GaugeMetricFamily("tidemark_flow_state_bytes", "What a task's state takes on the disk.", labels=_TASK)
        records = CounterMetricFamily("tidemark_flow_records", "Records by what became of them.", labels=("flow", "outcome"))
        actions = CounterMetricFamily("tidemark_flow_actions", "Accepted events by action.", labels=("action",))
        letters = CounterMetricFamily("tidemark_flow_deadletters", "Records that could not be taken, by reason.", labels=("reason",))
        positives = CounterMetricFamily("tidemark_flow_positive_examples", "Positive examples by head.", labels=("head",))
        for (flow, partition), meta in metas.items():
            task = (flow, str(partition))
            position.add_metric(task, meta.position)
            if (behind := self._standing.lag(flow, partition, meta)) is not None:
                lag.add_metric(task, behind)
            if meta.watermark is not None:
                watermark.add_metric(task, meta.watermark / 1000)
            size.add_metric(task, bytes_in(task_path(self._settings, flow, partition)))
        # From 0 on, or the first one would be no increase.
        sums = {("deadletter", reason): 0 for reason in REASONS} | {(ACTIONS, "late"): 0} if ACTIONS in self._flows else {}
        for (flow, _), meta in metas.items():
            for name, n in meta.counts.items():
                kind, _, of = name.partition(".")
                key = (kind, of) if of else (flow, name)
                sums[key] = sums.get(key, 0) + n
        parts = {"action": actions, "deadletter": letters, "positive": positives}
        for (kind, of), n in sums.items():
            if kind in parts:
                parts[kind].add_metric((of,), n)
            else:
                records.add_metric((kind, of), n)
        families: list[Metric] = [position, lag, watermark, size, records]
        families += [actions, letters] if ACTIONS in self._flows else []
        return families + ([positives] if EXAMPLES in self._flows else [])
