"""The commands of docker-compose.yml as processes, against a real Kafka, Redis and Prometheus: `make stack-test`.

Ports and addresses alone are others than in the file. An alert's `for` is cut short; the rest of rules and configuration is as it is deployed.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.run.warm_up import warm_up
from tests.kafka.broker import Broker
from tests.online.redis_server import RedisServer
from tests.ops.compose import Service, asked, ours
from tests.ops.queries import ALERTS, panels
from tests.ports import free_ports
from tests.processes import ROOT, await_true, end_all, environment

USERS = 60
# Ten processes start at once, on a machine that may have other things to do.
STARTS_S, STOPS_S = 1_200.0, 120.0


def got(url: str) -> Any:
    """What an URL answers; None while nobody does."""
    with contextlib.suppress(OSError, ValueError):
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)
    return None


class Stack:
    """Every command of ours, as docker-compose.yml has it, with other addresses."""

    def __init__(self, directory: Path, kafka: str, redis: str) -> None:
        self._directory = directory
        self.services = {service.name: service for service in ours()}
        with_ports = [service for service in self.services.values() if service.port is not None]
        self.ports = dict(zip((service.name for service in with_ports), free_ports(len(with_ports)), strict=True))
        known = {"TIDEMARK_DATA": str(directory / "data"), "TIDEMARK_KAFKA": kafka, "TIDEMARK_ONLINE": redis}
        self._settings = {**self.services["flows"].environment, **known}
        self.running: dict[str, subprocess.Popen[str]] = {}
        (directory / "data").mkdir()

    def command(self, service: Service) -> list[str]:
        """As in the file, but for the port, and at loopback."""
        others = {str(service.port): str(self.ports.get(service.name)), "0.0.0.0": "127.0.0.1"}
        return [others.get(word, word) for word in service.command]

    def call(self, *arguments: object) -> str:
        """Run a command to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "tidemark", *map(str, arguments)], env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    def start(self, name: str) -> None:
        with (self._directory / f"{name}.log").open("a") as log:
            command = [sys.executable, "-m", "tidemark", *self.command(self.services[name])]
            self.running[name] = subprocess.Popen(
                command,
                env=self._environment,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def said(self, name: str) -> str:
        return (self._directory / f"{name}.log").read_text(errors="replace")

    def healthy(self, name: str) -> bool:
        """What the health check of the service asks."""
        assert self.running[name].poll() is None, f"{name} has ended: {self.said(name)[-2000:]}"
        with contextlib.suppress(OSError), urllib.request.urlopen(self.url(name) + asked(self.services[name])[1], timeout=30) as answer:
            return bool(answer.status == 200)
        return False

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def stop(self, name: str, number: int = signal.SIGTERM) -> int:
        process = self.running.pop(name)
        process.send_signal(number)
        return process.wait(STOPS_S)

    def end(self) -> None:
        """Whatever is left."""
        for process in self.running.values():
            end_all(process)
            process.wait()

    @property
    def _environment(self) -> dict[str, str]:
        return {**environment(), **self._settings}


class Prometheus:
    """Prometheus under the deployed configuration, asking more often."""

    def __init__(self, directory: Path, stack: Stack) -> None:
        directory.mkdir()
        config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text("utf-8"))
        config["global"] = {"scrape_interval": "5s", "scrape_timeout": "5s", "evaluation_interval": "1s"}
        [port] = free_ports(1)
        for job in config["scrape_configs"]:
            name = job["job_name"]
            job["static_configs"] = [{"targets": [f"127.0.0.1:{stack.ports.get(name, port)}"]}]
        # The learner has nothing to do before there is a base; see docs/deploy.md.
        config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] != "learner"]
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        (directory / "alerts.yml").write_text(re.sub(r"for: \w+", "for: 10s", ALERTS.read_text("utf-8")))
        self.url = f"http://127.0.0.1:{port}"
        options = [f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'data'}"]
        with (directory / "log").open("w") as log:
            self._process = subprocess.Popen(
                ["prometheus", *options, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def query(self, query: str) -> list[dict[str, Any]]:
        answer = got(f"{self.url}/api/v1/query?query={urllib.parse.quote(query)}")
        if answer is None:
            return []
        assert answer["status"] == "success", f"{query}: {answer}"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def firing(self, alert: str) -> set[str]:
        """The jobs for which an alert fires."""
        return {one["metric"].get("job", "") for one in self.query(f'ALERTS{{alertname="{alert}",alertstate="firing"}}')}

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(STOPS_S)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    # Or every process would compile the loops by itself.
    warm_up(print)
    with contextlib.ExitStack() as ends:
        broker = Broker(tmp_path / "kafka")
        ends.callback(broker.stop)
        redis = RedisServer(tmp_path)
        ends.callback(redis.stop)
        running = Stack(tmp_path, broker.servers, redis.url)
        ends.callback(running.end)
        yield running


def events(path: Path) -> Path:
    """A few actions of each user, now."""
    now = int(time.time() * 1000)
    actions = ("impression", "closeup", "save", "click")
    rows = [
        (user, pin, action, now - 5_000 + i)
        for user in range(USERS)
        for i, (pin, action) in enumerate(zip(range(7, 11), actions, strict=True))
    ]
    names = ("user_id", "pin_id", "action", "event_time")
    lines = [json.dumps(dict(zip(names, row, strict=True)) | {"event_id": i, "surface": "homefeed"}) for i, row in enumerate(rows)]
    path.write_text("\n".join([*lines, "no event"]) + "\n")
    return path


@pytest.mark.soak
@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.promtool
@pytest.mark.timeout(3600)
def test_the_stack_serves_is_watched_and_tells_of_a_fault(stack: Stack, tmp_path: Path) -> None:
    stack.call(*stack.command(stack.services["topics"]))
    stack.call("ingest", events(tmp_path / "events.jsonl"))
    waiting = [name for name in stack.services if name not in ("topics", "learner")]
    for name in waiting:
        stack.start(name)
    stack.start("learner")
    await_within(lambda: all(stack.healthy(name) for name in waiting), STARTS_S, "every service is healthy")
    assert stack.running.pop("learner").wait(STARTS_S) == 1
    assert "no model is served yet" in stack.said("learner")

    row = f"{stack.url('serving')}/v1/features/user/7"
    await_within(lambda: {one["pin_id"] for one in sequence(got(row))} == {8, 9, 10}, STARTS_S, "what was ingested is served")
    prometheus = Prometheus(tmp_path / "prometheus", stack)
    try:
        jobs = {name for name in stack.ports if name != "learner"} | {"prometheus"}
        await_true(lambda: {one["metric"]["job"] for one in prometheus.query("up == 1")} == jobs, "all are scraped")
        records = 'sum(tidemark_flow_records_total{flow="actions", outcome="records"})'
        await_true(lambda: value(prometheus.query(records)) == 4 * USERS + 1, "records are counted")
        assert value(prometheus.query("sum(tidemark_flow_deadletters_total)")) == 1
        assert value(prometheus.query('sum(tidemark_flow_lag_records{flow="actions"})')) == 0
        for _, query in panels():
            prometheus.query(query)
        assert not prometheus.firing("TidemarkDown")

        stack.stop("serving", signal.SIGKILL)
        await_true(lambda: prometheus.firing("TidemarkDown") == {"serving"}, "the alert fires")
        stack.start("serving")
        await_within(lambda: stack.healthy("serving"), STARTS_S, "serving is back")
        await_true(lambda: not prometheus.firing("TidemarkDown"), "the alert clears")
        assert {one["pin_id"] for one in sequence(got(row))} == {8, 9, 10}
    finally:
        prometheus.stop()
    ends = {name: stack.stop(name) for name in list(stack.running)}
    assert ends == dict.fromkeys(ends, 0), {name: stack.said(name)[-500:] for name, code in ends.items() if code}


def await_within(condition: Any, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain until {what}"
        time.sleep(0.5)


def sequence(answer: Any) -> list[Any]:
    """A user's, as served."""
    return list((answer or {}).get("sequence", ()))


def value(found: list[dict[str, Any]]) -> float | None:
    return float(found[0]["value"][1]) if found else None
