"""`tidemark serve`, as the front door has it: the server of features and rankings, with the console beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from online_model.serving.command import serve as serve_alone

if TYPE_CHECKING:
    from online_model.serving.service import Service
    from replay.console.console import Console

_CONSOLE = click.Option(
    ["--console/--no-console"], default=True, show_default=True, help="Serve a page at /console, too, that says how all parts are."
)


def _serve(console: bool, **given: Any) -> None:
    assert serve_alone.callback is not None
    serve_alone.callback(**given, make_beside=_console if console else None)


def _console(service: Service) -> Console:
    # Not before it is needed: --help shall not wait for what it reads.
    from replay.console.console import Console

    return Console(service)


serve = click.Command(
    "serve",
    callback=_serve,
    params=[*serve_alone.params, _CONSOLE],
    help=serve_alone.help,
    epilog=serve_alone.epilog,
)
"""Serving itself knows nothing of replays and checkpoints, of which the console tells; so it is told here what it has beside it."""
