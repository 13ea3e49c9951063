"""`--metrics-port` and `--metrics-address`, as every command that goes on and on takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click
from prometheus_client import CollectorRegistry

from flows.metrics_http import serve_metrics

F = TypeVar("F", bound=Callable[..., object])


def metrics_options(when: str = "") -> Callable[[F], F]:
    """Give a command both options.

    Parameters
    ----------
    when : str
        The option without which they are of no use.
    """
    text = f"With {when}: serve Prometheus metrics; 0 picks a port." if when else "Serve Prometheus metrics; 0 picks a port."

    def give(command: F) -> F:
        address = click.option("--metrics-address", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where.")(command)
        return click.option("--metrics-port", type=click.IntRange(0, 65_535), metavar="PORT", help=text)(address)

    return give


def serve_if_asked(registry: CollectorRegistry, address: str, port: int | None, say: Callable[[str], None]) -> None:
    """Serve metrics where a port was given, and say where; as `serve_metrics`."""
    if port is not None:
        say(f"metrics at http://{address}:{serve_metrics(registry, address, port)}/metrics")
