"""What the rounds of a report tell Prometheus: gauges of the last one that was completed.

Features, views, actions and heads are as many as are declared. Topics are what users' pins are of, so those with most labels alone have a series,
and all others one together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flows.examples.record import EXAMPLES
from flows.metrics_http import new_registry
from flows.outputs import ACTIONS, SERVED
from flows.report.words import plain
from flows.skew.drift import ENOUGH
from flows.skew.names import VIEWS
from flows.trends.actions import CODES
from flows.trends.following import Round, Window
from flows.trends.labels import OTHER
from flows.trends.values import covered, rates, views

TOPICS = 20
"""Topics that have series of their own."""
_NAME_LETTERS = 64
Shares = Mapping[str, tuple[int, int]]


class Metrics(Collector):
    """Of one report that goes on."""

    def __init__(self) -> None:
        self._round = Round({}, {}, {})
        self._failures = 0
        self._completed = 0.0
        self.registry = new_registry()
        self.registry.register(self)

    def observe(self, found: Round) -> None:
        """Take in a round."""
        self._round, self._completed = found, time.time()

    def failed(self) -> None:
        """A round could not be completed."""
        self._failures += 1

    def collect(self) -> Iterator[Metric]:
        """All of them, as the registry asks for them; a scrape comes in a thread of its own."""
        found = self._round
        yield _plain("actions_psi", "Population stability index of actions, the last day against the week before.", found.psi)
        yield from _pair("action", "Share of an action among well-formed records", ("action",), _of(found, ACTIONS, _actions(found)))
        yield from _pair("coverage", "Share of served rows with a value", ("feature",), _of(found, SERVED, covered))
        yield from _pair("found", "Share of served rows that were found", ("view",), _of(found, SERVED, _views))
        yield from _pair("label", "Share of final labels that are 1", ("head",), _of(found, EXAMPLES, rates))
        topics = GaugeMetricFamily(
            "tidemark_report_topic_label_ratio", "Share of final labels that are 1, of a topic, in the last day.", labels=("topic", "head")
        )
        for topic, counts in bounded(found.topics).items():
            for head, share in _known(rates(counts)):
                topics.add_metric((topic, head), share)
        yield topics
        ends = GaugeMetricFamily("tidemark_report_until_timestamp_seconds", "Where the last day of a log ends.", labels=("log",))
        for log, window in found.windows.items():
            ends.add_metric((log,), window.until / 1000)
        yield ends
        yield CounterMetricFamily("tidemark_report_failures", "Rounds that could not be completed.", value=self._failures)
        yield _plain(
            "last_completed_timestamp_seconds", "When the last complete round ended; time() less this is its age.", self._completed
        )


def bounded(topics: Mapping[str, np.ndarray], most: int = TOPICS) -> dict[str, np.ndarray]:
    """The topics with most labels, by names that are not too long, and all others as one."""
    out: dict[str, np.ndarray] = {}
    first = sorted((name for name in topics if name != OTHER), key=lambda name: (-int(topics[name].sum()), name))[:most]
    for name, counts in topics.items():
        shown = plain(name)[:_NAME_LETTERS] if name in first else OTHER
        out[shown] = out[shown] + counts if shown in out else counts
    return out


def _actions(found: Round) -> Callable[[np.ndarray], Shares]:
    window = found.windows.get(ACTIONS)
    # Of either side: what has fallen silent has a share of 0, not none.
    codes = [] if window is None else np.flatnonzero((window.now + window.reference)[:CODES]).tolist()

    def shares(counts: np.ndarray) -> Shares:
        total = int(counts[:CODES].sum())
        return {found.names.get(code, f"code {code}"): (int(counts[code]), total) for code in codes}

    return shares


def _views(counts: np.ndarray) -> Shares:
    return {VIEWS[kind]: share for kind, share in views(counts).items()}


def _of(found: Round, log: str, shares: Callable[[np.ndarray], Shares]) -> tuple[Shares, Shares]:
    """Of the last day, and of the week before."""
    window: Window | None = found.windows.get(log)
    return ({}, {}) if window is None else (shares(window.now), shares(window.reference))


def _pair(name: str, meaning: str, labels: tuple[str, ...], sides: tuple[Shares, Shares]) -> Iterable[Metric]:
    for infix, when, shares in (("", "in the last day", sides[0]), ("_reference", "in the week before it", sides[1])):
        gauge = GaugeMetricFamily(f"tidemark_report_{name}{infix}_ratio", f"{meaning}, {when}.", labels=labels)
        for label, share in _known(shares):
            gauge.add_metric((label,), share)
        yield gauge


def _known(shares: Shares) -> Iterator[tuple[str, float]]:
    """Shares of enough to say something."""
    for name, (count, total) in shares.items():
        if total >= ENOUGH:
            yield name, count / total


def _plain(name: str, meaning: str, value: float) -> Metric:
    gauge = GaugeMetricFamily(f"tidemark_report_{name}", meaning)
    if not math.isnan(value):
        gauge.add_metric((), value)
    return gauge
