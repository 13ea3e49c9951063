"""`tidemark replay audit`: its exit codes, its rounds, and what it says of them."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from flows import stopping
from flows.errors import LogError
from flows.outputs import REVISITS
from flows.settings import Settings
from flows.state import tables
from replay.audit.audit import Audited, Auditor
from replay.audit.metrics import Metrics
from replay.audit.pace import Pace
from replay.audit.said import PIN
from replay.tasks import TaskName, every
from tests.processes import await_true, ended, front_door, kill, start
from tests.replay.auditing import PARTITIONS, _small, audited, finished, live, plain, rewrite, served, settings

__all__ = ["_small", "finished", "plain", "served", "settings"]


def command(settings: Settings, monkeypatch: pytest.MonkeyPatch, *arguments: object, name: str = "audit", code: int = 0) -> Any:
    given = {"data": settings.data, "partitions": PARTITIONS, "anchor_records": 40}
    done = front_door("replay", name, *arguments, monkeypatch=monkeypatch, code=code, **given)
    return json.loads(done.out) if "--json" in arguments else done


def damaged(settings: Settings) -> tuple[TaskName, int]:
    task = TaskName(REVISITS, 1)
    rows, at = live(settings, task, tables.REVISITS)
    rows[at, -1] += 1
    rewrite(settings, task, tables.REVISITS, rows)
    return task, int(rows[at, 0])


def test_exit_codes_and_the_way_back(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    told = command(settings, monkeypatch, "--json", "--seed", 5)
    assert (told["seed"], told["sample"], told["mismatches"]) == (5, 1000, [])
    assert {row["task"] for row in told["tasks"]} == {str(task) for task in every(settings)}
    assert told["records_read"] > 0
    task, pin = damaged(settings)
    said = command(settings, monkeypatch, "--sample", "all", "--seed", 9, code=1).out
    position = audited(settings)[str(task)].position
    assert f"{task}, {PIN} {pin}, revisits, at position {position}: state has 1 row that the log doesn't lead to, and lacks 1" in said
    assert f"tidemark replay restore --task {task}" in said
    assert "--seed 9" in said
    assert "1 mismatch" in said.splitlines()[-1]
    told = command(settings, monkeypatch, "--sample", "all", "--json", code=1)
    [found] = told["mismatches"]
    assert (found["task"], found["entity"], found["table"], found["position"]) == (str(task), f"{PIN} {pin}", "revisits", position)
    assert found["state"][0]["weight"] == found["log"][0]["weight"] + 1
    assert found["remedy"].startswith(f"tidemark replay restore --task {task}")
    assert command(settings, monkeypatch, "--task", "actions", "--json")["mismatches"] == []
    command(settings, monkeypatch, "--task", str(task), "--json", name="restore")
    assert command(settings, monkeypatch, "--sample", "all", "--json")["mismatches"] == []
    command(settings, monkeypatch, name="verify")


def test_a_dry_run_reads_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged(settings)
    with mock.patch("replay.commands.audit.Auditor.audit", side_effect=AssertionError):
        plan = command(settings, monkeypatch, "--dry-run", "--json")
    assert plan["records_to_read"] == command(settings, monkeypatch, "--json", "--sample", "all", code=1)["records_read"]
    assert "would audit 4 tasks" in command(settings, monkeypatch, "--dry-run").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--sample", "0"), "neither a number above 0 nor 'all'"),
        (("--sample", "some"), "neither a number above 0 nor 'all'"),
        (("--metrics-port", "0"), "with --follow alone"),
        (("--cpu-budget", "0"), "0<x<=1"),
        (("--task", "nothing"), "there is no task 'nothing'"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    assert said in command(settings, monkeypatch, *arguments, code=2).err


def scraped(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def following(settings: Settings, *arguments: object) -> tuple[Any, int]:
    """An audit that goes on and on, and the port of its metrics."""
    given = {"partitions": PARTITIONS, "anchor_records": 40}
    process = start("replay", "audit", "--follow", "--metrics-port", 0, *arguments, data=settings.data, **given)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("metrics at http://127.0.0.1:"), line
    return process, int(line.split(":")[-1].split("/")[0])


def rounds(port: int, flow: str, partition: int) -> bool:
    return f'tidemark_audit_position{{flow="{flow}",partition="{partition}"}}' in scraped(port)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_goes_on_until_it_is_told_to_stop(served: Settings, number: int) -> None:
    process, port = following(served, "--sample", "all", "--seed", 1, "--cpu-budget", 1, "--json")
    await_true(lambda: all(rounds(port, task.flow, task.partition) for task in every(served)), "every task is audited")
    told = scraped(port)
    kill(process.pid, number)
    done = ended(process)
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [line["seed"] for line in lines] == list(range(1, len(lines) + 1))
    expected = audited(served)
    for task, one in expected.items():
        flow, partition = task.split("/")
        labels = f'{{flow="{flow}",partition="{partition}"}}'
        assert told[f"tidemark_audit_position{labels}"] == one.position
        assert told[f"tidemark_audit_entities_total{labels}"] % one.entities == 0
        assert told[f"tidemark_audit_entities_total{labels}"] >= one.entities > 0
        assert told[f"tidemark_audit_failures_total{labels}"] == 0
        assert told[f"tidemark_audit_last_completed_timestamp_seconds{labels}"] > 1.7e9
    assert {value for name, value in told.items() if name.startswith("tidemark_audit_mismatches_total{")} == {0}
    assert told["tidemark_audit_cpu_ratio"] > 0


def test_a_stop_does_not_wait_for_the_budget(served: Settings) -> None:
    """What the first step took would be waited off for hours."""
    process, port = following(served, "--cpu-budget", 0.00001)
    await_true(lambda: "tidemark_audit_cpu_ratio" in scraped(port), "metrics are served")
    kill(process.pid, signal.SIGTERM)
    assert ended(process).code == 0


def test_what_it_finds_is_counted_and_ends_it_with_1(served: Settings) -> None:
    task, _ = damaged(served)
    process, port = following(served, "--sample", "all", "--cpu-budget", 1)
    name = f'tidemark_audit_mismatches_total{{flow="{task.flow}",partition="{task.partition}",table="revisits"}}'
    await_true(lambda: scraped(port).get(name, 0) > 0, "the mismatch is counted")
    kill(process.pid, signal.SIGTERM)
    done = ended(process)
    assert done.code == 1


def test_a_round_that_cannot_be_done_is_counted_and_said_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as while a log is being restored: the audit goes on, and what it could not do is in its exit code."""
    turns = iter(["done", "log 'actions' is being restored", "log 'actions' is being restored", "another thing", "done"])
    audited_before = Auditor.audit

    def audit(self: Auditor, tasks: list[TaskName]) -> Iterator[Audited]:
        turn = next(turns)
        for number, one in enumerate(audited_before(self, tasks)):
            if turn != "done" and number:
                raise LogError(turn)
            yield one

    observed: list[Metrics] = []
    monkeypatch.setattr(Auditor, "audit", audit)
    monkeypatch.setattr(stopping, "listen", lambda: None)
    monkeypatch.setattr(Pace, "step", lambda self: None)
    rounds = iter(range(4))
    monkeypatch.setattr(stopping, "wait", lambda seconds: next(rounds, None) is None)

    def noted(pace: Pace) -> Metrics:
        observed.append(Metrics(pace))
        return observed[-1]

    monkeypatch.setattr("replay.commands.audit.Metrics", noted)
    done = command(settings, monkeypatch, "--follow", "--seed", 1, code=1)
    assert done.err.splitlines() == ["not audited: log 'actions' is being restored", "not audited: another thing"]
    assert done.out.count("entities of 4 tasks recomputed") == 2
    [metrics] = observed
    failures = [
        metrics.registry.get_sample_value("tidemark_audit_failures_total", {"flow": task.flow, "partition": str(task.partition)})
        for task in every(settings)
    ]
    assert sorted(failures) == [0, 3, 3, 3], "one task was audited in each of these rounds"


def test_a_port_that_is_taken_is_said(served: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    process, port = following(served, "--cpu-budget", 0.00001)
    monkeypatch.setattr(stopping, "listen", lambda: None)
    assert f"127.0.0.1:{port}" in command(served, monkeypatch, "--follow", "--metrics-port", port, code=2).err
    kill(process.pid)
    process.communicate()
