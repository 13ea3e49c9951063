"""What is exported is what docs/metrics.md says, named as Prometheus asks, and true."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from flows.archive.metrics import archive_metrics
from flows.outputs import ACTIONS, REVISITS
from flows.run.main_job import hear, tasks_of
from flows.run.metrics import Metrics
from flows.settings import Settings
from tests.ops.exported import Metric, exported, table
from tests.processes import ROOT, Simulated, await_true, ended, settings_of, start, tidemark

TOLD = re.compile(r"\btidemark_(?:flow|archive|online|checkpoint|audit|learner|retrain|serving|served|skew|report)_[a-z_]*[a-z]")
DOCUMENT = ROOT / "docs/metrics.md"


@pytest.fixture(scope="module")
def metrics() -> list[Metric]:
    return exported()


def values(registry: CollectorRegistry) -> dict[tuple[str, tuple[str, ...]], float]:
    """(name, label values) to value, as a scrape has them."""
    return parsed(generate_latest(registry).decode())


def parsed(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    families = text_string_to_metric_families(text)
    return {(sample.name, tuple(sample.labels.values())): sample.value for family in families for sample in family.samples}


def test_the_document_says_what_is_exported(metrics: list[Metric]) -> None:
    documented = [line for line in DOCUMENT.read_text("utf-8").splitlines() if line.startswith("| ") and not line.startswith("| name")]
    assert documented == table(metrics).splitlines()[2:], "docs/metrics.md: `python -m tests.ops.exported` prints the table as it should be"


def test_every_registry_is_asked() -> None:
    """A module that makes one and isn't asked would export what nobody has documented."""
    packages = ("flows", "feature_repo", "online_model", "replay")
    files = [path for package in packages for path in (ROOT / package).rglob("*.py") if "new_registry()" in path.read_text("utf-8")]
    making = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files} - {"flows.metrics_http"}
    asked = set(re.findall(r"^from (\S+\.metrics) import", (ROOT / "tests/ops/exported.py").read_text("utf-8"), re.MULTILINE))
    assert making
    assert making == asked


def test_documents_name_only_what_is_exported(metrics: list[Metric]) -> None:
    names = {name for one in metrics for name in (one.name, one.name.removesuffix("_total"), *one.series)}
    told = {}
    for path in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]:
        for name in TOLD.findall(path.read_text("utf-8")):
            told[name] = path.name
    assert len(told) > len(metrics) / 2
    # A name that is cut short with an asterisk or braces stands for several.
    assert {name: path for name, path in told.items() if not any(known.startswith(name) for known in names)} == {}


