"""Every command of docker-compose.yml as a process, with other ports and addresses; and Prometheus under the deployed configuration."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import yaml

from tests.ops.compose import Service, asked, ours
from tests.ops.queries import ALERTS
from tests.ports import free_ports
from tests.processes import ROOT, end_all, environment

STOPS_S = 120.0


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
    """Every command of ours, as docker-compose.yml has it, with other addresses.

    Parameters
    ----------
    directory : Path
        For the data directory and what processes say.
    kafka, redis : str
        Where those are.
    settings : mapping of str to str, optional
        Environment variables on top of the file's.
    options : mapping of str to mapping, optional
        By service, options of its command that have another value than in the file.
    """

    def __init__(
        self,
        directory: Path,
        kafka: str,
        redis: str,
        settings: Mapping[str, str] | None = None,
        options: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self._directory = directory
        self._options = options or {}
        self.services = {service.name: service for service in ours()}
        with_ports = [service for service in self.services.values() if service.port is not None]
        self.ports = dict(zip((service.name for service in with_ports), free_ports(len(with_ports)), strict=True))
        known = {"TIDEMARK_DATA": str(directory / "data"), "TIDEMARK_KAFKA": kafka, "TIDEMARK_ONLINE": redis}
        self.settings = {**self.services["flows"].environment, **known, **(settings or {})}
        self.running: dict[str, subprocess.Popen[str]] = {}
        (directory / "data").mkdir()

    def command(self, service: Service) -> list[str]:
        """As in the file, but for the port, and at loopback."""
        others = {str(service.port): str(self.ports.get(service.name)), "0.0.0.0": "127.0.0.1"}
        words = [others.get(word, word) for word in service.command]
        for option, value in self._options.get(service.name, {}).items():
            words[words.index(option) + 1] = value
        return words

    def call(self, *arguments: object) -> str:
        """Run a command to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "tidemark", *map(str, arguments)], env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    def start(self, name: str, room: int = 0) -> None:
        """Start a service; `room`: bytes to which a file of its may grow, 0 for no limit."""
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
                preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))) if room else None,
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
        return {**environment(), **self.settings}


class Prometheus:
    """Prometheus under the deployed configuration, asking more often.

    Parameters
    ----------
    directory : Path
    stack : Stack
    without : set of str
        Services that are not there.
    rules : str, optional
        Instead of the deployed rules, with what `for` says cut short.
    """

    def __init__(self, directory: Path, stack: Stack, without: Set[str], rules: str | None = None) -> None:
        directory.mkdir()
        config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text("utf-8"))
        config["global"] = {"scrape_interval": "5s", "scrape_timeout": "5s", "evaluation_interval": "1s"}
        [port] = free_ports(1)
        for job in config["scrape_configs"]:
            name = job["job_name"]
            job["static_configs"] = [{"targets": [f"127.0.0.1:{stack.ports.get(name, port)}"]}]
        config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] not in without]
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        (directory / "alerts.yml").write_text(rules or re.sub(r"for: \w+", "for: 10s", ALERTS.read_text("utf-8")))
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


def await_within(condition: Any, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain until {what}"
        time.sleep(0.5)
