"""docker-compose.yml as data: which of our commands it runs, where they answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from tests.processes import ROOT

COMPOSE = ROOT / "docker-compose.yml"


@dataclass(frozen=True)
class Service:
    """One that runs a command of ours.

    Attributes
    ----------
    port : int or None
        Where it answers to Prometheus.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    port: int | None
    content: dict[str, Any]


def content() -> dict[str, Any]:
    """The file."""
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text("utf-8"))
    return loaded


def ours() -> list[Service]:
    """All that run our image."""
    return [
        Service(name, service["command"], service["environment"], port_of(service["command"]), service)
        for name, service in content()["services"].items()
        if service["image"].startswith("tidemark")
    ]


def port_of(command: list[str]) -> int | None:
    """Where a command serves metrics."""
    for option in ("--metrics-port", "--port"):
        if option in command:
            return int(command[command.index(option) + 1])
    return None


def asked(service: Service) -> tuple[int, str]:
    """Port and path that its health check asks."""
    found = re.search(r"http://127\.0\.0\.1:(\d+)(/[a-z]+)'", service.content["healthcheck"]["test"][-1])
    assert found, service.name
    return int(found[1]), found[2]
