"""Prometheus metrics of a long-running command, over HTTP in a thread of its own or in a file for a node exporter. It never ends the command."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics, start_http_server, write_to_textfile

from flows.errors import InputError, SettingsError
from flows.replaceable import refuse_special
from flows.settings import Settings

# Whoever asks waits no longer for brokers that are away: what was known stands until they are back.
_PATIENCE_MS = 1_000


def scraped(settings: Settings) -> Settings:
    """The settings to read logs under while somebody waits for metrics."""
    return dataclasses.replace(settings, kafka_patience_ms=min(settings.kafka_patience_ms, _PATIENCE_MS))


def new_registry() -> CollectorRegistry:
    """A registry with nothing but what the system says of the process."""
    # A series more for each counter and histogram, that says when it was made here.
    disable_created_metrics()
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


def serve_metrics(registry: CollectorRegistry, address: str, port: int) -> int:
    """Serve them in a thread; gives the port, which the system picks for 0.

    Raises
    ------
    SettingsError
        The port is taken, or the address is none of this machine's.
    """
    try:
        server, _ = start_http_server(port, address, registry)
    except OSError as error:
        raise SettingsError(
            f"metrics can't be served at {address}:{port}: {error.strerror or error}; give another --metrics-port"
        ) from error
    return int(server.server_port)


def write_metrics(registry: CollectorRegistry, path: Path) -> None:
    """Write them to a file that is replaced when the new one is whole.

    Raises
    ------
    InputError
        It can't be written.
    """
    refuse_special(path)
    try:
        write_to_textfile(str(path), registry)
    except OSError as error:
        raise InputError(f"can't write metrics to {path}: {error.strerror or error}; name another --metrics-file") from error
