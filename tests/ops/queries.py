"""Every query of alerts and dashboards, and whether what it names is exported."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import yaml

from tests.ops.exported import Metric
from tests.processes import ROOT

ALERTS = ROOT / "deploy/prometheus/alerts.yml"
DASHBOARDS = ROOT / "deploy/grafana/dashboards"
# What Prometheus has of itself: of each target, and of each alert.
_OF_TARGETS = {"job", "instance"}
_OWN = {"up": set[str](), "ALERTS": {"alertname", "alertstate", "severity"}}
_STRING = r'"(?:[^"\\]|\\.)*"'
_SELECTOR = re.compile(rf"(?<![\w.])([A-Za-z_:][\w:]*)(?![\w:])\s*(?:\{{((?:[^{{}}\"]|{_STRING})*)\}})?(?![\s]*[({{])")
_MATCHER = re.compile(rf"([A-Za-z_]\w*)\s*(?:=~|!~|!=|=)\s*{_STRING}")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)\)")
_WORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "offset", "bool", "inf", "nan"}


def alerts() -> Iterator[tuple[str, str]]:
    """(name, query) of each alert."""
    for group in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def panels() -> Iterator[tuple[str, str]]:
    """(dashboard and panel, query) of each panel's targets, with Grafana's own interval filled in."""
    for path in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(path.read_text("utf-8"))["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"].replace("$__rate_interval", "1m")


def unknown(query: str, metrics: list[Metric]) -> list[str]:
    """Names and labels in a query that nobody exports."""
    series = {**_OWN, **{name: labels for one in metrics for name, labels in one.series.items()}}
    found, labels = [], set(_OF_TARGETS)
    bare = _GROUPING.sub(" ", query)
    for name, matchers in _SELECTOR.findall(re.sub(r"\[[^\]]*\]|\boffset\s+\w+", " ", bare)):
        if name in _WORDS or name.endswith("_over_time"):
            continue
        if name not in series:
            found.append(f"metric {name}")
            continue
        labels |= series[name]
        matched = {match[1] for match in _MATCHER.finditer(matchers)}
        found += [f"label {label} of {name}" for label in sorted(matched - series[name] - _OF_TARGETS)]
    for group in _GROUPING.findall(query):
        found += [f"label {label}" for label in re.split(r"[,\s]+", group.strip()) if label and label not in labels]
    return found
