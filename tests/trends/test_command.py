"""`tidemark report`, as people and CI call it; and docs/report.md names its options and metrics."""

from __future__ import annotations

import json
import re
import signal
import urllib.request
from pathlib import Path

import click
import pytest

from flows import report_command
from flows.report_command import PAGE, report
from flows.skew.drift import ENOUGH, MOVED, MOVING
from flows.trends.following import Round
from flows.trends.gathering import gather
from flows.trends.labels import MOST_TOPICS
from flows.trends.metrics import TOPICS, Metrics
from flows.trends.sums import MOST, Counting, Period
from flows.trends.told import as_json
from tests.examples.playing import DAY, START
from tests.processes import ROOT, Ended, await_true, end_all, ended, refused, start, tidemark
from tests.trends.sites import PARTITIONS, Site

DOCS = (ROOT / "docs/report.md").read_text("utf-8")


def told(site: Site, *arguments: object, code: int = 0) -> Ended:
    return tidemark("report", *arguments, data=site.settings.data, code=code, partitions=PARTITIONS)


def test_the_whole_history_and_what_moves(site: Site, tmp_path: Path) -> None:
    done = told(site, "--json", "--html", tmp_path / "report.html")
    said = done.json()
    want = as_json(gather(site.settings))
    assert {name: said[name] for name in want} == json.loads(json.dumps(want))
    assert said["history"]["counts"]["records"] == len(site.records)
    assert said["history"]["counts"]["late"] == said["volume"]["late"]
    assert sum(map(sum, said["history"]["deadletters"].values())) == said["volume"]["dead"]
    page = (tmp_path / "report.html").read_text("utf-8")
    for heading in ("Labels of saves", "Events by action", "Share of each action", "Coverage of features", "Rates by topic"):
        assert heading in page
    shown = told(site, "--out", tmp_path / "again.html").out
    assert "PSI of actions" in shown
    assert "again.html: open it in a browser" in shown
    assert (tmp_path / "again.html").read_text("utf-8") == page


def test_a_period_alone(site: Site, tmp_path: Path) -> None:
    first, until = START + DAY, START + 5 * DAY
    options = ("--from", first, "--to", until, "--by", "hour", "--reference", f"..{first + DAY}")
    done = told(site, *options, "--json", "--fail-above", 1e6, "--html", tmp_path / "part.html")
    want = as_json(gather(site.settings, Counting(Period(first, until), Period(None, first + DAY), 3_600_000)))
    assert done.json() == json.loads(json.dumps(want)) | {"history": None}
    page = (tmp_path / "part.html").read_text("utf-8")
    assert "Share of each action" in page
    assert "Labels of saves" not in page


def test_actions_that_moved_fail_a_build(site: Site) -> None:
    done = told(site, "--from", START, "--json", "--fail-above", MOVED, code=1)
    assert done.json()["actions"]["psi"] > MOVED
    assert re.fullmatch(r"actions have moved by a PSI of \d\.\d{3}, more than 0\.2\n", done.err)


@pytest.mark.parametrize(
    ("options", "now", "before"),
    [
        (("--from", START + 400 * DAY), "0", "0"),
        (("--from", START + 400 * DAY, "--reference", f"..{START + 400 * DAY}"), "0", r"1,\d{3}"),
        (("--from", START, "--reference", f"..{START - DAY}"), r"1,\d{3}", "0"),
    ],
    ids=["nothing", "nothing came", "nothing before"],
)
def test_a_build_does_not_pass_on_nothing(site: Site, options: tuple[object, ...], now: str, before: str) -> None:
    done = told(site, *options, "--json", "--fail-above", 1e6, code=1)
    assert done.json()["actions"]["psi"] is None
    said = (
        f"whether actions have moved is unknown: {now} records are held against {before} of the reference, and --fail-above needs {ENOUGH}"
    )
    assert re.match(said, done.err)
    assert done.err.count("\n") == 1
    assert told(site, *options, "--json").json() == done.json(), "which is no fault of whoever doesn't ask"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--metrics-port", 0), "--metrics-file are of use with --every alone"),
        (("--every", 5, "--from", "2026-01-01", "--html", "x.html"), "leave out --from, --html"),
        (("--every", 5, "--no-compare", "--compare"), "leave out --compare"),
        (("--from", "2026-01-01", "--as-of", 5), "--as-of and --compare are of the whole history"),
        (("--reference", "2026-01-01"), "is no period: give FROM..TO"),
        (("--by", "second"), "'second' is not one of"),
        (("--every", "nan"), "is no number"),
    ],
)
def test_options_that_say_nothing_together(options: tuple[object, ...], said: str, tmp_path: Path) -> None:
    assert said in tidemark("report", *options, data=tmp_path, code=2).err


def test_what_can_not_be_told(site: Site, tmp_path: Path) -> None:
    assert "there is nothing to report of" in refused("report", data=tmp_path / "none")
    data = {"data": site.settings.data, "partitions": PARTITIONS}
    assert "holds nothing: it must end after it begins" in refused("report", "--from", START + DAY, "--to", START, **data)
    assert "there is no directory" in refused("report", "--html", tmp_path / "absent" / "x.html", **data)


def test_a_page_that_has_no_place_is_refused_before_the_work(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    PAGE.mkdir()
    with monkeypatch.context() as lazy:
        lazy.setattr(report_command, "gather", None)
        said = refused("report", data=site.settings.data, partitions=PARTITIONS)
    assert f"can't write {PAGE}: it is there, and it is no regular file" in said
    assert told(site, "--json").json()["volume"]["records"] == len(site.records), "without a page nothing needs a place"


def test_for_ever(site: Site, tmp_path: Path) -> None:
    metrics = tmp_path / "report.prom"
    options = ("--every", 1, "--json", "--metrics-port", 0, "--metrics-file", metrics)
    process = start("report", *options, data=site.settings.data, partitions=PARTITIONS)
    try:
        assert process.stderr is not None
        found = re.search(r"metrics at (\S+)", process.stderr.readline())
        assert found
        await_true(metrics.exists, "a round is done")
        with urllib.request.urlopen(found[1], timeout=60) as answer:
            served = answer.read().decode()
        process.send_signal(signal.SIGTERM)
        done = ended(process)
    finally:
        end_all(process)
    for text in (served, metrics.read_text()):
        assert re.search(r"^tidemark_report_actions_psi 0\.\d", text, re.MULTILINE)
        assert re.search(r"^tidemark_report_coverage_reference_ratio\{feature=\"user_action_sequence:length\"\} 0\.\d", text, re.MULTILINE)
    assert done.code == 0
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert lines[0]["psi"] > 0
    assert set(lines[0]["until"]) == {"actions", "served", "examples"}


def test_the_document_names_options_and_metrics() -> None:
    plain = {"--json", "--metrics-address", "--help", "--as-of", "--compare", "--out", "--data", "--config"}
    options = {option for parameter in report.params if isinstance(parameter, click.Option) for option in parameter.opts} - plain
    assert {option for option in options if option not in DOCS} == set()
    told = Metrics()
    told.observe(Round({}, {}, {}))
    names = [
        family.name + "_total" * (family.type == "counter") for family in told.registry.collect() if family.name.startswith("tidemark_")
    ]
    assert len(names) > 10
    assert [name for name in names if f"`{name}" not in DOCS] == []
    assert f"Below **{MOVING}**" in DOCS
    assert f"from **{MOVED}** on" in DOCS
    for number in (
        f"fewer than {ENOUGH} records",
        f"over {MOST} that hold",
        f"than {MOST_TOPICS} of a stretch",
        f"the {TOPICS} topics with most",
    ):
        assert number in DOCS
