"""What ranking tells Prometheus."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

PARTS = ("features", "waiting", "packing", "model", "answer")
"""Of an answer's time: reading its features (and waiting for the store), waiting for the model, features into tensors, scores, and writing JSON
and the row of SERVED. What is missing to the whole request is HTTP."""
NO_MODEL, OTHER_MODEL, DEFAULTED, ARM, OLD_MODEL, MODEL_FAILED = "no_model", "other_model", "defaulted", "arm", "old_model", "model_failed"
REASONS = (NO_MODEL, OTHER_MODEL, DEFAULTED, ARM, OLD_MODEL, MODEL_FAILED)
"""Why a request got less than it asked for: refused without a model, or for one of other features; ranked without the user's features; by the served
model in the place of its arm's; by one that is not as new as it should be; refused because the model did not answer, or not in time."""
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_CANDIDATES = (1, 10, 25, 50, 100, 200, 300, 400, 500, 750, 1000)


class RankMetrics:
    """Of one server.

    Parameters
    ----------
    registry : CollectorRegistry
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        seconds = Histogram(
            "tidemark_serving_rank_seconds", "What ranked requests spend their time on.", ("part",), buckets=_SECONDS, registry=registry
        )
        self._seconds = {part: seconds.labels(part) for part in PARTS}
        self._candidates = Histogram(
            "tidemark_serving_rank_candidates", "Candidates of a ranked request.", buckets=_CANDIDATES, registry=registry
        )
        fallbacks = Counter(
            "tidemark_serving_rank_fallbacks", "Requests that got less than they asked for.", ("reason",), registry=registry
        )
        self._fallbacks = {reason: fallbacks.labels(reason) for reason in REASONS}
        self._ranked = Counter("tidemark_serving_ranked", "Ranked requests.", ("arm",), registry=registry)
        self._explored = Counter("tidemark_serving_rank_explored_pins", "Pins that were shown by chance.", ("arm",), registry=registry)
        self._score = Summary("tidemark_serving_rank_score", "Mean score of what a request was shown.", ("arm",), registry=registry)
        self._base = Gauge("tidemark_serving_model_base", "Base that is served.", ("arm",), registry=registry)
        self._delta = Gauge("tidemark_serving_model_delta", "Last delta that its rows reflect.", ("arm",), registry=registry)
        self._newest = Gauge(
            "tidemark_serving_model_newest_event_timestamp_seconds",
            "Newest event that its rows reflect; time() less this is how old they are.",
            ("arm",),
            registry=registry,
        )
        self._healed = Gauge(
            "tidemark_serving_model_healed", "How often deltas were refused and it went on at a snapshot.", ("arm",), registry=registry
        )
        self._told: set[str] = set()

    def ranked(self, arm: str, candidates: int, scores: np.ndarray, explored: int, seconds: Mapping[str, float]) -> None:
        """Count an answer: the scores of what is shown, and how long each part took."""
        self._ranked.labels(arm).inc()
        self._candidates.observe(candidates)
        self._score.labels(arm).observe(float(scores.mean()))
        if explored:
            self._explored.labels(arm).inc(explored)
        for part, took in seconds.items():
            self._seconds[part].observe(took)

    def fell_back(self, reason: str) -> None:
        """Count a request that got less than it asked for."""
        self._fallbacks[reason].inc()

    def models(self, arms: Mapping[str, tuple[int, int, int, int]]) -> None:
        """Tell of each arm its base, delta, newest event time (ms; -1: not known) and how often it healed."""
        gauges = (self._base, self._delta, self._healed)
        for arm, (base, delta, newest, healed) in arms.items():
            for gauge, value in zip(gauges, (base, delta, healed), strict=True):
                gauge.labels(arm).set(value)
            self._newest.labels(arm).set(newest / 1000 if newest >= 0 else float("nan"))
        for arm in self._told - set(arms):
            for gauge in (*gauges, self._newest):
                gauge.remove(arm)
        self._told = set(arms)