@pytest.mark.promtool
def test_names_and_units_are_as_prometheus_asks(metrics: list[Metric]) -> None:
    lines = []
    for one in metrics:
        lines += [f"# HELP {one.name} {one.meaning}", f"# TYPE {one.name} {one.kind}"]
        for name, of in one.series.items():
            labels = ",".join(f'{label}="{"+Inf" if label == "le" else "x"}"' for label in sorted(of))
            lines.append(f"{name}{{{labels}}} 1")
    done = subprocess.run(["promtool", "check", "metrics"], input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    bad = subprocess.run(["promtool", "check", "metrics"], input="# TYPE a counter\na 1\n", capture_output=True, text=True, check=False)
    assert bad.returncode != 0, "a check that lets anything pass"


def test_a_run_tells_where_its_tasks_stand(simulated: Simulated) -> None:
    status = json.loads(tidemark("status", "--json", data=simulated.run).out)
    told = values(Metrics(settings_of(simulated.run), tasks_of("all")).registry)
    assert status["counts"]["records"] > 3_000
    for task in status["tasks"]:
        labels = (task["flow"], str(task["partition"]))
        assert told["tidemark_flow_position", labels] == task["position"] > 0
        assert told["tidemark_flow_lag_records", labels] == task["lag"] == 0
        assert told["tidemark_flow_watermark_timestamp_seconds", labels] == task["watermark"] / 1000
        size = sum(path.stat().st_size for path in (simulated.run / "state" / task["flow"] / f"{task['partition']:04d}").iterdir())
        assert told["tidemark_flow_state_bytes", labels] == size > 0
    for name, n in status["counts"].items():
        kind, _, of = name.partition(".")
        families = {"action": "tidemark_flow_actions_total", "deadletter": "tidemark_flow_deadletters_total"}
        key = (families[kind], (of,)) if of else ("tidemark_flow_records_total", (ACTIONS, name))
        assert told[key] == n, name
    assert told["tidemark_flow_deadletters_total", ("unknown_action",)] > 0
    assert told["tidemark_flow_deadletters_total", ("not_json",)] == status["counts"].get("deadletter.not_json", 0), "from 0 on"


def test_a_worker_tells_what_its_tasks_remember(simulated: Simulated) -> None:
    metrics = Metrics(settings_of(simulated.run), tasks_of("all"))
    for flow, partition, working_set in ((ACTIONS, 3, 17), (ACTIONS, 3, 19), (ACTIONS, 0, 5)):
        metrics.applied({"flow": flow, "partition": partition, "working_set": working_set})
    told = values(metrics.registry)
    assert {labels: value for (name, labels), value in told.items() if name == "tidemark_flow_working_set_bytes"} == {
        (ACTIONS, "3"): 19,
        (ACTIONS, "0"): 5,
    }


def test_before_the_first_commit_there_is_no_task(simulated: Simulated) -> None:
    told = values(Metrics(settings_of(simulated.ingested), tasks_of(ACTIONS)).registry)
    assert not any(name == "tidemark_flow_position" for name, _ in told)
    assert told["tidemark_flow_deadletters_total", ("not_json",)] == 0


def test_lag_is_what_the_log_has_and_state_lacks(simulated: Simulated, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(simulated.run, data)
    settings = settings_of(data)
    metrics = Metrics(settings, tasks_of(ACTIONS))
    before = values(metrics.registry)
    events = tmp_path / "more.jsonl"
    events.write_text("".join(f'{{"user_id":{user},"pin_id":1,"action":"save","event_time":1,"event_id":{user}}}\n' for user in range(100)))
    tidemark("ingest", events, data=data)
    after = values(metrics.registry)
    lags = [after["tidemark_flow_lag_records", (ACTIONS, str(p))] for p in range(settings.partitions)]
    assert [before["tidemark_flow_lag_records", (ACTIONS, str(p))] for p in range(settings.partitions)] == [0] * settings.partitions
    assert sum(lags) == 100
    assert min(lags) > 0


def test_what_cannot_be_read_is_counted_and_ends_no_scrape(simulated: Simulated, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(simulated.run, data)
    metrics = Metrics(settings_of(data), tasks_of(ACTIONS))
    assert values(metrics.registry)["tidemark_flow_read_errors_total", ()] == 0
    damaged = data / "state" / ACTIONS / "0001"
    for path in damaged.iterdir():
        if path.is_file() and path.name != "LOCK":
            path.write_bytes(b"no longer what it was")
    told = values(metrics.registry)
    told = values(metrics.registry)  # a counter that rises while it is asked is told the next time
    assert told["tidemark_flow_read_errors_total", ()] > 0
    assert ("tidemark_flow_position", (ACTIONS, "1")) not in told
    assert told["tidemark_flow_position", (ACTIONS, "2")] > 0


def test_commits_and_tasks_aside(tmp_path: Path) -> None:
    metrics = Metrics(Settings(data=tmp_path), tasks_of("all"))
    metrics.commit({"flow": ACTIONS, "commit_s": 0.02, "arrived": 5_000}, at=7.0)
    metrics.commit({"flow": REVISITS, "commit_s": 40.0, "arrived": None}, at=7.0)
    aside: dict[str, str] = {}
    hear({"aside": f"{ACTIONS}/3", "why": "damage", "line": ""}, aside, metrics)
    hear({"aside": f"{ACTIONS}/4", "why": "damage", "line": ""}, aside, metrics)
    hear({"back": f"{ACTIONS}/4", "line": ""}, aside, metrics)
    told = values(metrics.registry)
    assert told["tidemark_flow_commit_seconds_sum", (ACTIONS,)] == 0.02
    assert told["tidemark_flow_commit_seconds_bucket", (REVISITS, "30.0")] == 0
    assert told["tidemark_flow_freshness_seconds_sum", (ACTIONS,)] == 2.0
    assert told["tidemark_flow_freshness_seconds_count", (REVISITS,)] == 0
    assert told["tidemark_flow_tasks_aside", (ACTIONS,)] == 1
    assert told["tidemark_flow_tasks_aside", (REVISITS,)] == 0


@pytest.mark.parametrize("workers", [2])
def test_a_run_that_goes_on_serves_them(simulated: Simulated, tmp_path: Path, workers: int) -> None:
    """Workers tell of each commit, and a record that arrives now is fresh when it is committed."""
    data = simulated.copy(tmp_path / "data")
    process = start("run", "--follow", "--workers", workers, "--metrics-port", 0, data=data)
    assert process.stderr is not None
    line = ""
    while not (found := re.search(r"metrics at (http://127\.0\.0\.1:\d+/metrics)", line)):
        line = process.stderr.readline()
        assert line, "it ended"

    def told() -> dict[tuple[str, tuple[str, ...]], float]:
        with urllib.request.urlopen(found[1], timeout=60) as answer:
            return parsed(answer.read().decode())

    partitions = range(settings_of(data).partitions)
    await_true(
        lambda: all(told().get(("tidemark_flow_lag_records", (flow, str(p))), 1) == 0 for flow in (ACTIONS, REVISITS) for p in partitions),
        "both flows have caught up",
    )
    before, began = told(), time.time()
    assert before["tidemark_flow_commit_seconds_count", (ACTIONS,)] >= len(partitions)
    assert before["tidemark_flow_commit_seconds_count", (REVISITS,)] >= 1
    event = {"user_id": 1, "pin_id": 1, "action": "save", "event_time": int(began * 1000), "event_id": 1}
    (tmp_path / "now.jsonl").write_text(json.dumps(event) + "\n")
    tidemark("ingest", tmp_path / "now.jsonl", data=data)
    name, labels = "tidemark_flow_freshness_seconds", (ACTIONS,)
    await_true(lambda: told()[f"{name}_count", labels] == before[f"{name}_count", labels] + 1, "the event is committed")
    fresh = told()[f"{name}_sum", labels] - before[f"{name}_sum", labels]
    assert 0 <= fresh <= time.time() - began
    process.send_signal(signal.SIGTERM)
    assert ended(process).code == 0


@pytest.mark.parametrize(
    ("arguments", "with_"),
    [(("online", "sync"), "--follow"), (("replay", "checkpoint"), "--every")],
)
def test_a_port_is_of_use_where_a_command_goes_on(arguments: tuple[str, ...], with_: str, tmp_path: Path) -> None:
    done = tidemark(*arguments, "--metrics-port", 0, data=tmp_path, code=2)
    assert f"--metrics-port is of use with {with_} alone" in done.err


def test_checkpoints_are_made_again_and_again(simulated: Simulated, tmp_path: Path) -> None:
    """Round after round: the second one writes nothing, and a place that is gone is counted and tried again."""
    process = start("replay", "checkpoint", "--every", 1, "--metrics-port", 0, data=simulated.run, checkpoints=tmp_path / "made")
    assert process.stderr is not None
    found = re.search(r"http://\S+", process.stderr.readline())
    assert found

    def told() -> dict[tuple[str, tuple[str, ...]], float]:
        with urllib.request.urlopen(found[0], timeout=60) as answer:
            return parsed(answer.read().decode())

    task = (REVISITS, "3")
    await_true(lambda: told().get(("tidemark_checkpoint_position", task), 0) > 0, "the first round is done")
    first = told()
    await_true(
        lambda: (
            told()["tidemark_checkpoint_checked_timestamp_seconds", task] > first["tidemark_checkpoint_checked_timestamp_seconds", task]
        ),
        "another round is done",
    )
    assert told()["tidemark_checkpoint_written_bytes_total", task] == first["tidemark_checkpoint_written_bytes_total", task] > 0
    assert told()["tidemark_checkpoint_failures_total", task] == 0
    process.send_signal(signal.SIGTERM)
    assert ended(process).code == 0
    assert (tmp_path / "made").is_dir()


def test_an_archiver_tells_what_waits(simulated: Simulated, tmp_path: Path) -> None:
    data = simulated.copy(tmp_path / "data")
    before = values(archive_metrics(settings_of(data), [ACTIONS]))
    waiting = sum(value for (name, _), value in before.items() if name == "tidemark_archive_lag_records")
    assert waiting == simulated.records
    tidemark("archive", "run", "--log", ACTIONS, data=data)
    after = values(archive_metrics(settings_of(data), [ACTIONS]))
    assert sum(value for (name, _), value in after.items() if name == "tidemark_archive_lag_records") == 0
    assert sum(value for (name, _), value in after.items() if name == "tidemark_archive_position") == waiting
    assert sum(value for (name, _), value in after.items() if name == "tidemark_archive_missing_records") == 0
