"""Every metric that Tidemark's commands export, asked of the registries that they serve: no list of names is kept here.

`python -m tests.ops.exported` prints the table of docs/metrics.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector

from flows.archive.metrics import archive_metrics
from flows.examples.record import EXAMPLES
from flows.online.metrics import Metrics as OnlineMetrics
from flows.run.main_job import tasks_of
from flows.run.metrics import Metrics as RunMetrics
from flows.settings import Settings
from flows.skew.metrics import Metrics as SkewMetrics
from flows.trends.metrics import Metrics as ReportMetrics
from online_model.learner.metrics import Metrics as LearnerMetrics
from online_model.retrain.metrics import Metrics as RetrainMetrics
from online_model.serving.metrics import Metrics as ServingMetrics
from replay.audit.metrics import Metrics as AuditMetrics
from replay.audit.pace import Pace
from replay.checkpoints.metrics import Metrics as CheckpointMetrics

EVERY = "each"
_UNITS = {"seconds": "s", "bytes": "bytes", "ratio": "ratio", "timestamp": "s since 1970"}


@dataclass(frozen=True)
class Metric:
    """A metric as a scrape names it.

    Attributes
    ----------
    name : str
        With `_total` for a counter; without `_bucket`, `_sum` and `_count`.
    kind : str
        counter, gauge, histogram or summary.
    by : tuple of str
        The commands that export it.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str
    by: tuple[str, ...]

    @property
    def unit(self) -> str:
        """Of its values, by its name."""
        words = self.name.removesuffix("_total").split("_")
        return _UNITS["timestamp"] if words[-2:] == ["timestamp", "seconds"] else _UNITS.get(words[-1], "")

    @property
    def series(self) -> dict[str, set[str]]:
        """The names that a query may use, with the labels of each."""
        labels = set(self.labels)
        if self.kind == "histogram":
            return {f"{self.name}_bucket": labels | {"le"}, f"{self.name}_sum": labels, f"{self.name}_count": labels}
        if self.kind == "summary":
            return {f"{self.name}_sum": labels, f"{self.name}_count": labels}
        return {self.name: labels}


def registries(settings: Settings) -> dict[str, Callable[[], CollectorRegistry]]:
    """What each command serves."""
    return {
        "run": lambda: RunMetrics(settings, tasks_of("all")).registry,
        "examples run": lambda: RunMetrics(settings, (EXAMPLES,)).registry,
        "archive run": lambda: archive_metrics(settings, ()),
        "online sync": lambda: OnlineMetrics().registry,
        "replay checkpoint": lambda: CheckpointMetrics().registry,
        "replay audit": lambda: AuditMetrics(Pace(None)).registry,
        "learn": lambda: LearnerMetrics().registry,
        "retrain": lambda: RetrainMetrics().registry,
        "serve": lambda: ServingMetrics().registry,
        "skew check": lambda: SkewMetrics().registry,
        "report": lambda: ReportMetrics().registry,
    }


def exported() -> list[Metric]:
    """All of them, by command."""
    found: dict[str, Metric] = {}
    with tempfile.TemporaryDirectory() as directory:
        for command, make in registries(Settings(data=Path(directory))).items():
            for one in _registered(make(), command):
                known = found.get(one.name)
                found[one.name] = one if known is None else replace(one, by=(*known.by, *(by for by in one.by if by not in known.by)))
                assert known is None or replace(known, by=()) == replace(one, by=()), f"{one.name} says two things"
    return list(found.values())


def _registered(registry: CollectorRegistry, command: str) -> Iterator[Metric]:
    for collector in list(registry._collector_to_names):
        by = (EVERY,) if isinstance(collector, ProcessCollector) else (command,)
        families: list[Any] = [collector] if hasattr(collector, "_labelnames") else list(collector.collect())
        for family in families:
            kind = getattr(family, "_type", None) or family.type
            name = getattr(family, "_name", None) or family.name
            text = getattr(family, "_documentation", None) or family.documentation
            yield Metric(name + "_total" * (kind == "counter"), kind, tuple(family._labelnames), text, by)


def table(metrics: list[Metric]) -> str:
    """As docs/metrics.md has it."""
    lines = ["| name | type | labels | unit | meaning | exported by |", "|---|---|---|---|---|---|"]
    for one in metrics:
        cells = (f"`{one.name}`", one.kind, ", ".join(one.labels), one.unit, one.meaning, ", ".join(one.by))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(exported()))
