"""Alerts and dashboards name only what is exported, parse, and fire for the fault that each is of."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.ops.exported import Metric, exported
from tests.ops.queries import ALERTS, DASHBOARDS, alerts, panels, unknown
from tests.processes import ROOT

# The second: what takes hours to fire, in longer steps.
TESTS = [Path(__file__).with_name(name) for name in ("alerts_test.yml", "alerts_of_days_test.yml")]


@pytest.fixture(scope="module")
def metrics() -> list[Metric]:
    return exported()


def promtool(*arguments: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *map(str, arguments)], input=stdin, capture_output=True, text=True, check=False)


def test_queries_name_only_what_is_exported(metrics: list[Metric]) -> None:
    queries = [*alerts(), *panels()]
    assert len(queries) > 80
    assert {name: found for name, query in queries if (found := unknown(query, metrics))} == {}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("rate(tidemark_flow_recods_total[5m])", ["metric tidemark_flow_recods_total"]),
        ('tidemark_flow_lag_records{flows="actions"}', ["label flows of tidemark_flow_lag_records"]),
        ("sum by (partition, user) (tidemark_flow_lag_records)", ["label user"]),
        ("tidemark_flow_commit_seconds > 1", ["metric tidemark_flow_commit_seconds"]),
        ("tidemark_flow_position - on (task) tidemark_online_position", ["label task"]),
        ('up{job="flows"} == 0 and tidemark_skew_smape offset 1w > 1e3', []),
    ],
)
def test_what_is_not_exported_is_found(query: str, found: list[str], metrics: list[Metric]) -> None:
    assert unknown(query, metrics) == found


def test_every_metric_of_an_alert_is_on_a_dashboard() -> None:
    """Whoever is woken up by a number wants to see it over time."""
    names = [{name for _, query in queries() for name in re.findall(r"tidemark_\w+", query)} for queries in (alerts, panels)]
    assert names[0] - names[1] == set()


@pytest.mark.promtool
def test_queries_parse(tmp_path: Path) -> None:
    rules = [{"record": f"query:{i}", "expr": query} for i, (_, query) in enumerate(panels())]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    for path in (tmp_path / "rules.yml", ALERTS):
        done = promtool("check", "rules", path)
        assert done.returncode == 0, done.stdout + done.stderr
    done = promtool("check", "config", ROOT / "deploy/prometheus/prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.promtool
def test_every_alert_fires_for_its_fault_and_clears() -> None:
    done = promtool("test", "rules", *TESTS)
    assert done.returncode == 0, done.stdout + done.stderr
    said = {
        test["name"]: [bool(each["exp_alerts"]) for each in test["alert_rule_test"]]
        for path in TESTS
        for test in yaml.safe_load(path.read_text("utf-8"))["tests"]
    }
    assert said == {name: [False, True, False] for name, _ in alerts()}


@pytest.mark.promtool
def test_an_alert_that_is_silent_would_be_found(tmp_path: Path) -> None:
    """The same fault, with a threshold that nothing reaches."""
    content = yaml.safe_load(TESTS[0].read_text("utf-8"))
    some = [test for test in content["tests"] if test["name"] == "TidemarkTaskAside"]
    (tmp_path / "alerts.yml").write_text(re.sub(r"> (0|500000)$", "> 1e18", ALERTS.read_text("utf-8"), flags=re.MULTILINE))
    (tmp_path / "test.yml").write_text(yaml.safe_dump(content | {"rule_files": ["alerts.yml"], "tests": some}))
    done = promtool("test", "rules", tmp_path / "test.yml")
    assert done.returncode != 0
    assert "TidemarkTaskAside" in done.stdout + done.stderr


def test_runbooks_are_there() -> None:
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs/runbook.md").read_text("utf-8"), re.MULTILINE)
    anchors = {f"docs/runbook.md#{re.sub(r'[^a-z0-9 -]', '', heading.lower()).replace(' ', '-')}" for heading in headings}
    rules = [rule for group in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"] for rule in group["rules"]]
    assert {rule["annotations"]["runbook"] for rule in rules} - anchors == set()
    assert all(rule["labels"]["severity"] in ("page", "ticket") and rule["annotations"]["summary"] for rule in rules)


def test_dashboards_are_whole() -> None:
    boards = {path.stem: json.loads(path.read_text("utf-8")) for path in DASHBOARDS.glob("*.json")}
    titles = {"Flows", "Freshness and lag", "Features and skew", "Drift and coverage", "Learner and models", "Replay and audit"}
    assert {board["title"] for board in boards.values()} == titles
    assert len({board["uid"] for board in boards.values()}) == len(boards)
    [source] = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text("utf-8"))["datasources"]
    for name, board in boards.items():
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            assert panel["datasource"]["uid"] == source["uid"]
            assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
            place = panel["gridPos"]
            cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            assert not cells & taken, f"{name}: {panel['title']} lies over another"
            assert max(x for x, _ in cells) < 24
            taken |= cells
