"""`tidemark serve`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.errors import TidemarkError
from flows.settings import Settings

if TYPE_CHECKING:
    # Not before it is needed: --help shall not wait for what serves.
    from online_model.serving.beside import MakeBeside


@click.command(epilog="Example: tidemark serve --port 8080 --on-store-error defaults")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 for all.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8080, show_default=True, help="Port; 0: one that is free.")
@click.option(
    "--on-store-error",
    type=click.Choice(["error", "defaults"]),
    default="error",
    show_default=True,
    help="What a request gets that the store does not answer: status 503, or empty sequences and zeros with status DEFAULTED.",
)
@click.option(
    "--timeout", type=click.FloatRange(0.01, 600), default=1.0, show_default=True, metavar="SECONDS", help="How long a request waits."
)
@click.option(
    "--past-timeout",
    type=click.FloatRange(0.01, 3600),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="The same with as_of: a time that state doesn't reach back to is read from the log.",
)
@click.option("--max-entities", type=click.IntRange(1, 10_000), default=2_000, show_default=True, help="Of one request.")
@click.option(
    "--max-waiting", type=click.IntRange(1, 100_000), default=256, show_default=True, help="Requests that may wait for the store at once."
)
@click.option(
    "--require-log/--drop-from-log",
    default=False,
    show_default=True,
    help="Where the log of what is served has no room: serve nothing (503), or serve, and drop and count the rows.",
)
@click.option(
    "--log-queue-mb", type=click.IntRange(1, 65_536), default=64, show_default=True, help="Memory for rows that are not durable yet."
)
@click.option(
    "--explore",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    metavar="SHARE",
    help="Of ranked slots, so many get a candidate by chance; the request's ID decides, and propensities are kept.",
)
@click.option("--model-threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="That a model computes with.")
@click.option(
    "--model-timeout",
    type=click.FloatRange(0.01, 600),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a request waits for its scores.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Answer only who sends the token that FILE holds, as 'Authorization: Bearer TOKEN'; without it that of TIDEMARK_TOKEN, if that is set.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object when it takes requests, and one at the end.")
@click.pass_obj
def serve(
    settings: Settings,
    host: str,
    port: int,
    on_store_error: str,
    timeout: float,
    past_timeout: float,
    max_entities: int,
    max_waiting: int,
    require_log: bool,
    log_queue_mb: int,
    explore: float,
    model_threads: int,
    model_timeout: float,
    token_file: Path | None,
    as_json: bool,
    make_beside: MakeBeside | None = None,
) -> None:
    """Serve features and rankings over HTTP, from task state or, with the setting online, from Redis.

    GET /v1/features/user/ID, /pin/ID, /topic/NAME; POST /v1/features for many at once; POST /v1/rank by the model that is published (`tidemark
    models publish`); /healthz, /readyz, /metrics; /docs says it all, with examples. Each answer goes to the log 'served' with its values and
    positions. Ctrl-C and SIGTERM end it: requests under way are answered, what was served is made durable, exit 0.
    """
    # Not before it is needed: --help shall not wait for what serves.
    from online_model.serving.options import OnStoreError, Options
    from online_model.serving.server import bound
    from online_model.serving.server import serve as serve_until_asked_to_stop
    from online_model.serving.service import Service
    from online_model.serving.token import Token

    options = Options(
        OnStoreError(on_store_error),
        timeout,
        past_timeout,
        max_entities,
        max_waiting,
        require_log,
        log_queue_mb << 20,
        explore=explore,
        model_threads=model_threads,
        model_timeout_s=model_timeout,
        token=Token.given(token_file, os.environ),
    )

    def ready(url: str) -> None:
        click.echo(json.dumps({"url": url}) if as_json else f"serving at {url} (docs: {url}/docs); Ctrl-C ends it")

    listening = bound(host, port)
    service = Service(settings, options)
    lost = serve_until_asked_to_stop(service, listening, ready, make_beside(service) if make_beside is not None else None)
    kept = service.log.kept
    if as_json:
        click.echo(json.dumps({"kept_rows": kept, "lost_rows": lost}))
    if lost:
        raise TidemarkError(
            f"{lost} rows that were served are not in log 'served' ({service.log.why_lost}); {kept} are, "
            "and the metric tidemark_served_log_dropped_total has told why"
        )
