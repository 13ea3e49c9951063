"""docs/skew.md names every cause, metric and option."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from flows.skew.causes import CAUSES
from flows.skew.check_command import check
from flows.skew.drift import ENOUGH, MOVED, MOVING
from flows.skew.drift_command import drift
from flows.skew.metrics import Metrics

DOCS = (Path(__file__).parents[2] / "docs" / "skew.md").read_text("utf-8")


def test_causes() -> None:
    rows = [line.split("|") for line in DOCS.splitlines() if line.startswith("| `") and line.count("|") == 5]
    assert [(row[1].strip().strip("`"), row[2].strip()) for row in rows] == [
        (cause.name, "no" if cause.benign else "yes") for cause in CAUSES
    ]


def test_metrics() -> None:
    for family in Metrics().registry.collect():
        if family.name.startswith("tidemark_"):
            assert f"`{family.name}{'_total' * (family.type == 'counter')}" in DOCS


@pytest.mark.parametrize("command", [check, drift])
def test_options(command: click.Command) -> None:
    # What needs no word of explanation.
    plain = {"--json", "--metrics-address", "--help"}
    options = {option for parameter in command.params for option in parameter.opts} - plain
    assert {option for option in options if option not in DOCS and option not in ("--data", "--config")} == set()


def test_thresholds() -> None:
    assert f"Below **{MOVING}**" in DOCS
    assert f"from **{MOVED}** on" in DOCS
    assert f"fewer than **{ENOUGH}** records" in DOCS
